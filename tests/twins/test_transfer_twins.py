"""Transfer attacks, ACG and sparse attacks beside torchattacks and Foolbox, on published networks and real digits."""

import numpy as np
import pytest
import torch

from sparring.attacks import (
    PGD,
    Through,
    Transfer,
    acg,
    admix,
    apgd_ce,
    apgd_dlr,
    apgd_l1,
    apgd_l1_shrinking,
    di_fgsm,
    mi_fgsm,
    pgd,
    pgd_l0_shrinking,
    si_ni_fgsm,
    slide,
    ti_fgsm,
    vmi_fgsm,
)
from sparring.goals import Never, Untargeted
from sparring.losses import cross_entropy
from sparring.networks import wong_cnn
from sparring.steps import ascent, chain, momentum, nesterov, scale
from sparring.streams import Streams
from sparring.threats import l0, l1, l2, linf
from sparring.views import blurred, settled

pytestmark = pytest.mark.frameworks
torchattacks = pytest.importorskip("torchattacks", reason="a peer: pip install --no-deps torchattacks==3.5.1")
foolbox = pytest.importorskip("foolbox", reason="a peer: pip install 'sparring[peers]'")


class Ring:
    """Two robust networks, labelled digits, and what attacks make of them."""

    def __init__(self, folder, count):
        self.model, self.other = wong_cnn().eval(), wong_cnn().eval()
        for network, name in ((self.model, "wong_fgsm_mnist_linf0.3"), (self.other, "wong_kolter_mnist_linf0.1")):
            weights = torch.load(folder / "models" / f"{name}.pth", weights_only=True, map_location="cpu")
            weights = weights.get("state_dict", weights)
            network.load_state_dict(weights[0] if isinstance(weights, list) else weights)
        digits = np.load(folder / "mnist" / "mnist.npz", allow_pickle=False)
        self.x = torch.from_numpy(digits["x_test"][:count]).float().div(255).unsqueeze(1)
        self.y = torch.from_numpy(digits["y_test"][:count]).long()

    def find(self, attack, seed=0, goal=Never):
        return attack(self.model, self.x, goal(self.y), Streams.of(seed, range(len(self.x))))

    def loss(self, z):
        with torch.no_grad():
            return cross_entropy(self.model(z), Never(self.y)).mean().item()

    def accuracy(self, z, model=None):
        with torch.no_grad():
            return ((model or self.model)(z).argmax(1) == self.y).float().mean().item() * 100


@pytest.fixture(scope="module")
def ring(sparring_data):
    return Ring(sparring_data, 100)


def step(decay):
    return chain(momentum(decay), ascent(linf(1).norm), scale(0.06))


THREAT, SAME = linf(0.3), {"eps": 0.3, "alpha": 0.06, "steps": 10}
TWINS = {
    "TIFGSM": (
        Through(
            view=settled(blurred, size=15), attack=PGD(threat=THREAT, step=step(1.0), steps=10, random_start=False)
        ),
        {"decay": 1.0, "len_kernel": 15, "diversity_prob": 0.0},
    ),
    "DIFGSM": (Transfer(threat=THREAT, step=step(1.0), copies=di_fgsm(THREAT).copies, now=0.5), {"decay": 1.0}),
    "SINIFGSM": (
        Transfer(
            threat=THREAT,
            step=nesterov(THREAT.norm, 0.06, 1.0),
            copies=si_ni_fgsm(THREAT).copies,
            now=0.8,
        ),
        {"decay": 1.0, "m": 5},
    ),
    "VMIFGSM": (
        Transfer(threat=THREAT, step=step(1.0), copies=vmi_fgsm(THREAT).copies, before=1.0),
        {"decay": 1.0, "N": 5, "beta": 1.5},
    ),
}


@pytest.mark.parametrize("name", TWINS)
def test_the_loss_reached_is_not_below_that_of_torchattacks_with_the_same_settings(ring, name):
    ours, settings = TWINS[name]
    network, x = ring.model, ring.x
    if name == "TIFGSM":  # its kernel is made for three channels; the mean of three equal ones is the image itself
        network, x = torch.nn.Sequential(Grey(), network).eval(), x.expand(-1, 3, -1, -1)
    torch.manual_seed(0)
    theirs = getattr(torchattacks, name)(network, **SAME, **settings)(x.contiguous(), ring.y)
    theirs = theirs.detach().mean(1, keepdim=True)
    assert ring.loss(ring.find(ours)) >= 0.98 * ring.loss(theirs)


class Grey(torch.nn.Module):
    """The mean of the channels."""

    def forward(self, x):
        return x.mean(1, keepdim=True)


def test_what_looks_around_transfers_better_than_momentum_alone(ring):
    def left(make):
        return ring.accuracy(ring.find(make(linf(0.2))), ring.other)

    plain = left(mi_fgsm)
    assert left(vmi_fgsm) < plain - 15
    for make in (ti_fgsm, di_fgsm, admix):
        assert left(make) < plain - 3, make


@pytest.mark.parametrize("threat", [linf(0.3), l2(1.5)], ids=str)
def test_acg_is_on_average_as_good_as_apgd(ring, threat):
    def left(attack):
        return np.mean([ring.accuracy(ring.find(attack, seed, Untargeted)) for seed in range(2)])

    found = left(acg(threat, steps=100))
    assert found <= left(apgd_dlr(threat, steps=100))
    assert found <= left(apgd_ce(threat, steps=100)) + 1.5


def test_slide_is_as_strong_as_that_of_foolbox(ring):
    ours = ring.accuracy(ring.find(slide(l1(10.0), steps=40), goal=Untargeted))
    attack = foolbox.attacks.SparseL1DescentAttack(steps=40)
    theirs = attack.run(foolbox.PyTorchModel(ring.model, bounds=(0, 1)), ring.x, ring.y, epsilon=10.0)
    assert ours <= ring.accuracy(theirs) + 1


def test_sparse_steps_and_shrinking_balls_break_what_pgd_leaves(ring):
    def left(attack):
        return ring.accuracy(ring.find(attack, goal=Untargeted))

    plain, single, shrinking = (left(make(l1(10.0), steps=60)) for make in (pgd, apgd_l1, apgd_l1_shrinking))
    assert single < plain - 10
    assert shrinking < single - 25
    assert left(pgd_l0_shrinking(l0(20.0), steps=60)) < left(pgd(l0(20.0), steps=60)) - 5
