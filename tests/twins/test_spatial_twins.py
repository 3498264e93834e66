"""The grid of turns and moves in Foolbox, on a published network and real digits, over the same poses."""

import numpy as np
import pytest
import torch

from sparring.attacks import pose_grid
from sparring.domains.images.threats import Pose
from sparring.goals import Untargeted
from sparring.networks import wong_cnn
from sparring.streams import Streams

pytestmark = pytest.mark.frameworks
foolbox = pytest.importorskip("foolbox", reason="a peer: pip install 'sparring[peers]'")


@pytest.mark.filterwarnings("ignore:torch.meshgrid")
def test_as_many_digits_stand_all_turns_and_moves_as_in_foolbox(sparring_data):
    model = wong_cnn().eval()
    weights = sparring_data / "models" / "wong_fgsm_mnist_linf0.3.pth"
    model.load_state_dict(torch.load(weights, weights_only=True, map_location="cpu"))
    with np.load(sparring_data / "mnist" / "mnist.npz", allow_pickle=False) as digits:
        x = torch.from_numpy(digits["x_test"][:100]).float().div(255).unsqueeze(1)
        y = torch.from_numpy(digits["y_test"][:100]).long()
    threat = Pose(12.0, 1 / 28, angles=9, places=3)
    z = pose_grid(threat)(model, x, Untargeted(y), Streams.of(0, range(100)))
    with torch.no_grad():
        ours = model(z).argmax(1) != y
    peer = foolbox.attacks.SpatialAttack(max_translation=1, max_rotation=12, num_translations=3, num_rotations=9)
    _, _, theirs = peer(foolbox.PyTorchModel(model, bounds=(0, 1), device="cpu"), x, y)
    assert 5 < ours.sum() < 80
    assert abs(int(ours.sum()) - int(theirs.sum())) <= 4
    assert (ours != theirs).sum() <= 6
