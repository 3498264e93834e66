"""Networks that torch.ao quantised: their own outputs, gradients straight through, audits that hold."""

import copy

import pytest
import torch
import torch.ao.quantization as ao
from torch import nn
from torch.ao.nn.quantized import FloatFunctional

import sparring
from sparring.data import digits, first
from sparring.models.loading import adopt
from sparring.zoo.honest import convolutional, relu

pytestmark = [
    pytest.mark.filterwarnings("ignore"),
    pytest.mark.skipif(torch.backends.quantized.engine == "none", reason="torch runs no quantised operators here"),
]


def quantised(network, x):
    """The network in 8 bits, calibrated on `x`."""
    network = copy.deepcopy(network).eval()
    network.qconfig = ao.get_default_qconfig(torch.backends.quantized.engine)
    ao.prepare(network, inplace=True)
    network(x)
    return ao.convert(network, inplace=True).eval()


class Joined(nn.Module):
    """A block in which two branches are added, multiplied or put beside each other."""

    def __init__(self, how, bend):
        super().__init__()
        self.how = how
        self.enter, self.leave, self.join, self.bend = ao.QuantStub(), ao.DeQuantStub(), FloatFunctional(), bend
        self.one, self.two = nn.Conv2d(1, 4, 3, padding=1), nn.Conv2d(1, 4, 3, padding=1)
        self.end = nn.Sequential(nn.MaxPool2d(2), nn.AdaptiveAvgPool2d(3), nn.Flatten())
        self.head = nn.Linear(72 if how == "cat" else 36, 5)

    def forward(self, x):
        x = self.enter(x)
        one, two = self.bend(self.one(x)), self.two(x)
        joined = self.join.cat([one, two], 1) if self.how == "cat" else getattr(self.join, self.how)(one, two)
        return self.leave(self.head(self.end(joined)))


BENDS = [nn.ReLU(), nn.ReLU(inplace=True), nn.LeakyReLU(0.1), nn.Hardswish(), nn.Sigmoid(), nn.ELU(0.3), nn.ReLU6()]


@pytest.mark.parametrize(
    ("how", "bend"),
    [*(("add", bend) for bend in BENDS), ("mul", nn.ReLU()), ("cat", nn.ReLU()), ("add_relu", nn.ReLU())],
)
def test_gradients_are_those_of_the_network_before(how, bend):
    torch.manual_seed(0)
    x = torch.rand(8, 1, 12, 12)
    whole = Joined(how, bend).eval()
    module = quantised(whole, torch.rand(64, 1, 12, 12))
    victim, asked = adopt(module, example=x[0]), x.clone().requires_grad_()
    told = victim(asked)
    assert torch.equal(told, module(x))
    assert not victim(x).requires_grad
    (slope,) = torch.autograd.grad(told[:, 1].sum(), asked)
    (before,) = torch.autograd.grad(whole(asked)[:, 1].sum(), asked)
    assert torch.cosine_similarity(slope.flatten(1), before.flatten(1)).min() > 0.9
    assert victim.rounds


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (nn.BatchNorm2d(2), (2, 6, 6)),
        (nn.Conv3d(2, 3, 2), (2, 4, 4, 4)),
        (nn.Conv2d(2, 4, 3, 2, 1, groups=2), (2, 6, 6)),
    ],
)
def test_gradients_of_other_layers_are_those_before(layer, shape):
    torch.manual_seed(0)
    x = torch.rand(6, *shape)
    whole = ao.QuantWrapper(nn.Sequential(layer, nn.Flatten())).eval()
    module = quantised(whole, torch.rand(64, *shape))
    asked = x.clone().requires_grad_()
    told = adopt(module, example=x[0])(asked)
    assert torch.equal(told, module(x))
    slope, before = (torch.autograd.grad(out[:, 1].sum(), asked)[0] for out in (told, whole(asked)))
    assert torch.cosine_similarity(slope.flatten(1), before.flatten(1)).min() > 0.9


def test_the_dimension_of_a_join_is_found_wherever_it_stands():
    class Written(Joined):
        def forward(self, x):
            one, two = self.one(self.enter(x)), self.two(self.enter(x))
            joined = torch.ops.quantized.cat([one, two], 1, self.join.scale, self.join.zero_point)
            return self.leave(self.head(self.end(joined)))

    torch.manual_seed(0)
    module = quantised(Joined("cat", nn.Identity()).eval(), torch.rand(64, 1, 12, 12))
    x = torch.rand(4, 1, 12, 12, requires_grad=True)
    slopes = []
    for kind in (Joined, Written):
        module.__class__ = kind
        slopes.append(torch.autograd.grad(adopt(module, example=x[0])(x).sum(), x)[0])
    torch.testing.assert_close(*slopes)


def test_networks_that_were_quantised_as_graphs_are_followed_too():
    from torch.ao.quantization.quantize_fx import convert_fx, prepare_fx

    torch.manual_seed(0)
    x = torch.rand(8, 1, 12, 12)
    whole = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(100, 5)
    ).eval()
    prepared = prepare_fx(
        copy.deepcopy(whole), ao.get_default_qconfig_mapping(torch.backends.quantized.engine), (x[:1],)
    )
    prepared(torch.rand(64, 1, 12, 12))
    module = convert_fx(prepared)
    victim, asked = adopt(module, example=x[0]), x.clone().requires_grad_()
    told = victim(asked)
    assert torch.equal(told, module(x))
    (slope,) = torch.autograd.grad(told[:, 1].sum(), asked)
    (before,) = torch.autograd.grad(whole(asked)[:, 1].sum(), asked)
    assert torch.cosine_similarity(slope.flatten(1), before.flatten(1)).min() > 0.9


def _twice(q):
    return torch.ops.quantized.mul_scalar(q, 2.0).dequantize()


def test_operators_that_are_not_known_leave_a_model_without_gradients():
    class Odd(nn.Module):
        def __init__(self):
            super().__init__()
            self.enter, self.layer = ao.QuantStub(), nn.Linear(6, 3)

        def forward(self, x):
            return torch.ops.quantized.mul_scalar(self.layer(self.enter(x)), 2.0).dequantize()

    class Whole(Odd):
        def forward(self, x):
            return 2 * self.layer(self.enter(x))

    torch.manual_seed(0)
    module = quantised(Whole(), torch.rand(64, 6))
    module.__class__ = Odd
    victim, x = adopt(module, example=torch.rand(6)), torch.rand(4, 6, requires_grad=True)
    assert torch.equal(victim(x), module(x))
    assert not victim(x).requires_grad
    Odd.forward = lambda self, x: _twice(self.layer(self.enter(x))) + self.layer(self.enter(x)).dequantize()
    assert not victim(x).requires_grad  # the half that is known would pass for the whole


def test_scales_that_are_set_by_the_input_are_set_row_by_row():
    module = ao.quantize_dynamic(copy.deepcopy(relu()), {nn.Linear})
    x = first(digits(), 6).take(range(6))[0]
    victim, asked = adopt(module, example=x[0]), x.clone().requires_grad_()
    told = victim(asked)
    assert torch.equal(told, torch.cat([module(row.unsqueeze(0)) for row in x]))
    (slope,) = torch.autograd.grad(told[:, 1].sum(), asked)
    (before,) = torch.autograd.grad(relu()(asked)[:, 1].sum(), asked)
    assert torch.cosine_similarity(slope.flatten(1), before.flatten(1)).min() > 0.9
    assert victim.rounds
    assert "run row by row: rows of a batch share scales" in victim.notes


def test_a_layer_with_its_relu_is_followed_where_floats_go_in_and_out():
    torch.manual_seed(0)
    layer = torch.ao.nn.intrinsic.quantized.dynamic.LinearReLU(6, 4)
    layer.set_weight_bias(torch.quantize_per_tensor(torch.randn(4, 6), 0.02, 0, torch.qint8), torch.randn(4))
    victim, x = adopt(nn.Sequential(layer), example=torch.rand(6)), torch.rand(5, 6, requires_grad=True)
    told = victim(x)
    (slope,) = torch.autograd.grad(told.sum(), x)
    torch.testing.assert_close(slope, (told > 0).float() @ layer.weight().dequantize())


def test_a_network_that_is_trained_for_it_is_trusted_as_well():
    network = copy.deepcopy(relu()).train()
    network.qconfig = ao.get_default_qat_qconfig(torch.backends.quantized.engine)
    ready = ao.prepare_qat(network)
    ready(first(digits("train"), 100).take(range(100))[0])
    module, data = ready.apply(ao.disable_observer).eval(), first(digits(), 60)
    found, whole = (sparring.audit(one, data, "linf:0.05", suite="quick", passes=0) for one in (module, relu()))
    assert found.verdict == "trusted", found.reasons
    assert abs(found.robust_accuracy.estimate - whole.robust_accuracy.estimate) < 0.06


@pytest.mark.parametrize(
    ("make", "fused", "eps"),
    [(relu, None, 0.05), pytest.param(convolutional, [["0", "1", "2"]], 0.05, marks=pytest.mark.slow)],
)
def test_a_quantised_network_is_audited_as_the_whole_one_is(make, fused, eps):
    network, data = copy.deepcopy(make()).eval(), first(digits(), 60)
    ready = ao.QuantWrapper(network if fused is None else ao.fuse_modules(copy.deepcopy(network), fused))
    module = quantised(ready, first(digits("train"), 100).take(range(100))[0])
    found, whole = (sparring.audit(one, data, f"linf:{eps}", suite="quick", passes=0) for one in (module, network))
    assert found.verdict == "trusted", found.reasons
    assert abs(found.clean_accuracy.estimate - whole.clean_accuracy.estimate) < 0.04
    assert abs(found.robust_accuracy.estimate - whole.robust_accuracy.estimate) < 0.06
    assert {check.name: check.outcome for check in found.checks}["finite-differences"] == "skipped"
