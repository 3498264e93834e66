"""What holds for every attack on words, on every threat that replaces them."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from toy import BUDGET

from sparring.data.texts import Texts
from sparring.domains.text.opened import beside
from sparring.domains.text.threats import Rewrites
from sparring.errors import BadInput
from sparring.goals import Never, Targeted, Untargeted
from sparring.losses import margin
from sparring.registry import members
from sparring.streams import Streams

REWRITINGS = members("rewritings")
ATTACKS = {name: entry for name, entry in members("attacks").items() if set(entry.kinds) & set(REWRITINGS)}
SENTENCES = Texts("toy", ["a b c d e f", "c c b a", "f", "e d", "b f a c d", "", "x a x"], [0, 1, 2, 0, 1, 2, 0])
MORE = {"a": "AÄα", "b": "B", "c": "CΓ", "d": "DΔ", "e": "", "f": "FΦφ"}

every_attack = pytest.mark.parametrize("name", ATTACKS)


def on(eps):
    """The sentences, and a threat on them."""
    return Rewrites("letters", eps, lambda word: MORE.get(word, "")).over(SENTENCES)


def made(name, threat):
    entry = ATTACKS[name]
    known = entry.make.__kwdefaults__ or {}
    return entry.make(threat, **{key: value for key, value in BUDGET.items() if key in known})


class Weights:
    """Three classes: sums of the weights of words, and of those of neighbours, the same to the bit in every batch.

    The weights of a word are its embedding: of opened texts their slopes are told.
    """

    def __init__(self, count, seed):
        draw = Streams.of(seed, range(3))
        self.single = draw.at("single").normal(count)
        self.double = draw.at("double").normal(count)

    def __call__(self, z):
        table = torch.cat([self.single, self.double]).T
        n = z.detach().long()
        e = table[n] if z.dim() == 2 else beside(z, table[n[..., 0]], table.__getitem__)
        one = e[..., :3].double().cumsum(1)[:, -1]
        two = (e[:, 1:, 3:] * e[:, :-1, 3:]).double().cumsum(1)[:, -1]
        return one + 2 * two


@every_attack
@settings(max_examples=15)
@given(eps=st.integers(0, 4), seed=st.integers(0, 2**31), goal=st.sampled_from([Untargeted, Never]))
def test_the_result_is_inside_the_threat_and_never_worse_than_the_input(name, eps, seed, goal):
    data, threat = on(eps)
    x, _ = data.take(range(len(data)))
    model = Weights(len(data.words), seed)
    wanted = goal(model(x).argmax(1))
    z = made(name, threat)(model, x, wanted, Streams.of(seed, range(len(x))))
    assert (z.shape, z.dtype) == (x.shape, x.dtype)
    assert threat.contains(z, x).all()
    assert (margin(model(z), wanted) >= margin(model(x), wanted)).all()
    if eps == 0:
        assert torch.equal(z, x)


@every_attack
@pytest.mark.parametrize("goal", [Untargeted, Never])
def test_the_result_is_the_same_twice_and_rows_do_not_see_each_other(name, goal):
    data, threat = on(3)
    x, _ = data.take(range(len(data)))
    model, attack = Weights(len(data.words), 3), made(name, threat)
    labels = model(x).argmax(1)
    before = x.clone()
    z = attack(model, x, goal(labels), Streams.of(0, range(len(x))))
    assert torch.equal(x, before)
    for company in ([6, 4, 0], [5], [1, 2, 3]):
        rows = torch.tensor(company)
        assert torch.equal(attack(model, x[rows], goal(labels[rows]), Streams.of(0, rows)), z[rows])


@every_attack
def test_rows_that_reach_the_goal_already_are_left_alone_and_no_rows_are_no_matter(name):
    data, threat = on(2)
    x, _ = data.take(range(len(data)))
    model, attack = Weights(len(data.words), 1), made(name, threat)
    goal = Untargeted((model(x).argmax(1) + 1) % 3)
    assert torch.equal(attack(model, x, goal, Streams.of(0, range(len(x)))), x)
    assert attack(model, x[:0], goal[torch.arange(0)], Streams.of(0, [])).shape == x[:0].shape


@every_attack
def test_a_target_is_approached(name):
    data, threat = on(4)
    x, _ = data.take(range(len(data)))
    reached = 0
    for seed in range(8):
        model = Weights(len(data.words), seed)
        goal = Targeted((model(x).argmax(1) + 1) % 3)
        z = made(name, threat)(model, x, goal, Streams.of(0, range(len(x))))
        assert threat.contains(z, x).all()
        reached += int(goal.reached(model(z)).sum())
    assert reached > 3


@every_attack
def test_scores_that_are_no_numbers_break_nothing(name):
    data, threat = on(2)
    x, _ = data.take(range(len(data)))

    def model(z):
        odd = (z.detach().flatten(1) != x[0, 0]).any(1, keepdim=True)
        return torch.full((len(z), 3), torch.nan).where(odd, torch.eye(3)[0]) + 0 * z.flatten(1)[:, :1]

    goal = Untargeted(torch.zeros(len(x), dtype=torch.int64))
    z = made(name, threat)(model, x, goal, Streams.of(0, range(len(x))))
    assert threat.contains(z, x).all()


@every_attack
def test_attacks_with_the_same_settings_are_equal_and_say_what_they_are(name):
    one, other = (made(name, on(2)[1]) for _ in range(2))
    assert one == other
    assert hash(one) == hash(other)
    assert one != made(name, on(3)[1])
    assert "letters" in repr(one)
    assert "tensor" not in repr(one)


def test_attacks_for_pixels_refuse_words_in_a_line():
    _, threat = on(2)
    for name in ("sparse-rs", "square"):
        with pytest.raises(BadInput):
            members("attacks")[name].make(threat)
