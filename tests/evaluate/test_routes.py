"""What a model chooses beside its gradients is found, whatever it chooses by, and its parts can be attacked."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from sparring.data import Arrays
from sparring.evaluate import examine
from sparring.evaluate.adaptive import Candidate, adaptive, examined
from sparring.evaluate.result import Check
from sparring.evaluate.routes import Part, parts, rivals, together
from sparring.goals import Untargeted
from sparring.losses import cross_entropy
from sparring.models.loading import adopt
from sparring.streams import Streams
from sparring.views import Counted, steady
from sparring.zoo.broken import EarlyExit

from .networks import THREAT, held_out, honest

Chosen = Callable[[Tensor, Tensor, Tensor], Tensor]


class Gate(nn.Module):
    """One of two networks, by how dark the corner of an input is."""

    def __init__(self, choose: Chosen) -> None:
        super().__init__()
        self.one, self.other, self.choose = honest("relu"), honest("tanh"), choose

    def forward(self, x: Tensor) -> Tensor:
        corner = x[:, 0, :3, :3].flatten(1).mean(1)
        return self.choose(corner, self.one(x), self.other(x))


def by_if(corner: Tensor, one: Tensor, other: Tensor) -> Tensor:
    return torch.stack([one[i] if corner[i] < 0.02 else other[i] for i in range(len(corner))])


def by_numpy(corner: Tensor, one: Tensor, other: Tensor) -> Tensor:
    dark = corner.detach().numpy() < 0.02
    return torch.stack([one[i] if dark[i] else other[i] for i in range(len(dark))])


def by_mask(corner: Tensor, one: Tensor, other: Tensor) -> Tensor:
    said, bright = one.clone(), corner >= 0.02
    said[bright] = other[bright]
    return said


def by_index(corner: Tensor, one: Tensor, other: Tensor) -> Tensor:
    pick = torch.stack([0.02 - corner, corner - 0.02], 1).argmax(1)
    return torch.stack([one, other], 1)[torch.arange(len(one)), pick]


def by_nothing(corner: Tensor, one: Tensor, other: Tensor) -> Tensor:
    assert float(corner.detach().max()) <= 1
    assert not bool(one.isnan().any())
    assert len(corner.tolist()) == len(other)
    return one[torch.arange(len(one))] + 0 * other[corner >= 0.02].sum()


def looked_at(model: nn.Module, name: str) -> Check:
    x, y = held_out(60)
    found = examine(adopt(model.eval(), example=x[:1]), Arrays("data", x, y), THREAT)
    return next(check for check in found.checks if check.name == name)


def hidden_paths(model: nn.Module) -> Check:
    return looked_at(model, "hidden-paths")


@pytest.mark.parametrize(
    ("choose", "said"), [(by_if, "bool"), (by_numpy, "numpy"), (by_mask, "setitem"), (by_index, "getitem")]
)
def test_a_choice_that_is_made_otherwise_within_the_threat_fails(choose: Chosen, said: str) -> None:
    found = hidden_paths(Gate(choose))
    assert found.outcome == "fail"
    assert said in found.evidence


def test_what_is_read_and_chooses_nothing_is_no_choice() -> None:
    assert hidden_paths(Gate(by_nothing)).outcome == "pass"


def test_a_choice_that_no_attack_within_the_threat_can_change_is_none() -> None:
    def ever_dark(corner: Tensor, one: Tensor, other: Tensor) -> Tensor:
        return torch.stack([one[i] if corner[i] < 0.9 else other[i] for i in range(len(corner))])

    assert hidden_paths(Gate(ever_dark)).outcome == "pass"


class ByNumpy(torch.autograd.Function):
    """`tanh`, computed and derived by NumPy."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.slope = 1 - (y := torch.from_numpy(np.tanh(x.detach().numpy()))) ** 2
        return y

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return gradients[0] * ctx.slope


def test_what_a_function_with_a_backward_pass_of_its_own_reads_is_no_choice() -> None:
    class Squashed(nn.Sequential):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(ByNumpy.apply(x))

    assert hidden_paths(Squashed(honest("relu"))).outcome == "pass"


class Hurried(nn.Sequential):
    """Rounded inputs; other last bits while functions of torch are listened to, as a transformer of torch has them."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward((16 * x).round() / 16) * (1 + 1e-6 * torch.overrides.has_torch_function((x,)))


def test_inputs_are_compared_in_calls_to_which_nobody_listens() -> None:
    assert looked_at(Hurried(honest("relu")), "quantised-inputs").outcome == "fail"


def test_a_model_that_insists_on_gradients_is_examined_without_a_warning() -> None:
    class Insisting(nn.Sequential):
        @torch.enable_grad()
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x.detach().requires_grad_())

    torch.set_warn_always(True)
    try:
        assert looked_at(Insisting(honest("relu")), "gradients").outcome == "fail"
    finally:
        torch.set_warn_always(False)


def test_the_parts_of_a_model_are_the_networks_that_answer_otherwise_than_it_does() -> None:
    x = torch.cat([held_out(20)[0], Streams.of(0, range(20)).uniform(1, 28, 28)])
    gate = Gate(by_mask).eval()
    found = parts(gate, x)
    assert len(found) == 2
    for part, network in zip(found, (gate.one, gate.other), strict=True):
        assert torch.equal(part(gate)(x), network(x))
    assert parts(nn.Sequential(honest("relu")), x) == ()
    assert torch.equal(Part((99,))(gate)(x), gate(x))


class Vote(nn.Module):
    """The share of three networks that decide for each class, as numbers or as probabilities."""

    def __init__(self) -> None:
        super().__init__()
        self.networks = nn.ModuleList([honest("relu"), honest("tanh"), nn.Sequential(honest("linear"), nn.Softmax(1))])

    def forward(self, x: Tensor) -> Tensor:
        decisions = torch.stack([network(x).argmax(1) for network in self.networks])
        return functional.one_hot(decisions, 10).float().mean(0)


def test_what_votes_is_attacked_all_at_once_by_the_mean_of_its_logarithms() -> None:
    x, y = held_out(24)
    vote = Vote().eval()
    found = parts(vote, torch.cat([x, Streams.of(0, range(24)).uniform(1, 28, 28)]))
    both, *alone = together(found)
    assert tuple(alone) == found
    assert both.calls == tuple(part.calls[0] for part in found)
    assert together(found[:1]) == found[:1]
    one, other, third = vote.networks
    expected = (one(x).log_softmax(1) + other(x).log_softmax(1) + third(x).log()) / 3
    assert torch.allclose(both(vote)(x), expected, atol=1e-5)
    searched = adaptive(vote, x, y, THREAT, passes=400)
    standing = [1 - float(searched.broken.float().mean())]
    for part in alone:
        z = Candidate(threat=THREAT, views=(part,), onward=True).run(120)(
            vote, x, Untargeted(y), Streams.of(0, range(24))
        )
        standing.append(float((vote(z).argmax(1) == y).float().mean()))
    assert standing[0] < min(standing[1:]), standing


def test_of_many_voters_all_are_attacked_at_once_and_the_first_few_alone() -> None:
    found = together([Part((call,)) for call in range(9)])
    assert found[0] == Part(tuple(range(9)))
    assert found[1:] == tuple(Part((call,)) for call in range(4))
    assert together([Part((3,))]) == (Part((3,)),)


def test_rivals_are_networks_inside_that_decide_otherwise_and_rewordings_are_none() -> None:
    x = torch.cat([held_out(20)[0], Streams.of(0, range(20)).uniform(1, 28, 28)])
    assert rivals(Gate(by_mask).eval(), x)
    for wrapped in (nn.Sequential(honest("relu")), nn.Sequential(honest("relu"), nn.LogSoftmax(1))):
        assert not rivals(wrapped, x)

    class Experts(Gate):
        def forward(self, x: Tensor) -> Tensor:
            return 0.5 * (self.one[1:](x.flatten(1)) + self.other[1:](x.flatten(1)))

    assert rivals(Experts(by_mask).eval(), x), "of a flattened input too"

    class Swaying(Gate):
        def forward(self, x: Tensor) -> Tensor:
            logits = self.one(x)
            lead = logits.topk(2, dim=1).values.diff(dim=1).abs()
            return logits / (lead + 0.06) * (1 + 0.9 * torch.sin(x.flatten(1).sum(1, keepdim=True)))

    assert rivals(Swaying(by_mask).eval(), x), "the same decisions, and sure of other inputs"


def test_parts_whose_number_depends_on_the_batch_are_left_out() -> None:
    class Helped(Gate):
        def forward(self, x: Tensor) -> Tensor:
            if (dark := x[:, 0, :14].flatten(1).mean(1) < 0.11).any():
                self.other(x[dark])
            return super().forward(x)

    x = torch.cat([held_out(20)[0], Streams.of(0, range(20)).uniform(1, 28, 28)])
    assert len(parts(Gate(by_mask).eval(), x)) == 2
    assert parts(Helped(by_mask).eval(), x) == ()


def test_passes_through_a_part_are_counted_however_sure_it_is() -> None:
    class Sure(nn.Sequential):
        def forward(self, x: Tensor) -> Tensor:
            return 8 * super().forward(x)

    x, y = held_out(30)
    model = EarlyExit(Sure(honest("relu")), honest("adversarially trained")).eval()
    part, counted, point = parts(model, x)[-1], Counted(model), x.clone().requires_grad_()
    cross_entropy(part(counted)(point), Untargeted(y)).sum().backward()
    assert point.grad is not None
    assert counted.backward == (point.grad != 0).flatten(1).any(1).sum()


def test_what_fools_a_part_surely_fools_a_model_that_asks_another_one_in_doubt() -> None:
    x, y = held_out(30)
    model, goal, rng = (
        EarlyExit(honest("relu"), honest("adversarially trained")),
        Untargeted(y),
        Streams.of(0, range(30)),
    )
    (part,) = examined(model, x, THREAT, rng).parts
    counted = Counted(model)
    fitted = Candidate(threat=THREAT, views=(part,), onward=True).run(20)(counted, x, goal, rng)
    plain = Candidate(threat=THREAT).run(20)(model, x, goal, rng)
    assert goal.reached(model(fitted)).sum() > goal.reached(model(plain)).sum()
    assert counted.backward == 20 * 30, "passes through a part are counted"


class Heads(nn.Module):
    """Five heads on the features of one network, and of each class the fourth best: modules, or tensors in a stack."""

    def __init__(self, *, stacked: bool, last: bool = True) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.trunk, self.stacked, self.last = honest("relu")[:-1], stacked, last
        head = honest("relu")[-1]
        self.heads = nn.ModuleList([copy.deepcopy(head) for _ in range(5)])
        with torch.no_grad():
            for one in self.heads:
                one.weight += 0.3 * one.weight.std() * torch.randn_like(one.weight)

    def scores(self, x: Tensor) -> Tensor:
        features, dim = self.trunk(x), 1 if self.last else 0
        each = [features @ one.weight.T + one.bias if self.stacked else one(features) for one in self.heads]
        return torch.stack(each, dim)

    def forward(self, x: Tensor) -> Tensor:
        dim = 1 if self.last else 0
        return self.scores(x).topk(4, dim).values.select(dim, 3)


@pytest.mark.parametrize("last", [True, False])
@pytest.mark.parametrize("stacked", [True, False])
def test_heads_on_features_are_networks_inside_whether_modules_or_in_a_stack(stacked: bool, last: bool) -> None:
    x = held_out(24)[0]
    model = Heads(stacked=stacked, last=last).eval()
    for whole in (model, steady(model)):
        found = parts(whole, x)
        assert len(found) == (1 if stacked else 5)
        wanted = model.scores(x).log_softmax(2).mean(1 if last else 0)
        seen = together(found)[0](whole)(x)
        assert torch.allclose(seen.log_softmax(1), wanted.log_softmax(1), atol=1e-4)
        assert torch.allclose(together(found)[0](whole)(x[:3]), seen[:3], atol=1e-4), "in a batch of few, too"
    assert stacked or rivals(model, x)


def test_a_layer_as_wide_as_the_outputs_is_no_head() -> None:
    torch.manual_seed(0)
    narrow = nn.Sequential(nn.Flatten(), nn.Linear(784, 32), nn.ReLU(), nn.Linear(32, 10), nn.ReLU(), nn.Linear(10, 10))
    x = held_out(40)[0]
    assert parts(narrow, x) == ()
    assert not rivals(narrow, x)
