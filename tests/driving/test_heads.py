import math

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from sparring.domains.driving.detectors import GREY, Detector, letterboxed, stretched
from sparring.domains.driving.heads import chosen, detr, detr_sigmoid, fastest_det, yolo, yolo_v8
from sparring.domains.driving.predictions import Predictions, Rules
from sparring.errors import BadInput
from sparring.streams import Streams


def confidences(outputs):
    """Of every place in every class."""
    said = Predictions(outputs)
    return said.objectness.sigmoid().unsqueeze(2) * said.classes.exp()


def draw(*shape, seed=0):
    return Streams.of(seed, range(shape[0])).uniform(*shape[1:])


def test_a_grid_of_fastest_det_is_decoded_as_its_repository_does():
    raw = torch.cat([draw(2, 1, 3, 4), 4 * draw(2, 4, 3, 4, seed=1) - 2, draw(2, 5, 3, 4, seed=2).softmax(1)], 1)
    outputs = fastest_det(raw, 352, 352)
    assert outputs.shape == (2, 12, 10)
    b, row, column = 1, 2, 3
    one = raw[b, :, row, column]
    x, y = (math.tanh(one[1]) + column) / 4, (math.tanh(one[2]) + row) / 3
    width, height = one[3].sigmoid().item(), one[4].sigmoid().item()
    place = outputs[b, row * 4 + column]
    assert_close(place[:4], torch.tensor([x - width / 2, y - height / 2, x + width / 2, y + height / 2]))
    assert_close(confidences(outputs)[b, row * 4 + column], one[0] * one[5:])


def test_rows_of_yolo_keep_their_boxes_and_confidences():
    raw = torch.cat([300 * draw(2, 7, 4), draw(2, 7, 6, seed=1)], 2)
    for said in (raw, (raw, ["feature maps"]), [raw]):
        outputs = yolo(said, 320, 640)
        assert_close(confidences(outputs), raw[..., 4:5] * raw[..., 5:])
        centre = (outputs[..., :2] + outputs[..., 2:4]) / 2 * torch.tensor([640.0, 320.0])
        assert_close(centre, raw[..., :2])
        assert_close((outputs[..., 3] - outputs[..., 1]) * 320, raw[..., 3])


def test_columns_of_yolo_v8_keep_their_boxes_and_confidences_without_objectness():
    raw = torch.cat([300 * draw(2, 4, 7), draw(2, 6, 7, seed=1)], 1)
    outputs = yolo_v8((raw, None), 320, 640)
    assert_close(confidences(outputs), raw[:, 4:].transpose(1, 2))
    assert_close(outputs[..., :4], yolo(raw.transpose(1, 2), 320, 640)[..., :4])
    assert_close(Predictions(outputs).objectness.sigmoid(), raw[:, 4:].amax(1))


def test_detr_has_a_class_for_nothing_which_takes_its_part_of_the_confidence():
    logits, box = 4 * draw(2, 5, 4), draw(2, 5, 4, seed=1)
    outputs = detr({"pred_logits": logits, "pred_boxes": box}, 1, 1)
    assert_close(confidences(outputs), logits.softmax(2)[..., :-1])
    assert_close((outputs[..., :2] + outputs[..., 2:4]) / 2, box[..., :2])
    some = chosen(detr, (2, 0))({"pred_logits": logits, "pred_boxes": box}, 1, 1)
    assert_close(confidences(some), logits.softmax(2)[..., [2, 0]])


@pytest.mark.parametrize(
    ("head", "raw"),
    [(fastest_det, torch.zeros(1, 5)), (yolo, {"boxes": 1}), (yolo_v8, torch.zeros(1)), (detr, 3), (detr_sigmoid, ())],
)
def test_what_a_head_cannot_read_is_refused_in_one_line(head, raw):
    with pytest.raises(BadInput) as error:
        head(raw, 8, 8)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("head", [fastest_det, yolo, yolo_v8, detr])
def test_saturated_outputs_give_numbers_and_slopes_that_are_numbers(head):
    shape = {fastest_det: (1, 8, 2, 2), yolo: (1, 6, 8), yolo_v8: (1, 7, 6), detr: (1, 4, 4)}[head]
    for value in (0.0, 1.0):
        raw = torch.full(shape, value).requires_grad_()
        said = {"pred_logits": 200 * raw, "pred_boxes": raw} if head is detr else raw
        outputs = head(said, 8, 8)
        assert outputs.isfinite().all()
        (slope,) = torch.autograd.grad(outputs.sum(), raw)
        assert slope.isfinite().all()


def test_a_letterbox_keeps_proportions_and_says_where_the_image_lies():
    x = torch.ones(2, 3, 20, 40)
    seen, (left, top, across, down) = letterboxed(x, 32, 32)
    assert seen.shape == (2, 3, 32, 32)
    assert (left, top, across, down) == (0.0, 0.25, 1.0, 0.5)
    assert_close(seen[:, :, :8], torch.full((2, 3, 8, 32), GREY))
    assert_close(seen[:, :, 8:24], torch.ones(2, 3, 16, 32))
    assert stretched(x, 20, 40)[0] is x


class Spot(nn.Module):
    """Finds the brightest spot of red, softly: one place, a box of a tenth of what it sees around it."""

    def forward(self, seen):
        share = (20 * seen[:, 0]).flatten(1).softmax(1).view(-1, *seen.shape[2:])
        y = (share.sum(2) * (torch.arange(seen.shape[2]) + 0.5)).sum(1)
        x = (share.sum(1) * (torch.arange(seen.shape[3]) + 0.5)).sum(1)
        size = torch.full_like(x, 0.1 * seen.shape[2])
        return torch.stack([x, y, size, size, 0.9 + 0 * x, 0.8 + 0 * x], 1).unsqueeze(1)


@pytest.mark.parametrize("fit", [letterboxed, stretched])
@pytest.mark.parametrize("size", [None, (64, 64), (48, 96)])
def test_boxes_come_back_in_the_image_that_was_handed_over(fit, size):
    x = torch.zeros(1, 3, 32, 64)
    x[:, 0, 10, 40] = 1.0
    detector = Detector(Spot(), yolo, size=size, fit=fit)
    found = Rules().detect(detector(x))
    centre = (found[0, 0, 1:3] + found[0, 0, 3:5]) / 2
    assert_close(centre, torch.tensor([40.5 / 64, 10.5 / 32]), atol=0.02, rtol=0)
    assert found[0, 0, 5].item() == pytest.approx(0.72)


def test_gradients_reach_the_image_through_all_that_is_done_to_it():
    x = draw(2, 3, 20, 30).requires_grad_()
    detector = Detector(Spot(), yolo, size=(32, 32), bgr=True, mean=(0.4, 0.5, 0.6), deviation=(0.2, 0.2, 0.2))
    (slope,) = torch.autograd.grad(detector(x)[..., :4].sum(), x)
    assert (slope[:, 2] != 0).any()
    assert not slope[:, :2].any()
    assert not list(detector.state_dict())


def test_inputs_that_are_no_images_are_refused():
    with pytest.raises(BadInput, match=r"need images \(B, 3, H, W\)"):
        Detector(Spot(), yolo)(torch.zeros(2, 1, 8, 8))


@pytest.mark.frameworks
@pytest.mark.parametrize("kind", ["yolos", "detr"])
def test_networks_of_transformers_are_detectors(kind):
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    if kind == "yolos":
        config = transformers.YolosConfig(
            hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, image_size=[32, 32],
            patch_size=8, num_detection_tokens=5, num_labels=3,
        )  # fmt: skip
        network = transformers.YolosForObjectDetection(config).eval()
    else:
        back = transformers.ResNetConfig(embedding_size=8, hidden_sizes=[8, 8], depths=[1, 1], out_features=["stage2"])
        config = transformers.DetrConfig(
            use_timm_backbone=False, use_pretrained_backbone=False, backbone=None, backbone_config=back, d_model=16,
            encoder_layers=1, decoder_layers=1, encoder_attention_heads=2, decoder_attention_heads=2,
            encoder_ffn_dim=16, decoder_ffn_dim=16, num_queries=5, num_labels=3,
        )  # fmt: skip
        network = transformers.DetrForObjectDetection(config).eval()
    x = draw(2, 3, 40, 32).requires_grad_()
    outputs = Detector(network, detr, size=(32, 32))(x)
    assert outputs.shape == (2, 5, 8)
    (slope,) = torch.autograd.grad(Predictions(outputs).sure.sum(), x)
    assert slope.isfinite().all()
    assert slope.any()
