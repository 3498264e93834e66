"""What holds for every defence of the registry, learned ones on a few images."""

from __future__ import annotations

import copy
import inspect
import sys
from dataclasses import replace
from functools import cache, partial

import pytest
import torch
from torch import nn

from sparring.attacks import pgd_cosine
from sparring.data import digits
from sparring.defences import Chain, Cleaning, RandomCleaning, Replacement, Shifts, quilting, total_variation
from sparring.defences.cleaning import Drawn
from sparring.defences.quilting import SOFTNESSES, Quilt
from sparring.errors import BadInput
from sparring.goals import Never, Untargeted
from sparring.losses import margin
from sparring.registry import members
from sparring.streams import Streams
from sparring.threats import linf
from sparring.types import Defence, Learns
from sparring.views import eot, unchanged
from sparring.zoo.honest import relu

NAMES = list(members("defences"))
X = Streams.of(0, range(12)).uniform(1, 8, 8)
LABELS = torch.arange(12) % 3
BRIEF = {"epochs": 1, "patches": 60, "levels": 4, "members": 2, "draws": 2, "steps": 6}


def network() -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.Dropout(0.5), nn.Flatten(), nn.Linear(256, 3))
    net.eval()
    net[1].train()  # has no effect, and is nobody's to change
    return net


@cache
def ready(name: str) -> Defence:
    make = members("defences")[name].make
    settings = inspect.signature(make).parameters
    made = make(**{key: value for key, value in BRIEF.items() if key in settings})
    return made.fit(network(), X, LABELS) if isinstance(made, Learns) else made


def seeded(model, x, seed=0):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return model(x)


@pytest.mark.parametrize("name", NAMES)
def test_the_adaptive_view_has_the_outputs_of_what_is_deployed_and_a_gradient(name):
    defence, net = ready(name), network()
    assert isinstance(defence, Defence)
    with torch.no_grad():
        want, got = seeded(defence.defend(net), X), seeded(defence.adaptive(net), X)
    assert torch.equal(want, got)
    point = X.clone().requires_grad_()
    view = seeded(defence.adaptive(net), point)
    assert torch.equal(view.detach(), want)
    (gradient,) = torch.autograd.grad(view.square().sum(), point)
    assert gradient.isfinite().all()
    assert (gradient != 0).float().mean() > 0.2


@pytest.mark.parametrize("name", NAMES)
def test_a_defence_leaves_the_model_its_mode_and_the_input_alone(name):
    defence, net, x = ready(name), network(), X.clone()
    state, modes = copy.deepcopy(net.state_dict()), [part.training for part in net.modules()]
    before = torch.get_rng_state()
    with torch.no_grad():
        for view in (defence.defend(net), defence.adaptive(net)):
            if isinstance(view, nn.Module):
                seeded(view, x)
    assert torch.equal(x, X)
    assert modes == [part.training for part in net.modules()]
    assert all(torch.equal(value, net.state_dict()[key]) for key, value in state.items())
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("name", NAMES)
def test_rows_do_not_see_each_other_and_only_random_defences_change_their_answer(name):
    defence, net = ready(name), network()
    model = defence.defend(net)
    with torch.no_grad():
        whole, part = seeded(model, X), seeded(model, X[:5])
        torch.testing.assert_close(whole[:5], part, rtol=1e-5, atol=1e-6)
        again = seeded(model, X, seed=1)
    assert torch.equal(whole, again) == (defence.draws == 1)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", NAMES)
def test_inputs_of_another_precision_are_answered_in_theirs(name, dtype):
    defence, net, x = ready(name), network().to(dtype), X.to(dtype)
    with torch.no_grad():
        found = [seeded(view, x) for view in (defence.defend(net), defence.adaptive(net))]
        want = seeded(defence.defend(network()), x.float())
    assert [outputs.dtype for outputs in found] == [dtype, dtype]
    assert torch.equal(*found)
    close = 1e-3 if dtype == torch.float64 else 0.1
    assert ((found[0] - want).abs() < close).float().mean() > 0.8  # what is rounded falls to the other side at times
    point = x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(seeded(defence.adaptive(net), point).float().sum(), point)
    assert gradient.isfinite().all()
    assert gradient.any()


@pytest.mark.parametrize("name", NAMES)
def test_no_rows_get_no_answers(name):
    defence, net = ready(name), network()
    for view in (defence.defend(net), defence.adaptive(net)):
        assert seeded(view, X[:0]).shape == (0, 3)


@pytest.mark.parametrize(
    "name", [name for name, entry in members("defences").items() if isinstance(entry.make(), Learns)]
)
def test_nothing_is_learned_from_no_examples_nor_from_labels_of_others(name):
    for x, labels in ((X[:0], LABELS[:0]), (X, LABELS[:5])):
        with pytest.raises(BadInput, match="to learn from; need one or more, a label each"):
            members("defences")[name].make().fit(network(), x, labels)


def test_tokens_stay_tokens_on_their_way_to_the_network():
    words = nn.Sequential(nn.Embedding(5, 3), nn.Flatten(), nn.Linear(6, 2))
    tokens = torch.tensor([[0, 4], [2, 1]])
    assert torch.equal(Replacement(words).defend(nn.Identity())(tokens), words(tokens))


@pytest.mark.parametrize("kind", ["defences", "detectors"])
def test_every_member_says_what_it_is(kind):
    for name, entry in members(kind).items():
        assert entry.name == name == name.lower()
        assert entry.summary.endswith(".")
        assert entry.paper, name


def transforms():
    for name in NAMES:
        defence = ready(name)
        parts = defence.parts if isinstance(defence, Chain) else (defence,)
        yield from ((name, part) for part in parts if isinstance(part, Cleaning | RandomCleaning))


@pytest.mark.parametrize(("name", "defence"), [pytest.param(*one, id=one[0]) for one in transforms()])
def test_cleaned_inputs_stay_in_the_box_and_in_shape(name, defence):
    extremes = torch.cat([X, X.round(), torch.zeros_like(X[:1]), torch.ones_like(X[:1])])
    clean = Drawn(defence.clean) if isinstance(defence, RandomCleaning) else defence.clean
    with torch.no_grad():
        z = seeded(clean, extremes)
    assert z.shape == extremes.shape
    assert z.dtype == extremes.dtype
    assert z.min() >= -1e-6
    assert z.max() <= 1 + 1e-6


@pytest.mark.parametrize(("name", "defence"), [pytest.param(*one, id=one[0]) for one in transforms()])
def test_a_random_transform_is_decided_by_the_streams_of_its_rows(name, defence):
    if isinstance(defence, Cleaning):
        return
    rng, rows = Streams.of(3, range(len(X))), torch.tensor([7, 2])
    with torch.no_grad():
        torch.testing.assert_close(defence.clean(X, rng)[rows], defence.clean(X[rows], rng[rows]))


@pytest.mark.parametrize("name", [name for name, entry in members("defences").items() if entry.shape == "image"])
def test_what_is_no_image_is_refused_in_one_line(name):
    defence, flat = members("defences")[name].make(), torch.rand(4, 6)
    linear, labels = nn.Linear(6, 2), torch.tensor([0, 1, 0, 1])
    meet = partial(defence.fit, linear, labels=labels) if isinstance(defence, Learns) else defence.defend(linear)
    with pytest.raises(BadInput, match="need images"):
        meet(flat)


def test_a_chain_meets_the_input_in_order():
    steps = [Cleaning(clean=torch.sqrt), Cleaning(clean=torch.round)]
    assert Chain(tuple(steps)).defend(lambda x: x)(torch.tensor([0.3])) == 1
    assert Chain(tuple(steps[::-1])).defend(lambda x: x)(torch.tensor([0.3])) == 0


def test_the_mean_over_shifts_is_the_mean_over_shifts():
    x = Streams.of(1, range(2)).uniform(1, 6, 6)
    inner = Shifts(((0, 0), (1, 0))).defend(lambda x: x)(x)[:, :, 1:]
    torch.testing.assert_close(inner, (x[:, :, 1:] + x[:, :, :-1]) / 2)


def test_the_stand_in_of_total_variation_leads_further_than_the_identity():
    net, (x, labels) = relu().requires_grad_(False), digits("test").take(range(12))
    goal, ours = Untargeted(labels), total_variation()

    def score(model, z):
        return margin(seeded(eot(model, 8), z), goal)

    def after_a_step(defence):
        point = x.clone().requires_grad_()
        (uphill,) = torch.autograd.grad(score(defence.adaptive(net), point).sum(), point)
        with torch.no_grad():
            return score(ours.defend(net), (x + 0.1 * uphill.sign()).clamp(0, 1)).mean()

    before, identity = score(ours.defend(net), x).mean(), replace(ours, surrogate=unchanged)
    assert after_a_step(ours) - before > 1.1 * (after_a_step(identity) - before)


def test_the_mean_of_softer_and_sharper_choices_leads_further_than_one_of_them(monkeypatch):
    net, (x, labels), threat = relu().requires_grad_(False), digits("test").take(range(24)), linf(0.1)
    quilted, goal = quilting(patches=400).fit(net, *digits("train").take(range(400))), Never(labels)

    def reached(softnesses):
        monkeypatch.setattr(sys.modules[Quilt.__module__], "SOFTNESSES", softnesses)
        z = pgd_cosine(threat, steps=10, loss=margin)(quilted.adaptive(net), x, goal, Streams.of(0, range(24)))
        with torch.no_grad():
            return margin(quilted.defend(net)(z), goal).mean()

    assert reached(SOFTNESSES) > max(reached((one,)) for one in SOFTNESSES) + 0.02


def test_draws_are_worth_their_mean():
    defence = ready("noise")
    view = defence.adaptive(network())
    with torch.no_grad():
        far = (seeded(eot(view, 200), X) - seeded(eot(view, 200), X, seed=5)).abs().mean()
        single = (seeded(view, X) - seeded(view, X, seed=5)).abs().mean()
    assert far < single / 5
