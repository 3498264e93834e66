from dataclasses import replace

import pytest
import torch
from scenes import objects
from torch.testing import assert_close

from sparring.attacks import universal_patch
from sparring.domains.driving.stickers import Sticker, worn
from sparring.domains.driving.tasks import Vanishing
from sparring.domains.driving.viewpoints import seen_from
from sparring.domains.images.patches import patch
from sparring.errors import BadInput
from sparring.streams import Streams

LABELS = torch.tensor([[[0.0, 0.25, 0.25, 0.75, 0.75]], [[1.0, 0.0, 0.0, 0.5, 1.0]], [[-1.0, 0, 0, 0, 0]]])


def test_a_patch_covers_its_share_of_the_objects_that_wear_it_and_nothing_else():
    x, white = torch.zeros(3, 3, 40, 40), torch.ones(1, 3, 8, 8)
    z = Sticker(white, share=0.25, degrees=0.0)(x, LABELS, Streams.of(0, range(3)))
    lit = (z > 0).any(1).flatten(1).sum(1)
    assert lit.tolist() == [100, 196, 0]  # a quarter of 20 by 20, and of 20 by 40 in whole pixels
    assert (z[0, :, 15:25, 15:25] > 0.5).all()
    one = Sticker(white, share=0.25, kinds=(1,))(x, LABELS, Streams.of(0, range(3)))
    assert (one != 0).flatten(1).any(1).tolist() == [False, True, False]
    with pytest.raises(BadInput, match="share of 0"):
        Sticker(white, share=0.0)


def test_an_image_wears_the_same_in_every_company():
    x, labels = Streams.of(0, range(8)).uniform(3, 24, 24), objects(8, 0)
    sticker = Sticker(Streams.of(1, [0]).uniform(3, 6, 6))
    z = sticker(x, labels, Streams.of(2, range(8)))
    rows = torch.tensor([6, 1])
    assert torch.equal(sticker(x[rows], labels[rows], Streams.of(2, rows)), z[rows])
    assert z.min() >= 0
    assert z.max() <= 1


class Reddest(torch.nn.Module):
    """Sees the object of an image, unless the redness of the middle of its box hides it."""

    def forward(self, x):
        red = (x[:, 0] - x[:, 1])[:, 8:16, 8:16].flatten(1).mean(1)
        box = x.new_tensor([0.0, 0.0, 1.0, 1.0]).expand(len(x), -1)
        return torch.cat([box, (1 - 6 * red).unsqueeze(1), x.new_zeros(len(x), 1)], 1).unsqueeze(1)


def test_a_patch_learns_the_colour_that_hides_objects():
    x, labels = (
        0.2 + 0.6 * Streams.of(0, range(12)).uniform(3, 24, 24),
        torch.tensor([0.0, 0, 0, 1, 1]).expand(12, 1, 5),
    )
    model, task = Reddest(), Vanishing(1.0)
    learner = replace(universal_patch(patch(1.0), steps=20), batch=6)
    rng, test = Streams.of(0, range(12)), Streams.of(9, range(12))
    sticker = worn(learner, model, x, labels, goal=task.never(labels), rng=rng, side=6, share=0.1)
    assert_close(sticker.patch.mean((2, 3))[0, :2], torch.tensor([1.0, 0.0]), atol=0.05, rtol=0)
    goal, grey = task.goal(labels), replace(sticker, patch=torch.full_like(sticker.patch, 0.5))
    assert goal.reached(model(sticker(x, labels, test))).all()
    assert not goal.reached(model(grey(x, labels, test))).any()
    with pytest.raises(BadInput, match="choose other kinds"):
        worn(learner, model, x, labels, goal=task.never(labels), rng=rng, kinds=(7,))


def test_a_picture_seen_from_where_it_fills_the_view_is_as_it_was():
    x = Streams.of(0, range(2)).uniform(3, 16, 16)
    seen, labels = seen_from(x, LABELS[:2])
    assert_close(seen, x, atol=1e-5, rtol=0)
    assert_close(labels, LABELS[:2])


def test_boxes_follow_a_picture_that_is_seen_from_the_side():
    x = torch.zeros(3, 3, 200, 200)
    x[0, :, 50:150, 50:150] = 1.0
    for distance, degrees in ((2.0, 0.0), (1.5, 40.0), (1.2, -30.0)):
        seen, labels = seen_from(x, LABELS, distance, degrees)
        lit = (seen[0, 0] > 0.75).nonzero()
        expected = torch.cat([lit.amin(0).flip(0), lit.amax(0).flip(0) + 1]) / 200
        assert_close(labels[0, 0, 1:], expected, atol=0.012, rtol=0)
        assert labels[2, 0, 0] == -1
    near, far = (seen_from(x, LABELS, distance)[1][0, 0, 3] for distance in (2.0, 4.0))
    assert_close(torch.stack([near, far]), torch.tensor([0.625, 0.5625]))


@pytest.mark.parametrize("view", [(0.0, 0.0), (1.0, 90.0), (0.4, 89.0)])
def test_a_camera_stands_before_the_picture(view):
    with pytest.raises(BadInput, match="camera before the picture"):
        seen_from(torch.zeros(1, 3, 4, 4), LABELS[:1], *view)
