"""Threats on images that no norm describes: poses, flows, colours and corruptions.

Each says by itself whether an image is inside, from the image and the one it was made of: no attack is believed.
Images are `(B, C, H, W)`. Where a value is computed again, it may differ by `ROUNDING` of the range.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from sparring.domains.images.corruptions import KINDS, SEVERITIES, corrupted
from sparring.domains.images.warps import lattice, read
from sparring.errors import BadInput
from sparring.norms import rows
from sparring.registry import register
from sparring.streams import Streams
from sparring.threats import TOLERANCE
from sparring.types import Finite

ROUNDING = 2e-5
"""Of the range: what float32 loses in places and weights of pixels; a two-hundredth of an 8-bit step."""


def bounded(low: float, high: float) -> None:
    """Refuse a box without ends."""
    if not -math.inf < low < high < math.inf:
        raise BadInput(f"bounds {low}..{high}", "two numbers, low < high", "give the range of the pixels")


def sized(what: str, size: float, most: float = math.inf) -> None:
    """Refuse a size that is none."""
    if not (math.isfinite(size) and 0 <= size <= most):
        upto = f" and at most {most:g}" if math.isfinite(most) else ""
        raise BadInput(f"{what} of {size}", f"a finite number, zero or more{upto}", "give another size")


def images(x: Tensor) -> None:
    """Refuse inputs that are no images."""
    if x.dim() != 4:
        raise BadInput(f"inputs of shape {tuple(x.shape[1:])}", "images (C, H, W) for this threat", "use a norm")


def _all(inside: Tensor) -> Tensor:
    """Which rows are true throughout."""
    return inside.flatten(1).all(1)


def _in_box(z: Tensor, low: float, high: float) -> Tensor:
    return _all((z >= low) & (z <= high))  # NaN is neither


def smallest(threat: Finite, z: Tensor, x: Tensor, likely: Tensor) -> Tensor:
    """The size of the first member that is `z`, `(B,)`: infinity where none is.

    Makes every member that is `likely`, `(B, members)` bool, of every row that has not found its own.
    """
    found = torch.full((len(x),), torch.inf, device=x.device, dtype=x.dtype)
    likely = likely & _in_box(z, threat.low, threat.high).unsqueeze(1)
    for i, size in enumerate(threat.sizes):
        left = (likely[:, i] & found.isinf()).nonzero().flatten()
        if len(left):
            same = _same(threat.member(x[left], torch.full_like(left, i)), z[left], threat)
            found[left[same]] = size
    return found


def _same(member: Tensor, z: Tensor, threat: Finite) -> Tensor:
    """Which rows are equal, but for rounding."""
    return _all((member - z).abs() <= ROUNDING * (threat.high - threat.low))


@dataclass(frozen=True)
class Pose:
    """Turned by up to `degrees` and moved by up to `shift` of its side, on a grid (Engstrom et al., 2019).

    `angles` angles by `places` by `places` moves, evenly spread, and black where the image has left: finitely many
    images, so that the worst can be found, and what is claimed can be checked. The paper's grid is 31 by 5 by 5.
    """

    degrees: float
    shift: float = 0.1
    low: float = 0.0
    high: float = 1.0
    angles: int = 31
    places: int = 5

    def __post_init__(self) -> None:
        bounded(self.low, self.high)
        if self.angles % 2 == 0 or self.places % 2 == 0:
            raise BadInput(f"{self.angles} angles, {self.places} places", "odd numbers", "let the middle be no change")
        sized("a turn", self.degrees, 180)
        sized("a shift", self.shift, 1)

    @cached_property
    def poses(self) -> tuple[tuple[float, float, float, float], ...]:
        """Size in degrees, turn in degrees, moves down and right as shares of the side; from none to the largest."""
        turns, moves = (
            [i / max(count // 2, 1) for i in range(-(count // 2), count // 2 + 1)]
            for count in (self.angles, self.places)
        )
        ordered = sorted(itertools.product(turns, moves, moves), key=lambda pose: (max(map(abs, pose)), pose))
        return tuple(
            (self.degrees * max(map(abs, (a, i, j))), self.degrees * a, self.shift * i, self.shift * j)
            for a, i, j in ordered
        )

    @cached_property
    def sizes(self) -> tuple[float, ...]:
        """The sizes of all poses, in degrees; a move counts as much as a turn that goes as far on the grid."""
        return tuple(size for size, *_ in self.poses)

    def member(self, x: Tensor, which: Tensor) -> Tensor:
        """The images in these poses, `(B, C, H, W)`."""
        images(x)
        if len(which) and bool((which == which[0]).all()):
            which = which[:1]  # the same places for every image: worked out once
        down, across = self._origins(x, which, *lattice(x))
        return read(x, down, across, outside=self.low).clamp(self.low, self.high)

    def _origins(self, x: Tensor, which: Tensor, down: Tensor, across: Tensor) -> tuple[Tensor, Tensor]:
        """Where the pixels at these places come from: back by the move, and back by the turn about the centre."""
        pose = torch.tensor(self.poses, dtype=torch.float64)[which.cpu(), 1:]
        turn, (height, width) = pose[:, 0].deg2rad(), x.shape[2:]
        move = pose[:, 1:] * torch.tensor([height, width])
        cosine, sine, below, right = (
            each.to(x).view(-1, 1, 1) for each in (turn.cos(), turn.sin(), move[:, 0], move[:, 1])
        )
        i, j = down - (height - 1) / 2 - below, across - (width - 1) / 2 - right
        return cosine * i - sine * j + (height - 1) / 2, sine * i + cosine * j + (width - 1) / 2

    def _likely(self, z: Tensor, x: Tensor) -> Tensor:
        """Which poses agree on some pixels, `(B, members)`: few others are left to be made whole."""
        count, width = x.shape[2] * x.shape[3], x.shape[3]
        every = torch.arange(len(self.sizes), device=x.device)
        some = torch.arange(0, count, max(count // 64, 1), device=x.device).view(1, 1, -1)
        down, across = self._origins(x, every, (some // width).to(x.dtype), (some % width).to(x.dtype))
        agree = [
            _same(read(row.expand(len(every), *row.shape), down, across, outside=self.low), seen, self)
            for row, seen in zip(x, z.flatten(2)[:, :, None, some.flatten()], strict=True)
        ]
        return torch.stack(agree) if agree else every.new_zeros(0, len(every), dtype=torch.bool)

    def distance(self, z: Tensor, x: Tensor) -> Tensor:
        """The size of the smallest pose that makes `z`, in degrees; infinity where none does."""
        images(x)
        return smallest(self, z, x, self._likely(z, x))

    def contains(self, z: Tensor, x: Tensor) -> Tensor:
        """Whether one of the poses makes `z`: exact, by making all of them."""
        return self.distance(z, x).isfinite()

    def __str__(self) -> str:
        return f"pose:{self.degrees:g}"


@dataclass(frozen=True)
class Flow:
    """Every pixel shows what was up to `pixels` away from it, down and across (Xiao et al., 2018, stAdv).

    Between pixels the image is bilinear; beyond the border it goes on as at the border. How smooth the flow is does not
    matter here: an attack may want it smooth, the threat bounds how far it goes.
    """

    pixels: float
    low: float = 0.0
    high: float = 1.0

    def __post_init__(self) -> None:
        bounded(self.low, self.high)
        sized("a flow", self.pixels)

    def reachable(self, x: Tensor, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """The least and the most that every pixel can show, for flows of up to `pixels`, `(B,)`."""
        least, most = x, x
        for down, across in self.places(x, pixels):
            value = read(x, down, across)
            least, most = least.minimum(value), most.maximum(value)
        return least, most

    def places(self, x: Tensor, reach: Tensor) -> Iterable[tuple[Tensor, Tensor]]:
        """Where a bilinear surface has its extremes within reach: on whole pixels, and at the ends of the reach."""
        height, width = x.shape[2:]
        i, j = lattice(x)
        limit = rows(reach, x[:, 0])
        whole = range(-math.ceil(self.pixels), math.ceil(self.pixels) + 1)
        for down, across in itertools.product(whole, whole):
            yield (
                (i + limit.clamp(max=abs(down)) * math.copysign(1, down)).clamp(0, height - 1),
                (j + limit.clamp(max=abs(across)) * math.copysign(1, across)).clamp(0, width - 1),
            )

    def contains(self, z: Tensor, x: Tensor) -> Tensor:
        """Whether every pixel of `z` is between the least and the most that it can show.

        Exact for a single channel: a surface takes every value between its extremes, and every pixel has a flow of
        its own. Channels share a flow; for several of them the condition is necessary, and holds for every channel,
        every sum and every difference of two.
        """
        return self._within(z, x, torch.full((len(x),), self.pixels))

    def _within(self, z: Tensor, x: Tensor, pixels: Tensor) -> Tensor:
        images(x)
        least, most = self.reachable(_combined(x), pixels)
        shown, slack = _combined(z), ROUNDING * (self.high - self.low)
        return _in_box(z, self.low, self.high) & _all((shown >= least - slack) & (shown <= most + slack))

    def distance(self, z: Tensor, x: Tensor) -> Tensor:
        """The smallest flow that will do, in pixels, to a thousandth; infinity where it is beyond the threat."""
        near, far = torch.zeros(len(x)), torch.full((len(x),), self.pixels)
        inside, still = self._within(z, x, far), self._within(z, x, near)
        far = torch.where(still, near, far)
        for _ in range(10):
            middle = (near + far) / 2
            enough = self._within(z, x, middle)
            near, far = torch.where(enough, near, middle), torch.where(enough, middle, far)
        return far.to(x).where(inside, torch.inf)

    def __str__(self) -> str:
        return f"flow:{self.pixels:g}"


def _combined(x: Tensor) -> Tensor:
    """The channels, and all sums and differences of two."""
    pairs = list(itertools.combinations(range(x.shape[1]), 2))
    return torch.cat([x, *(x[:, [a]] + s * x[:, [b]] for a, b in pairs for s in (1, -1))], 1)


@dataclass(frozen=True)
class Recolour:
    """Equal colours stay equal, and no channel of one moves by more than `eps` (Laidlaw and Feizi, 2019, ReColorAdv).

    For grey images: a tone curve. In photographs of 8 bits many pixels share a colour; where no two do, this is the
    Linf ball.
    """

    eps: float
    low: float = 0.0
    high: float = 1.0

    def __post_init__(self) -> None:
        bounded(self.low, self.high)
        sized("eps", self.eps)

    def distance(self, z: Tensor, x: Tensor) -> Tensor:
        """The furthest that a channel of a colour moves; infinity where a colour becomes two."""
        size = (z - x).flatten(1).abs().amax(1)
        return size.where(_function_of_colour(z, x, ROUNDING * (self.high - self.low)), torch.inf)

    def contains(self, z: Tensor, x: Tensor) -> Tensor:
        """Whether `z` is a function of colour, and near enough: exact, by grouping the pixels of equal colour."""
        allowed = self.eps * (1 + TOLERANCE) + 4 * torch.finfo(x.dtype).eps * max(abs(self.low), abs(self.high))
        return _in_box(z, self.low, self.high) & (self.distance(z, x) <= allowed)

    def __str__(self) -> str:
        return f"recolour:{self.eps:g}"


def _function_of_colour(z: Tensor, x: Tensor, slack: float) -> Tensor:
    """Whether all pixels of a row that are equal in `x` are equal in `z`."""
    images(x)
    before, after = x.flatten(2), z.flatten(2)
    order = torch.arange(before.shape[2], device=x.device).expand(len(x), -1)
    for channel in range(x.shape[1]):  # stable sorts one after the other: by all channels at last
        order = order.gather(1, before[:, channel].gather(1, order).argsort(dim=1, stable=True))
    before, after = (each.gather(2, order.unsqueeze(1).expand_as(each)) for each in (before, after))
    new = (before.diff(dim=2) != 0).any(1).to(torch.int64)
    group = torch.cat([new.new_zeros(len(x), 1), new], 1).cumsum(1).unsqueeze(1).expand_as(after)
    most, least = (
        torch.zeros_like(after).scatter_reduce(2, group, after, side, include_self=False) for side in ("amax", "amin")
    )
    return _all(most - least <= slack)


@dataclass(frozen=True)
class Corruption:
    """The 15 common corruptions, up to a severity from 1 to 5 (Hendrycks and Dietterich, 2019).

    What is random in them follows from the pixels of `x` and from `seed`: an image has one gaussian noise of severity
    3, and not as many as there are draws. So all images of the threat can be made, by anyone, at any time.
    """

    severity: int
    seed: int = 0
    low: float = 0.0
    high: float = 1.0

    def __post_init__(self) -> None:
        bounded(self.low, self.high)
        if self.severity not in range(SEVERITIES + 1):
            raise BadInput(f"a severity of {self.severity:g}", "a whole number from 0 to 5", "write corruption:3")

    @property
    def sizes(self) -> tuple[float, ...]:
        """Severity 0 once, then every severity once for each kind."""
        return 0.0, *(float(severity) for severity in range(1, int(self.severity) + 1) for _ in KINDS)

    def member(self, x: Tensor, which: Tensor) -> Tensor:
        """The images under these corruptions, `(B, C, H, W)`: severity by severity, in the order of `KINDS`."""
        images(x)
        z, kinds = x.clone(), list(KINDS)
        for i in set(which.tolist()):
            if i:
                mine = which == i
                severity, kind = 1 + (i - 1) // len(kinds), kinds[(i - 1) % len(kinds)]
                z[mine] = self.corrupted(x[mine], kind, severity)
        return z

    def corrupted(self, x: Tensor, kind: str, severity: int) -> Tensor:
        """The images under one corruption."""
        width, rng = self.high - self.low, of_pixels(x, self.seed).at(kind).at(severity)
        v = corrupted((x - self.low) / width, kind, severity, rng)
        return (self.low + width * v).clamp(self.low, self.high)

    def distance(self, z: Tensor, x: Tensor) -> Tensor:
        """The least severity at which a corruption makes `z`; infinity where none does."""
        images(x)
        return smallest(self, z, x, torch.ones(len(x), len(self.sizes), device=x.device, dtype=torch.bool))

    def contains(self, z: Tensor, x: Tensor) -> Tensor:
        """Whether one of the corruptions makes `z`: exact, by making all of them."""
        return self.distance(z, x).isfinite()

    def __str__(self) -> str:
        return f"corruption:{self.severity:g}"


def of_pixels(x: Tensor, seed: int) -> Streams:
    """A random stream for each image that follows from its pixels alone: a multilinear hash of them, modulo 2**64."""
    bits = (x + 0.0).to(torch.float32).flatten(1).contiguous().view(torch.int32).long()  # + 0.0: there is one zero
    return Streams((bits * Streams.of(seed, [0]).bits(bits.shape[1], device=x.device)).sum(1))


@register("threats", "pose")
def pose(degrees: float, *, low: float = 0.0, high: float = 1.0) -> Pose:
    """Turned by up to EPS degrees, and moved by up to EPS / 300 of its side: a tenth at 30 degrees."""
    return Pose(degrees, min(degrees / 300, 1.0), low, high)


@register("threats", "flow")
def flow(pixels: float, *, low: float = 0.0, high: float = 1.0) -> Flow:
    """Every pixel shows what was up to EPS pixels away."""
    return Flow(pixels, low, high)


@register("threats", "recolour")
def recolour(eps: float, *, low: float = 0.0, high: float = 1.0) -> Recolour:
    """Equal colours stay equal, and no channel of one moves by more than EPS."""
    return Recolour(eps, low, high)


@register("threats", "corruption")
def corruption(severity: float, *, low: float = 0.0, high: float = 1.0) -> Corruption:
    """One of the 15 common corruptions (noise, blur, weather, digital), of severity 1 to EPS, at most 5."""
    if not float(severity).is_integer():
        raise BadInput(f"a severity of {severity:g}", "a whole number from 0 to 5", "write corruption:3")
    return Corruption(int(severity), 0, low, high)
