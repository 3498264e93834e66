"""Attacks on words where the worst text is known: in closed form, or because all were tried by other means."""

import itertools

import pytest
import torch

from sparring.attacks import (
    every_wording,
    hotflip,
    textfooler,
    uniform_noise,
    word_beam,
    word_genetic,
    word_greedy,
)
from sparring.attacks.every_wording import members
from sparring.data.texts import Texts
from sparring.domains.text.opened import beside
from sparring.domains.text.rewritings import typing_errors
from sparring.domains.text.threats import Rewrites
from sparring.goals import Never, Untargeted
from sparring.losses import margin
from sparring.streams import Streams

REVIEWS = Texts(
    "reviews",
    [
        "a gripping thriller with a wonderful leading actress",
        "tedious pointless and badly acted from start to finish",
        "the story never quite comes together although the pictures are splendid",
        "charming funny and over far too soon",
    ],
    [1, 0, 0, 1],
)


def weighted(data, seed):
    """Two classes, apart by the sum of the weights of the words: the worst text replaces the words that gain most."""
    weight = Streams.of(seed, [0]).normal(len(data.words))[0].double()

    def model(z):
        n = z.detach().long()
        if z.dim() == 2:
            lead = weight[n].cumsum(1)[:, -1]
        else:
            lead = beside(z, weight[n[..., 0]].unsqueeze(2), lambda k: weight[k].unsqueeze(-1)).sum((1, 2))
        return torch.stack([-lead, lead], 1)

    return model, weight


def optimum(x, labels, weight, threat):
    """By how much the worst text moves the margin: the `eps` largest gains of single words, where positive."""
    choices = threat.norm.choices(x)
    side = torch.where(labels == 1, -2.0, 2.0).double().unsqueeze(1)
    gain = (side.unsqueeze(2) * (weight[choices] - weight[x.long()].unsqueeze(2))).amax(2)
    return gain.clamp(min=0).topk(min(int(threat.eps), x.shape[1]), 1).values.sum(1)


@pytest.mark.parametrize("eps", [1, 2, 4])
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    ("make", "share"), [(word_greedy, 1), (word_beam, 1), (hotflip, 1), (textfooler, 0.35), (word_genetic, 0.8)]
)
def test_of_sums_of_words_the_worst_text_is_found(make, share, eps, seed):
    data, threat = Rewrites("typos", eps, typing_errors).over(REVIEWS)
    x, _ = data.take(range(len(data)))
    model, weight = weighted(data, seed)
    labels = model(x).argmax(1)
    z = make(threat)(model, x, Never(labels), Streams.of(seed, range(len(x))))
    moved = margin(model(z), Never(labels)) - margin(model(x), Never(labels))
    best = optimum(x, labels, weight, threat)
    assert (moved <= best + 1e-6).all()
    assert moved.sum() >= share * best.sum() - 1e-6


def tried(data, threat, x, model, goal):
    """The worst margin of each row over all texts, one by one."""
    worst = []
    for row in range(len(x)):
        options = [
            sorted({int(n), *c}) for n, c in zip(x[row], threat.norm.choices(x[row : row + 1])[0].tolist(), strict=True)
        ]
        every = (torch.tensor(z) for z in itertools.product(*options))
        some = torch.stack([z for z in every if int((z != x[row]).sum()) <= threat.eps]).to(x.dtype)
        worst.append(margin(model(some), goal[torch.full((len(some),), row)]).max())
    return torch.stack(worst)


def swaps(word):
    return {"a": ["e", "i"], "b": ["d"], "c": ["k", "s", "z"], "d": ["t"]}.get(word, [])


LETTERS = Texts("letters", ["a b c d a", "c c b", "d", "b a d c"], [0, 1, 0, 1])


@pytest.mark.parametrize("eps", [1, 2, 3])
def test_every_text_is_tried_once_and_the_worst_is_kept(eps):
    data, threat = Rewrites("swaps", eps, swaps).over(LETTERS)
    x, _ = data.take(range(len(data)))
    seen = []
    double = Streams.of(7, range(2)).normal(len(data.words), len(data.words)).double()

    def model(z):
        seen.append(z)
        n = z.long()
        return torch.stack([w[n[:, 1:], n[:, :-1]].cumsum(1)[:, -1] for w in double], 1)

    goal = Never(model(x).argmax(1))
    attack = every_wording(threat)
    seen.clear()
    z = attack(model, x, goal, Streams.of(0, range(len(x))))
    assert torch.allclose(margin(model(z), goal), tried(data, threat, x, model, goal))
    assert attack.tried(x).tolist() == [min(eps, 5), min(eps, 3), 1.0 if eps else 0.0, min(eps, 4)] or eps > 1
    beam = word_beam(threat, width=30, each=8, most=100)(model, x, goal, Streams.of(0, range(len(x))))
    assert torch.allclose(margin(model(beam), goal), tried(data, threat, x, model, goal))


def test_the_texts_are_counted_as_they_are_made():
    data, threat = Rewrites("swaps", 3, swaps).over(LETTERS)
    x, _ = data.take(range(len(data)))
    asked = []

    def model(z):
        asked.append(len(z))
        return torch.zeros(len(z), 2)

    for row in range(len(x)):
        asked.clear()
        every_wording(threat)(model, x[row : row + 1], Never(torch.zeros(1, dtype=torch.int64)), Streams.of(0, [row]))
        assert sum(asked) - 1 == int(members(x[row : row + 1], threat).sum())
    assert members(x, threat)[1].tolist() == [7, 15, 9]  # c c b: 3 + 3 + 1; 9 + 3 + 3; 9
    small = every_wording(threat, most=10)
    assert small.tried(x).tolist() == [1, 1, 3, 1]


def test_a_beam_finds_what_takes_two_words_at_once_and_greed_does_not():
    data = Texts("pair", ["x y", "x y"], [0, 0])
    numbered, threat = Rewrites("swaps", 2, lambda word: {"x": ["X", "u"], "y": ["Y", "v"]}.get(word, [])).over(data)
    number = numbered.words.numbers
    both, other, lure_x, lure_y = (number[piece] for piece in ("X", " Y", "u", " v"))
    x, _ = numbered.take([0])

    def model(z):
        n = z.long()
        lure = (
            0.3 * ((n[:, 0] == lure_x) | (n[:, 1] == lure_y)).double()
            - 0.2 * ((n[:, 0] == both) ^ (n[:, 1] == other)).double()
        )
        lead = -1 + lure + 2 * ((n[:, 0] == both) & (n[:, 1] == other)).double()
        return torch.stack([-lead, lead], 1)

    goal, rng = Untargeted(torch.zeros(1, dtype=torch.int64)), Streams.of(0, [0])
    assert not goal.reached(model(word_greedy(threat)(model, x, goal, rng))).any()
    assert goal.reached(model(word_beam(threat)(model, x, goal, rng))).all()
    assert goal.reached(model(every_wording(threat)(model, x, goal, rng))).all()


def test_of_replacements_that_reach_the_goal_textfooler_takes_the_first():
    data = Texts("one", ["good"], [1])
    numbered, threat = Rewrites("swaps", 1, lambda word: ["fine", "bad", "awful"] if word == "good" else []).over(data)
    x, _ = numbered.take([0])
    value = {"good": 1.0, "fine": 0.5, "bad": -0.1, "awful": -5.0, "": 0.0}

    def model(z):
        lead = torch.tensor([value[text] for text in numbered.words.decode(z)])
        return torch.stack([-lead, lead], 1)

    z = textfooler(threat)(model, x, Untargeted(torch.tensor([1])), Streams.of(0, [0]))
    assert numbered.words.decode(z) == ["bad"]


def test_random_rewriting_is_a_control_that_does_less():
    data, threat = Rewrites("typos", 3, typing_errors).over(REVIEWS)
    x, _ = data.take(range(len(data)))
    model, _ = weighted(data, 0)
    goal = Never(model(x).argmax(1))
    blind, best = (
        margin(model(attack(threat)(model, x, goal, Streams.of(0, range(len(x))))), goal).sum()
        for attack in (uniform_noise, word_greedy)
    )
    assert blind < 0.7 * best
