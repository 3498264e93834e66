"""Attacks for the smallest change against adv-lib's and Foolbox's, on a published network, at equal passes."""

import importlib.util
import sys
import types
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
import torch

from sparring.attacks import bisection, ddn, deepfool, fab_t, fmn, pdpgd, sigma_zero, smallest
from sparring.goals import Untargeted
from sparring.networks import wong_cnn
from sparring.norms import NORMS
from sparring.streams import Streams
from sparring.threats import Ball, l0, l2, linf
from sparring.views import Counted

pytestmark = [pytest.mark.frameworks, pytest.mark.filterwarnings("ignore::DeprecationWarning")]  # the peers' own
ORDERS = {"linf": torch.inf, "l2": 2, "l1": 1, "l0": 0}


def adv_lib(module, name):
    """One module of adv-lib: its package as a whole asks for torchvision and visdom."""
    found = importlib.util.find_spec("adv_lib")
    if found is None:
        pytest.skip("a peer: pip install --no-deps adv-lib")
    if "adv_lib.attacks" not in sys.modules:
        package = types.ModuleType("adv_lib.attacks")
        package.__path__ = [str(Path(found.submodule_search_locations[0]) / "attacks")]
        logger = types.ModuleType("adv_lib.utils.visdom_logger")
        logger.VisdomLogger = object
        sys.modules |= {package.__name__: package, logger.__name__: logger}
    return getattr(import_module(f"adv_lib.attacks.{module}"), name)


@pytest.fixture(scope="module")
def bout(sparring_data):
    """A network, labelled inputs, and the median distance and passes of any run."""
    model = wong_cnn().eval()
    model.load_state_dict(
        torch.load(sparring_data / "models" / "wong_fgsm_mnist_linf0.3.pth", weights_only=True, map_location="cpu")
    )
    digits = np.load(sparring_data / "mnist" / "mnist.npz", allow_pickle=False)
    x = torch.from_numpy(digits["x_test"][:24]).float().div(255).unsqueeze(1)
    y = torch.from_numpy(digits["y_test"][:24]).long()

    def run(attack, norm):
        torch.manual_seed(0)
        counted = Counted(model)
        if hasattr(attack, "threat"):
            z = attack(counted, x, Untargeted(y), Streams.of(0, range(len(x))))
        else:
            z = attack(counted, x.clone(), y.clone()).detach()
        with torch.no_grad():
            reached = model(z).argmax(1) != y
        distance = torch.where(reached, NORMS[norm].size(z - x), torch.inf)
        return distance, (counted.forward + counted.backward) / len(x)

    return run


def test_ddn_finds_what_adv_lib_finds(bout):
    ours, passes = bout(ddn(l2(2.0), steps=100), "l2")
    peer = adv_lib("decoupled_direction_norm", "ddn")
    theirs, spent = bout(lambda m, x, y: peer(m, x, y, steps=100, levels=None), "l2")
    assert passes <= spent
    torch.testing.assert_close(ours.median(), theirs.median(), rtol=0.01, atol=0)


def test_sigma_zero_finds_what_adv_lib_finds(bout):
    ours, _ = bout(sigma_zero(l0(20.0), steps=100), "l0")
    peer = adv_lib("sigma_zero", "sigma_zero")
    theirs, _ = bout(lambda m, x, y: peer(m, x, y, num_steps=100), "l0")
    assert abs(ours.median() - theirs.median()) <= 1


@pytest.mark.parametrize("norm", NORMS)
def test_the_recommended_attack_is_nearer_than_fmn_of_adv_lib_at_equal_passes(bout, norm):
    ours, passes = bout(smallest(Ball(NORMS[norm], 1.0), steps=100), norm)
    peer = adv_lib("fast_minimum_norm", "fmn")
    theirs, spent = bout(lambda m, x, y: peer(m, x, y, ORDERS[norm], steps=100), norm)
    assert passes <= spent
    assert ours.isfinite().all()
    assert ours.median() <= theirs.median()


@pytest.mark.parametrize("norm", NORMS)
def test_fmn_is_nearer_than_fmn_of_adv_lib_at_equal_passes(bout, norm):
    ours, _ = bout(fmn(Ball(NORMS[norm], 1.0), steps=100), norm)
    peer = adv_lib("fast_minimum_norm", "fmn")
    theirs, _ = bout(lambda m, x, y: peer(m, x, y, ORDERS[norm], steps=100), norm)
    assert ours.median() <= 1.02 * theirs.median()


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_pdpgd_is_as_near_as_pdpgd_of_adv_lib(bout, norm):
    ours, _ = bout(pdpgd(Ball(NORMS[norm], 1.0), steps=300), norm)
    peer = adv_lib("primal_dual_gradient_descent", "pdpgd")
    theirs, _ = bout(lambda m, x, y: peer(m, x, y, ORDERS[norm], num_steps=300), norm)
    assert ours.median() <= 1.05 * theirs.median()


def test_bisection_is_as_near_as_apgd_with_bisection_at_equal_passes(bout):
    ours, passes = bout(bisection(linf(1.0), steps=15, rounds=9), "linf")
    peer = adv_lib("auto_pgd", "minimal_apgd")
    theirs, spent = bout(
        lambda m, x, y: peer(m, x, y, torch.inf, 1.0, binary_search_steps=8, n_iter=15, loss_function="ce"), "linf"
    )
    assert passes <= spent
    assert ours.median() <= 1.005 * theirs.median()


def test_fab_is_as_near_as_fab_of_adv_lib(bout):
    ours, _ = bout(fab_t(linf(0.3), steps=20, targets=3), "linf")
    peer = adv_lib("fast_adaptive_boundary", "fab")
    theirs, _ = bout(lambda m, x, y: peer(m, x, y, torch.inf, n_iter=10, restarts=3, targeted_restarts=True), "linf")
    assert ours.median() <= 1.05 * theirs.median()


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_deepfool_is_as_near_as_foolbox_s(bout, norm):
    foolbox = pytest.importorskip("foolbox", reason="a peer: pip install 'sparring[peers]'")

    class Wrapped(torch.nn.Module):
        def __init__(self, model):
            super().__init__()
            self.model = model

        def forward(self, x):
            return self.model(x)

    make = {"linf": foolbox.attacks.LinfDeepFoolAttack, "l2": foolbox.attacks.L2DeepFoolAttack}[norm]

    def theirs(m, x, y):
        return make(steps=50).run(foolbox.PyTorchModel(Wrapped(m).eval(), bounds=(0, 1)), x, y)

    ours, _ = bout(deepfool(Ball(NORMS[norm], 1.0)), norm)
    found, _ = bout(theirs, norm)
    assert ours.median() <= 1.05 * found.median()
