"""Audits of patches: exact where the worst patch is known, and refused in a line where there are none."""

import pytest
import torch
from torch import nn

import sparring
from sparring.data import Arrays, digits, first
from sparring.domains.images.patches import patch as square
from sparring.domains.images.patches import side_of, sums
from sparring.errors import BadInput
from sparring.evaluate.collect import strike
from sparring.models.loading import adopt
from sparring.streams import Streams
from sparring.threats import l0
from sparring.zoo.honest import convolutional


class Pair(nn.Module):
    """Two classes, whose scores are apart by `<w, x>`."""

    def __init__(self, w):
        super().__init__()
        self.w = nn.Parameter(w)

    def forward(self, x):
        lead = (x * self.w).flatten(1).sum(1)
        return torch.stack([-lead, lead], 1)


def test_of_a_linear_model_an_audit_says_what_the_worst_patches_do():
    w, x = Streams.of(5, [0]).normal(1, 12, 10)[0], Streams.of(6, range(80)).uniform(1, 12, 10)
    model, threat = Pair(w - w.mean()), square(0.035)
    labels = model(x).argmax(1)
    against = torch.where(labels == 1, -1.0, 1.0).view(-1, 1, 1, 1) * model.w.detach()
    worth = against.abs() * torch.where(against > 0, 1 - x, x)
    lead = (x * model.w).flatten(1).sum(1).abs()
    stands = sums(worth, side_of(0.035, x)).flatten(1).amax(1) < lead
    found = sparring.audit(model, (x, labels), threat, suite="quick")
    assert 0.1 < stands.float().mean() < 0.9
    assert found.robust_accuracy.estimate == pytest.approx(stands.float().mean().item())
    assert found.verdict == "trusted"
    assert found.threat == {"norm": "patch", "eps": 0.035, "low": 0.0, "high": 1.0}
    assert [point.robust_accuracy for point in found.curve] == sorted(
        (point.robust_accuracy for point in found.curve), reverse=True
    )


class Rounded(nn.Module):
    """A model behind what has no gradient."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, x):
        return self.model((8 * x).round() / 8)


def test_gradients_that_are_zero_are_noticed_under_patches_too():
    model, x = Rounded(Pair(Streams.of(5, [0]).normal(1, 8, 8)[0])), Streams.of(6, range(30)).uniform(1, 8, 8)
    found = sparring.audit(model, (x, model(x).argmax(1)), "patch:0.04", suite="quick")
    assert found.verdict == "suspect"
    assert 0 < found.robust_accuracy.estimate < 0.8


@pytest.mark.parametrize("suite", ["quick", "thorough"])
def test_a_patch_without_a_pixel_is_no_threat(suite):
    found = sparring.audit(convolutional(), first(digits(), 8), "patch:0.001", suite=suite)
    assert found.verdict == "invalid"
    assert "a square of 0 by 0 pixels" in " ".join(found.reasons)


def test_patches_are_for_images():
    flat = Arrays("flat", torch.rand(20, 6), torch.arange(20) % 2)
    with pytest.raises(BadInput, match="images"):
        sparring.audit(nn.Linear(6, 2), flat, "patch:0.1")
    with pytest.raises(BadInput, match="certificates for patch"):
        sparring.audit(convolutional(), first(digits(), 4), "patch:0.02", certify="crown")


@pytest.mark.parametrize("threat", [square(0.02), l0(9)])
def test_models_without_gradients_are_struck_by_the_random_search_of_the_threat(threat):
    network = convolutional()
    victim = adopt(
        lambda x: network(torch.from_numpy(x)).detach().numpy(), name="net", example=torch.zeros(1, 1, 28, 28)
    )
    x, z, decided = strike(victim, first(digits(), 4), threat)
    assert threat.contains(z, x).all()
    assert (network(z).argmax(1) != decided).any()
