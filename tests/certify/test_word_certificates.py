"""Bounds over all wordings: never above what brute force finds, exact where a network is linear in its words."""

import itertools

import pytest
import torch
from torch import nn

import sparring
from sparring.attacks import every_wording
from sparring.certify import alpha_crown, crown, interval
from sparring.certify.wordings import OfWords, Wordings, of_words
from sparring.data.texts import Texts
from sparring.domains.text.networks import bag, convolution
from sparring.domains.text.reader import reading
from sparring.domains.text.threats import Rewrites
from sparring.domains.text.vocabulary import Vocabulary
from sparring.errors import BadInput
from sparring.goals import Never
from sparring.losses import margin
from sparring.streams import Streams

MORE = {"a": "bcx", "b": "ac", "c": "ab", "d": "ey", "e": "d"}
TEXTS = Texts("letters", ["a b c d", "c c b", "d e", "a", "e d c b a f", "f f"], [0, 1, 0, 1, 0, 1])
KNOWN = Vocabulary({letter: number for number, letter in enumerate("abcdef", 2)}, unknown=1, padding=0)


def drawn(make, seed, **sizes):
    network = make(len(KNOWN), seed=seed, **sizes).eval()
    with torch.no_grad():
        network.embedding.weight.mul_(10)
    return network


class Sum(nn.Module):
    """A sum of what each word says."""

    def __init__(self, seed):
        super().__init__()
        torch.manual_seed(seed)
        self.embedding, self.last = nn.Embedding(len(KNOWN), 4), nn.Linear(4, 3)

    def forward(self, ids):
        rows = self.embedding(ids).unsqueeze(1)
        return self.last(nn.functional.avg_pool2d(rows, (rows.shape[2], 1), divisor_override=1).flatten(1))


def met(network, eps):
    """The network as a victim, its graph, embeddings, texts with the labels that it gives them, and the threat."""
    data, threat = Rewrites("letters", eps, lambda word: MORE.get(word, "")).over(TEXTS)
    victim = reading((network, KNOWN), data.words, 2)
    x, _ = data.take(range(len(data)))
    with torch.no_grad():
        labels = victim(x).argmax(1)
    return victim, *of_words(victim, x), x, labels, threat


def worst(victim, x, labels, threat):
    """The least margin of each row, over all wordings."""
    goal = Never(labels)
    z = every_wording(threat)(victim, x, goal, Streams.of(0, range(len(x))))
    with torch.no_grad():
        return -margin(victim(z), goal)


NETWORKS = [
    lambda seed: drawn(bag, seed, width=6, hidden=8),
    lambda seed: drawn(convolution, seed, width=5, filters=6, reach=2),
    lambda seed: drawn(convolution, seed, width=5, filters=4, reach=3),
]


@pytest.mark.parametrize("make", NETWORKS)
@pytest.mark.parametrize("eps", [0, 1, 2, 9])
def test_no_bound_is_above_the_least_margin_and_chosen_slopes_are_no_worse(make, eps):
    for seed in range(4):
        victim, net, vectors, x, labels, threat = met(make(seed), eps)
        true = worst(victim, x, labels, threat)
        loose, lines, chosen = (
            OfWords(how, vectors)(net, x, labels, threat) for how in (interval(), crown(), alpha_crown(steps=5))
        )
        assert (chosen <= true).all()
        assert (loose <= true).all()
        assert (lines <= chosen + 1e-6).all()
        if eps == 0:
            assert torch.allclose(lines, true, atol=1e-4)


@pytest.mark.parametrize("eps", [1, 2, 9])
def test_the_bound_of_a_sum_of_words_is_its_least_margin(eps):
    for seed in range(3):
        victim, net, vectors, x, labels, threat = met(Sum(seed), eps)
        found = OfWords(crown(), vectors)(net, x, labels, threat)
        true = worst(victim, x, labels, threat)
        assert (found <= true).all()
        assert torch.allclose(found, true, atol=1e-4)


@pytest.mark.parametrize("eps", [1, 2, 4])
def test_a_line_has_its_least_value_at_a_wording(eps):
    data, threat = Rewrites("letters", eps, lambda word: MORE.get(word, "")).over(TEXTS)
    x, _ = data.take(range(len(data)))
    torch.manual_seed(0)
    vectors, a = torch.randn(len(data.words), 3), torch.randn(1, 5, x.shape[1], 3, dtype=torch.float64)
    vectors[data.words.numbers[" x"]] = vectors[data.words.numbers[" b"]]
    found = Wordings.around(threat, x, vectors).least(a)
    for row in range(len(x)):
        options = [{int(n), *c} for n, c in zip(x[row], threat.norm.choices(x[row : row + 1])[0].tolist(), strict=True)]
        every = (torch.tensor(z) for z in itertools.product(*options))
        some = torch.stack([z for z in every if int((z != x[row]).sum()) <= eps])
        values = torch.einsum("sld,nld->ns", a[0], vectors[some].double())
        assert torch.allclose(found[row], values.amin(0))


def test_an_audit_proves_more_words_than_can_be_tried():
    network, data = drawn(bag, 1, width=6, hidden=8), Texts("long", ["a b c d e f " * 6] * 3, [0, 0, 0])
    numbered, _ = Rewrites("letters", 3, lambda word: MORE.get(word, "")).over(data)
    victim = reading((network, KNOWN), numbered.words, 2)
    with torch.no_grad():
        label = int(victim(numbered.take([0])[0]).argmax(1))
        network.last.bias[label] += 30  # so that nothing breaks it
    data = Texts("long", [f"a b c d e f {letter} " * 6 for letter in "abc"], [label] * 3)
    threat = Rewrites("letters", 4, lambda word: MORE.get(word, ""))
    bare, proved = (
        sparring.audit((network, KNOWN), data, threat, suite="quick", certify=how) for how in (None, "crown")
    )
    assert bare.certified_accuracy.estimate == 0
    assert proved.certified_accuracy.estimate == 1
    assert proved.robust_accuracy.estimate == 1


class Masked(nn.Module):
    """Looks at ids beside their embedding."""

    def __init__(self):
        super().__init__()
        self.embedding, self.last = nn.Embedding(len(KNOWN), 4), nn.Linear(4, 2)

    def forward(self, ids):
        return self.last((self.embedding(ids) * (ids != 0).unsqueeze(2)).sum(1))


@pytest.mark.parametrize(
    ("model", "said"),
    [
        ((Masked(), KNOWN), "ne"),
        ((lambda texts: torch.zeros(len(texts), 2)), "bounds of .* within words replaced"),
    ],
)
def test_what_is_no_network_of_words_has_no_bounds_and_says_so_in_a_line(model, said):
    threat = Rewrites("letters", 1, lambda word: MORE.get(word, ""))
    with pytest.raises(BadInput, match=said) as refused:
        sparring.audit(model, TEXTS, threat, suite="quick", certify="crown")
    assert "\n" not in str(refused.value)
