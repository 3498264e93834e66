"""Double masking: windows hide every patch, no proof is wrong under any of them, and answers are Algorithm 1's."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from sparring.attacks import patch as best_patch
from sparring.certify import PatchCleanser, interval, patch_cleanser
from sparring.certify.masking import leads, spans
from sparring.cli import cli
from sparring.data import Arrays
from sparring.domains.images.patches import patch as square
from sparring.domains.images.patches import side_of
from sparring.errors import BadInput
from sparring.evaluate.proofs import prove
from sparring.goals import Untargeted
from sparring.models.loading import adopt
from sparring.streams import Streams
from sparring.threats import Ball, linf, parse
from sparring.zoo.honest import convolutional

SIDE = 2


def drawn(seed: int, pixels: int, *, wrong: float) -> Callable[[Tensor], Tensor]:
    """A function of binary images that says 0, save for a share of them, at random: nothing that a network could be."""
    rng = np.random.default_rng(seed)
    table = np.where(rng.random(2**pixels) < wrong, rng.integers(1, 3, 2**pixels), 0)
    powers = 2 ** torch.arange(pixels)

    def model(x: Tensor) -> Tensor:
        said = torch.from_numpy(table)[(x.flatten(1).long() * powers).sum(1)]
        return torch.nn.functional.one_hot(said, 3).float()

    return model


def patched(x: Tensor) -> Tensor:
    """The image under every patch of binary pixels, wherever it lies."""
    height, width = x.shape[2:]
    high = min(SIDE, height)
    contents = torch.tensor(list(itertools.product((0.0, 1.0), repeat=high * SIDE))).view(-1, 1, high, SIDE)
    found = []
    for down, across in itertools.product(range(height - high + 1), range(width - SIDE + 1)):
        z = x.expand(len(contents), -1, -1, -1).clone()
        z[:, :, down : down + high, across : across + SIDE] = contents
        found.append(z)
    return torch.cat(found)


def by_the_paper(model: Callable[[Tensor], Tensor], x: Tensor, masks: list[Tensor]) -> int:
    """Algorithm 1 for one image, line by line."""

    def says(hidden: Tensor) -> int:
        return int(model(x.masked_fill(hidden, 0.0)).argmax())

    once = [says(mask) for mask in masks]
    most = Counter(once).most_common()
    majority = min(label for label, count in most if count == most[0][1])
    for mask, label in zip(masks, once, strict=True):
        if label != majority and all(says(mask | other) == label for other in masks):
            return label
    return majority


@given(st.integers(1, 60), st.integers(1, 60), st.integers(1, 12))
def test_every_patch_is_hidden_whole_by_one_of_the_spans(length: int, side: int, count: int) -> None:
    found, side = spans(length, side, count), min(side, length)
    assert len(found) <= count
    for start in range(length - side + 1):
        assert any(low <= start and start + side <= high for low, high in found)
    assert all(low >= 0 and high <= length for low, high in found)
    assert len({high - low for low, high in found}) == 1


@pytest.mark.parametrize(("shape", "masks"), [((1, 9), 4), ((1, 9), 3), ((2, 7), 3), ((3, 5), 2)])
def test_no_patch_changes_what_is_proved_and_answers_are_those_of_the_paper(shape: tuple[int, int], masks: int) -> None:
    pixels, proved, changed = shape[0] * shape[1], 0, 0
    threat = square(SIDE**2 / pixels)
    masking, images = PatchCleanser(threat=threat, masks=masks), Streams.of(3, range(6)).uniform(1, *shape).round()
    assert side_of(threat.eps, images) == SIDE
    for seed in range(60):
        model = drawn(seed, pixels, wrong=0.05 * (1 + seed % 8))
        deployed, windows = masking.defend(model), list(masking.windows(images))
        labels = deployed(images).argmax(1)
        sure = masking.least(model, images, labels) > 0
        for i, x in enumerate(images.split(1)):
            z = patched(x)
            said = deployed(z).argmax(1)
            kept = bool((said == labels[i]).all())
            assert kept or not sure[i]
            proved, changed = proved + bool(sure[i]), changed + (not kept)
            if i == 0:
                assert said.tolist() == [by_the_paper(model, one, windows) for one in z.split(1)]
    assert proved > 20
    assert changed > 20


def test_a_patch_that_hides_the_whole_image_leaves_nothing_to_prove() -> None:
    masking = patch_cleanser(square(1.0))
    network, x = convolutional(), torch.rand(4, 1, 28, 28)
    assert masking.windows(x).all()
    blank = int(network(torch.zeros(1, 1, 28, 28)).argmax())
    assert (masking.defend(network)(x).argmax(1) == blank).all()


def test_of_a_patch_without_pixels_what_is_right_is_proved() -> None:
    masking, network, x = patch_cleanser(square(0.0)), convolutional(), torch.rand(4, 1, 28, 28)
    outputs = network(x)
    assert torch.equal(masking.defend(network)(x), outputs)
    assert (masking.least(network, x, outputs.argmax(1)) > 0).all()


def test_rows_do_not_see_each_other() -> None:
    x, network = torch.rand(6, 1, 28, 28), convolutional()
    view = patch_cleanser(square(0.02), masks=3).defend(network)
    with torch.no_grad():
        assert torch.allclose(view(x), torch.cat([view(one) for one in x.split(1)]), atol=1e-5)


def test_the_adaptive_view_has_the_same_outputs_and_a_slope() -> None:
    masking, network = patch_cleanser(square(0.02), masks=3), convolutional()
    x = torch.rand(5, 1, 28, 28).requires_grad_()
    climbed = masking.adaptive(network)(x)
    assert torch.equal(climbed, masking.defend(network)(x))
    (slope,) = torch.autograd.grad(climbed[:, 0].sum(), x)
    assert (slope.flatten(1).abs().amax(1) > 0).all()


def test_scores_that_are_large_under_a_patch_round_no_answer_away() -> None:
    x, masking = torch.zeros(1, 1, 28, 28), patch_cleanser(square(0.02), masks=3)
    z = x.clone()
    z[..., 5, 5] = 1.0
    for scale in Streams.of(0, range(200)).uniform(1).flatten():
        large = 2**24 * (1 + 200 * scale)
        seen, unseen = torch.stack([large, large.nextafter(torch.tensor(torch.inf))]), torch.tensor([0.0, 1.0])
        model = lambda x: torch.where((x == 1).flatten(1).any(1).unsqueeze(1), seen, unseen)  # noqa: B023, E731
        assert float(masking.least(model, x, torch.tensor([1]))) > 0
        assert int(masking.defend(model)(z).argmax(1)) == 1


def test_a_lead_that_rounding_may_take_is_none() -> None:
    outputs = torch.tensor([[1.0, 0.5], [100.0, 99.9995], [1.0, torch.nan], [5.0, -torch.inf], [0.0, 1.0]])
    first = torch.zeros(5, dtype=torch.int64)
    assert (leads(outputs, first) > 0).tolist() == [True, False, False, True, False]
    assert (leads(torch.tensor([[1, 0], [1, 1]]), first[:2]) > 0).tolist() == [True, False]
    near = torch.tensor([[1.0, 0.99], [1.0, 0.9]]).bfloat16()
    assert (leads(near, first[:2]) > 0).tolist() == [False, True]


def digits(limit: int = 20) -> tuple[Tensor, Tensor]:
    from sparring.data import load

    return load("digits").take(range(limit))


def test_what_is_proved_stands_under_attack_and_a_run_goes_on(tmp_path) -> None:  # type: ignore[no-untyped-def]
    threat, network = parse("patch:0.01"), convolutional()
    assert isinstance(threat, Ball)
    masking = patch_cleanser(threat, masks=4)
    x, labels = digits(24)
    data, victim = Arrays("digits", x, labels), adopt(network, name="net", example=x[:1])
    whole = prove(victim, data, threat, masking)
    assert 0 < whole.certified < whole.right
    assert whole.threat == {"norm": "patch", "eps": 0.01, "low": 0.0, "high": 1.0}

    def stop(stage: str, done: int, total: int) -> None:
        if done >= 16:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prove(victim, data, threat, masking, out=tmp_path, watch=stop)
    again = prove(victim, data, threat, masking, out=tmp_path, resume=True)
    assert again.per_example == whole.per_example
    z = best_patch(threat, steps=5, places=2)(  # type: ignore[arg-type]
        masking.adaptive(network), x, Untargeted(labels), Streams.of(0, range(24))
    )
    assert bool(threat.contains(z, x).all())
    stand = masking.defend(network)(z).argmax(1) == labels
    proved = torch.tensor([one.certified for one in whole.per_example])
    assert bool(stand[proved].all())


def test_scores_in_numpy_will_do() -> None:
    x, labels = digits(10)
    network, data, threat = convolutional(), Arrays("digits", x, labels), square(0.01)

    def scores(given: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            return np.asarray(network(torch.from_numpy(np.asarray(given, dtype=np.float32))))

    victims = [adopt(one, name="net", example=x[:1]) for one in (network, scores)]
    assert [one.access for one in victims] == ["gradients", "scores"]
    told = [prove(one, data, threat, patch_cleanser(threat)) for one in victims]
    assert [one.certified for one in told[0].per_example] == [one.certified for one in told[1].per_example]
    assert told[0].certified > 0


def test_what_can_not_be_proved_is_refused_in_a_line() -> None:
    x, labels = digits(2)
    data = Arrays("digits", x, labels)
    masking = patch_cleanser(square(0.02))
    shaky = adopt(lambda x: torch.randn(len(x), 10), name="shaky", example=x[:1])
    with pytest.raises(BadInput, match="one that is not random"):
        prove(shaky, data, square(0.02), masking)
    silent = adopt(lambda x: x.flatten(1)[:, :10] * torch.nan, name="silent", example=x[:1])
    with pytest.raises(BadInput, match="silent, whose scores are NaN"):
        prove(silent, data, square(0.02), masking)
    steady = adopt(convolutional(), name="net", example=x[:1])
    with pytest.raises(BadInput, match="one threat"):
        prove(steady, data, square(0.05), masking)
    with pytest.raises(BadInput, match="one threat"):
        prove(steady, data, linf(0.1), masking)
    with pytest.raises(BadInput, match="linf, l2 or l1"):
        prove(steady, data, square(0.02), interval())
    flat = Arrays("flat", x.flatten(1), labels)
    with pytest.raises(BadInput, match="images"):
        prove(adopt(lambda x: x[:, :10], name="flat", example=x.flatten(1)[:1]), flat, square(0.02), masking)
    with pytest.raises(BadInput, match="one or more"):
        patch_cleanser(square(0.02), masks=0)
    with pytest.raises(BadInput, match="finite"):
        patch_cleanser(square(0.02), fill=float("nan"))


GIVEN = ["certify", "sparring.zoo.honest:convolutional", "--data", "digits", "--limit", "10"]


def test_the_command_line_certifies_against_patches() -> None:
    given_ = [*GIVEN, "--threat", "patch:0.01", "--method", "patch-cleanser", "--masks", "3"]
    said = CliRunner().invoke(cli, given_, catch_exceptions=False).output
    assert "of them cannot be changed within patch:0.01: patch-cleanser" in said
    for threat, method, match in (
        ("linf:0.1", "patch-cleanser", "patch-cleanser within linf:0.1; need a threat of patch"),
        ("patch:0.01", "crown", "crown within patch:0.01; need a threat of linf, l2, l1"),
    ):
        with pytest.raises(BadInput, match=match):
            CliRunner().invoke(cli, [*GIVEN, "--threat", threat, "--method", method], catch_exceptions=False)
    with pytest.raises(BadInput, match="--masks with --method crown"):
        CliRunner().invoke(cli, [*GIVEN, "--threat", "linf:0.1", "--masks", "3"], catch_exceptions=False)
