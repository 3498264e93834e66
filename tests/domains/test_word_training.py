"""Training against rewritings: what each objective asks for, and that it helps where plain training falls."""

import pytest
import torch
from torch.nn import functional

from sparring.attacks import every_wording
from sparring.attacks.hotflip import gains
from sparring.certify import crown
from sparring.certify.wordings import OfWords, of_words
from sparring.data.texts import Texts
from sparring.domains.text.networks import bag, convolution, normalised
from sparring.domains.text.opened import Words, embedding_as
from sparring.domains.text.reader import reading
from sparring.domains.text.threats import Rewrites
from sparring.domains.text.training import adversarial, augmented, boxed, certified, moved, plain, trained, virtual
from sparring.domains.text.vocabulary import Vocabulary
from sparring.errors import BadInput
from sparring.goals import Untargeted
from sparring.streams import Streams

GOOD, BAD = "good fine great", "bad poor awful"
WEAK = {"nice": ["nasty"], "nasty": ["nice"], "calm": ["flat"], "flat": ["calm"]}
ALL = [*GOOD.split(), *BAD.split(), *WEAK, "film", "play", "a"]
KNOWN = Vocabulary({word: number for number, word in enumerate(ALL, 2)}, unknown=1, padding=0)


def reviews():
    """A word that may not be replaced says which class it is, and two that may say so as well."""
    strong = [(word, label) for label, words in ((1, GOOD), (0, BAD)) for word in words.split()]
    texts, labels = [], []
    for word, label in strong:
        for first in ("film", "play"):
            for one in ("nice", "nasty"):
                weak = ("nice", "calm") if label else ("nasty", "flat")
                texts.append(f"a {word} {first} {one if word in ('great', 'awful') else weak[0]} {weak[1]}")
                labels.append(label)
    return Texts("reviews", texts * 4, labels * 4)


SWAPS = Rewrites("swaps", 2, lambda word: WEAK.get(word, []))


def left(network, data, threat=SWAPS):
    """The shares that are right, that no wording breaks, and that are proved."""
    numbered, wording = threat.over(data)
    victim = reading((network, KNOWN), numbered.words, 2)
    x, y = numbered.take(range(len(numbered)))
    with torch.no_grad():
        right = victim(x).argmax(1) == y
        z = every_wording(wording)(victim, x, Untargeted(y), Streams.of(0, range(len(x))))
        stands = right & ~Untargeted(y).reached(victim(z))
    net, vectors = of_words(victim, x[:8])
    proved = OfWords(crown(), vectors)(net, x, y, wording) > 0
    assert not (proved & ~stands).any()
    return tuple(float(one.float().mean()) for one in (right, stands, proved))


def taught(against, **more):
    network = bag(len(KNOWN), width=8, hidden=8, drop=0.0)
    return trained(network, KNOWN, reviews(), SWAPS, against, **{"epochs": 12, "batch_size": 16, "lr": 2e-2} | more)


def test_plain_training_leans_on_words_that_may_be_replaced_and_other_trainings_do_not():
    data = reviews()
    naive = left(taught(plain, epochs=6), data)
    assert naive[0] == 1
    assert naive[1] < 0.7
    for against in (adversarial, certified):
        right, stands, proved = left(taught(against), data)
        assert right == 1
        assert stands == 1
        assert proved > 0.9
    assert left(taught(augmented), data)[1] >= naive[1]


@pytest.mark.parametrize("make", [bag, convolution])
def test_without_strength_the_certified_loss_is_the_plain_one_and_it_grows_with_the_threat(make):
    data, threat = SWAPS.over(reviews())
    words = Words(make(len(KNOWN), width=8, drop=0.0), KNOWN, data.words)
    x, y = data.take(range(8))
    objective, rng = certified(threat), Streams.of(0, range(8))
    plainly = functional.cross_entropy(words(x), y)
    assert torch.allclose(objective(words, x, y, 0.0, rng), plainly)
    losses = [certified(threat, kappa=0.0)(words, x, y, strength, rng).item() for strength in (0.2, 0.6, 1.0)]
    assert plainly.item() < losses[0] < losses[1] < losses[2]
    objective(words, x, y, 1.0, rng).backward()
    assert words.network.embedding.weight.grad.abs().sum() > 0
    assert not words.network.embedding._forward_hooks


@pytest.mark.parametrize("eps", [1, 2, 9])
def test_boxes_of_sums_are_those_of_all_texts_of_the_threat(eps):
    data, threat = Rewrites("swaps", eps, lambda word: WEAK.get(word, [])).over(reviews())
    words = Words(bag(len(KNOWN), width=3), KNOWN, data.words)
    x, _ = data.take(range(4))
    box = boxed(words, threat, x)
    low, high = box.low.sum(1), box.high.sum(1)
    own, change = words.of(x.long()), words.of(threat.norm.choices(x)) - words.of(x.long()).unsqueeze(2)
    for side, end in ((1, high), (-1, low)):
        gain = (side * change).amax(2).clamp(min=0).sort(1, descending=True).values[:, :eps].sum(1)
        assert torch.allclose(side * end, side * own.sum(1) + gain, atol=1e-5)


def test_a_trained_network_is_a_copy_and_settings_are_those_of_the_trainer():
    network = bag(len(KNOWN), width=8)
    before = network.embedding.weight.clone()
    found = trained(network, KNOWN, reviews(), SWAPS, plain, epochs=1)
    assert type(found) is type(network)
    assert not found.training
    assert torch.equal(network.embedding.weight, before)
    assert not torch.equal(found.embedding.weight, before)
    with pytest.raises(BadInput, match="words that it can rewrite"):
        trained(network, KNOWN, reviews(), Rewrites("none", 1, lambda word: []), plain)


def test_normalised_embeddings_have_mean_zero_and_variance_one_over_words_as_they_occur():
    counts = KNOWN.counted(reviews().texts)
    network = normalised(bag(len(KNOWN), width=6), counts)
    ids, share = torch.arange(len(KNOWN)), (counts / counts.sum()).unsqueeze(1)
    e = network.embedding(ids)
    assert torch.allclose((share * e).sum(0), torch.zeros(6), atol=1e-5)
    assert torch.allclose((share * e.square()).sum(0), torch.ones(6), atol=1e-3)
    assert not e[0].any()
    with torch.no_grad():
        network.embedding.weight.mul_(50)
    assert torch.allclose(network.embedding(ids), e, atol=1e-3)


def test_networks_of_normalised_words_have_slopes_and_certificates_too():
    network = normalised(bag(len(KNOWN), width=6, drop=0.0), KNOWN.counted(reviews().texts)).eval()
    data, threat = SWAPS.over(reviews())
    victim = reading((network, KNOWN), data.words, 2)
    x, y = data.take(range(6))
    net, vectors = of_words(victim, x)
    assert torch.allclose(net(vectors[x.long()]).float(), victim(x), atol=1e-4)
    with torch.no_grad():
        first = gains(victim, x, threat.norm.choices(x), Untargeted(y))
    assert first.abs().sum() > 0


@pytest.mark.parametrize("make", [moved, virtual])
def test_embeddings_are_moved_by_eps_to_where_it_costs_more_than_elsewhere(make):
    data, threat = SWAPS.over(reviews())
    words = Words(normalised(bag(len(KNOWN), width=8, drop=0.0), KNOWN.counted(reviews().texts)), KNOWN, data.words)
    x, y = data.take(range(24))
    objective, rng = make(threat, eps=0.5), Streams.of(0, range(len(x)))
    plainly = functional.cross_entropy(words(x), y)
    cost = (objective(words, x, y, 1.0, rng) - plainly).item()
    e = words.of(x.long())
    still = words(x).detach()
    blind = []
    for seed in range(20):
        r = torch.randn(e.shape, generator=torch.Generator().manual_seed(seed)) * (x != 0).unsqueeze(2)
        r = 0.5 * r / r.flatten(1).norm(dim=1).view(-1, 1, 1)
        with embedding_as(words.embedding[0], lambda out, r=r: out + r):
            there = words(x)
        if make is moved:
            blind.append(functional.cross_entropy(there, y).item())
        else:
            blind.append((still.softmax(1) * (still.log_softmax(1) - there.log_softmax(1))).sum(1).mean().item())
    assert cost > max(blind)
    assert objective(words, x, y, 0.0, rng).item() == pytest.approx((2 - (make is virtual)) * plainly.item(), rel=1e-5)


def test_moved_embeddings_can_be_learned_from():
    data = reviews()
    network = normalised(bag(len(KNOWN), width=8, hidden=8, drop=0.0), KNOWN.counted(data.texts))
    for against in (moved, virtual):
        found = trained(network, KNOWN, data, SWAPS, against, epochs=4, batch_size=16, lr=2e-2)
        assert left(found, data)[0] == 1
