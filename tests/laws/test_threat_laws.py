"""What holds for every threat of the registry: it judges by itself, from two inputs, and believes nobody."""

import math
import pickle

import pytest
import torch
from toy import SIZES, inputs, threat_of

from sparring.domains.images.patches import patch as square
from sparring.domains.images.patches import side_of
from sparring.domains.images.threats import Corruption, Flow, Pose, Recolour
from sparring.errors import BadInput
from sparring.registry import members
from sparring.streams import Streams
from sparring.types import Boxed, Threat

KINDS = list(members("threats"))
FINITE = ["pose", "corruption"]
BOXES = [(0.0, 1.0), (-1.0, 1.0), (0.0, 255.0)]
SHAPES = [(1, 6, 6), (3, 5, 4), (2, 7, 3)]

every_threat = pytest.mark.parametrize("kind", KINDS)
BALLS = ("linf", "l2", "l1", "l0", "snr")
every_image_threat = pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in BALLS])
every_box = pytest.mark.parametrize(("low", "high"), BOXES)
every_shape = pytest.mark.parametrize("shape", SHAPES, ids=str)


def allowed(kind, threat, x, rng):
    """Some images of the threat, made without its judgement."""
    low, high = threat.low, threat.high
    if kind in FINITE:
        return threat.member(x, rng.integers(len(threat.sizes), 1).flatten())
    if kind == "flow":  # what was a pixel to the right, in every second row
        z = x.roll(-1, 3)
        z[..., -1] = x[..., -1]
        z[:, :, ::2] = x[:, :, ::2]
        return z
    if kind == "recolour":
        return (x + threat.eps * torch.sin(40 * (x - low) / (high - low))).clamp(low, high)
    if kind == "patch":
        z, side = x.clone(), side_of(threat.eps, x)
        z[:, :, 1 : 1 + side, :side] = high
        return z
    return threat.sample(x, rng)


@every_threat
@every_box
@every_shape
def test_the_input_itself_is_inside_at_no_distance(kind, low, high, shape):
    x = inputs(shape, 5, 0, low, high)
    for share in (0, 1):
        threat = threat_of(kind, low, high, share)
        assert threat.contains(x, x).all()
        assert (threat.distance(x, x) == 0).all()
        assert threat.distance(x, x).dtype == x.dtype


@every_threat
@every_box
@every_shape
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_what_is_made_by_the_rules_is_inside(kind, low, high, shape, dtype):
    x, rng = inputs(shape, 7, 1, low, high).to(dtype), Streams.of(0, range(7))
    threat = threat_of(kind, low, high)
    z = allowed(kind, threat, x, rng)
    assert z.dtype == dtype
    assert threat.contains(z, x).all()
    assert (threat.distance(z, x) <= SIZES[kind] * max(high - low, 1) * (1 + 1e-5)).all()


@every_image_threat
@every_shape
def test_a_change_that_breaks_the_rules_is_outside(kind, shape):
    x, rng = inputs(shape, 6, 2), Streams.of(0, range(6))
    threat = threat_of(kind)
    z = allowed(kind, threat, x, rng)
    anything = rng.at("anything").uniform(*shape)
    assert not threat.contains(anything, x).any()
    torn = z.clone()
    torn[:, :, ::2, ::2] = (z[:, :, ::2, ::2] + 0.5) % 1.0
    assert not threat.contains(torn, x).any()


@every_threat
@pytest.mark.parametrize("wrong", [torch.nan, torch.inf, -torch.inf, -0.01, 1.01])
def test_what_is_no_number_or_leaves_the_box_is_outside(kind, wrong):
    x = inputs((1, 6, 6), 4, 0)
    z = x.clone()
    z[:, 0, 2, 3] = wrong
    assert not threat_of(kind, share=4).contains(z, x).any()


@every_threat
@every_shape
def test_inside_is_where_the_distance_is_at_most_the_size(kind, shape):
    x, rng = inputs(shape, 12, 3), Streams.of(0, range(12))
    larger, threat = threat_of(kind, share=2), threat_of(kind)
    z = allowed(kind, larger, x, rng)
    size = SIZES[kind] if kind != "corruption" else threat.severity
    inside, distance = threat.contains(z, x), threat.distance(z, x)
    assert torch.equal(inside, distance <= size * (1 + 1e-5))
    if kind not in ("pose", "corruption"):  # the poses of a smaller threat are others
        assert (larger.contains(z, x) | ~inside).all()


@every_threat
def test_rows_are_judged_alone(kind):
    x, rng = inputs((3, 5, 4), 9, 4), Streams.of(0, range(9))
    threat = threat_of(kind)
    z = torch.where((torch.arange(9) % 2 == 0).view(-1, 1, 1, 1), allowed(kind, threat, x, rng), rng.uniform(3, 5, 4))
    together, far = threat.contains(z, x), threat.distance(z, x)
    assert together[::2].all()
    for rows in ([3], [8, 0, 1], list(range(8, -1, -1))):
        assert torch.equal(threat.contains(z[rows], x[rows]), together[rows])
        assert torch.equal(threat.distance(z[rows], x[rows]), far[rows])
    assert threat.contains(z[:0], x[:0]).shape == threat.distance(z[:0], x[:0]).shape == (0,)


@every_threat
def test_judging_changes_nothing(kind):
    x, rng = inputs((1, 6, 6), 4, 0), Streams.of(0, range(4))
    threat = threat_of(kind)
    z = allowed(kind, threat, x, rng)
    before = x.clone(), z.clone(), torch.get_rng_state()
    threat.contains(z, x)
    threat.distance(z, x)
    assert torch.equal(x, before[0])
    assert torch.equal(z, before[1])
    assert torch.equal(torch.get_rng_state(), before[2])


@every_threat
def test_a_threat_is_a_value_and_says_what_it_is(kind):
    threat = threat_of(kind)
    assert threat == threat_of(kind)
    assert hash(threat) == hash(threat_of(kind))
    assert pickle.loads(pickle.dumps(threat)) == threat
    assert str(threat).startswith(f"{kind}:")
    assert isinstance(threat, Boxed)
    assert isinstance(threat, Threat)


@every_threat
@pytest.mark.parametrize("size", [-1.0, math.nan, math.inf])
def test_a_size_that_is_none_is_refused_in_one_line(kind, size):
    with pytest.raises(BadInput) as refusal:
        members("threats")[kind].make(size, low=0.0, high=1.0)
    assert "\n" not in str(refusal.value)


@every_image_threat
def test_an_image_threat_refuses_other_inputs_and_a_box_without_end(kind):
    make = members("threats")[kind].make
    x = torch.zeros(2, 7)
    with pytest.raises(BadInput, match="images"):
        make(1.0, low=0.0, high=1.0).contains(x, x)
    for low, high in ((0.0, math.inf), (1.0, 0.0), (math.nan, 1.0)):
        with pytest.raises(BadInput, match="low < high"):
            make(1.0, low=low, high=high)


@pytest.mark.parametrize("kind", FINITE)
@every_shape
def test_members_are_in_order_of_size_and_the_first_is_the_input(kind, shape):
    x = inputs(shape, 5, 0)
    threat = threat_of(kind)
    assert list(threat.sizes) == sorted(threat.sizes)
    assert threat.sizes[0] == 0
    assert torch.equal(threat.member(x, torch.zeros(5, dtype=torch.int64)), x)
    mixed = torch.tensor([0, 1, len(threat.sizes) - 1, 2, 1])
    z = threat.member(x, mixed)
    for row, i in enumerate(mixed):
        assert torch.equal(threat.member(x[[row]], i[None]), z[[row]])


def test_a_flow_of_a_single_channel_is_judged_exactly():
    """Every value between the extremes of a window is reached by some flow: here is one that shows it."""
    x, threat = inputs((1, 5, 5), 40, 0).double(), Flow(0.7)
    least, most = threat.reachable(x, torch.full((40,), 0.7))
    share = Streams.of(1, range(40)).uniform(1, 5, 5).double()
    z = least + share * (most - least)
    assert threat.contains(z, x).all()
    assert not threat.contains((most + 1e-3).clamp(max=1), x)[(most.flatten(1).amax(1) < 0.999)].any()
    # the distance is the least reach at which it is inside
    d = threat.distance(z, x)
    inside = torch.stack([Flow(float(size) + 1e-9).contains(z[[i]], x[[i]])[0] for i, size in enumerate(d)])
    short = torch.stack([Flow(float(size) * 0.99).contains(z[[i]], x[[i]])[0] for i, size in enumerate(d)])
    assert inside.all()
    assert not short.any()


def test_channels_that_flow_apart_are_noticed():
    x = torch.zeros(1, 3, 7, 7)
    x[:, :, 3, 3] = 1.0
    red = x.clone()
    red[:, 0] = x[:, 0].roll(1, 2)  # red goes one way, green and blue stay
    assert not Flow(1.0).contains(red, x).any()
    assert Flow(1.0).contains(x.roll(1, 2), x).all()


def test_equal_colours_must_stay_equal():
    x = torch.tensor([0.1, 0.5, 0.5, 0.9]).view(1, 1, 2, 2)
    curve = torch.tensor([0.15, 0.45, 0.45, 0.9]).view(1, 1, 2, 2)
    torn = torch.tensor([0.1, 0.45, 0.5, 0.9]).view(1, 1, 2, 2)
    assert Recolour(0.05).contains(curve, x).all()
    assert not Recolour(0.04).contains(curve, x).any()
    assert not Recolour(1.0).contains(torn, x).any()
    colours = torch.rand(1, 3, 2, generator=torch.Generator().manual_seed(0))
    pixels = colours[:, :, [0, 1, 1, 0]].view(1, 3, 2, 2)
    moved = pixels + 0.05 * torch.tensor([1.0, -1.0, -1.0, 1.0]).view(1, 1, 2, 2)
    assert Recolour(0.06, -1, 2).contains(moved, pixels).all()
    assert not Recolour(0.06, -1, 2).contains(moved.flip(3) * 0.5 + pixels * 0.5, pixels).any()


def test_a_patch_is_as_large_as_the_square_around_all_changes():
    x = torch.full((1, 3, 8, 8), 0.5)
    z = x.clone()
    z[0, 1, 2, 3] = z[0, 2, 4, 3] = 0.6
    threat = square(9 / 64)
    assert side_of(threat.eps, x) == 3
    assert threat.contains(z, x).all()
    assert threat.distance(z, x).item() == pytest.approx(9 / 64)
    z[0, 0, 2, 6] = 0.6
    assert not threat.contains(z, x).any()
    assert threat.distance(z, x).item() == pytest.approx(16 / 64)


def test_a_grid_of_poses_has_a_middle_and_a_severity_is_whole():
    with pytest.raises(BadInput, match="odd"):
        Pose(10.0, angles=4)
    for severity in (6, 2.5):
        with pytest.raises(BadInput, match="severity"):
            members("threats")["corruption"].make(severity, low=0.0, high=1.0)
    assert len(Pose(30.0).sizes) == 775  # Engstrom et al. (2019), section 4
    assert len(Corruption(5).sizes) == 76
