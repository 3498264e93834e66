"""Images read between their pixels: the one way in which poses, flows, zooms and elastic changes move them."""

from __future__ import annotations

from torch import Tensor


def lattice(x: Tensor) -> tuple[Tensor, Tensor]:
    """The row and the column of every pixel of images `(B, C, H, W)`, `(1, H, 1)` and `(1, 1, W)`."""
    height, width = x.shape[2:]
    down = x.new_tensor(range(height)).view(1, height, 1)
    return down, x.new_tensor(range(width)).view(1, 1, width)


def read(x: Tensor, down: Tensor, across: Tensor, outside: float = 0.0) -> Tensor:
    """Images `(B, C, h, w)`: those in `x`, `(B, C, H, W)`, at rows `down` and columns `across`, bilinearly.

    `down` and `across` broadcast to `(B, h, w)` or `(1, h, w)`; whole numbers give the pixels themselves, to the last
    bit. Beyond the border is `outside`. Differentiable in the places.
    """
    height, width = x.shape[2:]
    flat, total = x.flatten(2), x.new_zeros(())
    top, left = down.detach().floor(), across.detach().floor()
    for i, low in ((top, 1 - (down - top)), (top + 1, down - top)):
        for j, near in ((left, 1 - (across - left)), (left + 1, across - left)):
            known = (i >= 0) & (i < height) & (j >= 0) & (j < width)
            place = i.clamp(0, height - 1).long() * width + j.clamp(0, width - 1).long()
            each = place.expand(len(x), *place.shape[1:]).flatten(1).unsqueeze(1)
            corner = flat.gather(2, each.expand(-1, x.shape[1], -1)).view(*x.shape[:2], *place.shape[1:])
            total = total + (low * near).unsqueeze(1) * corner.where(known.unsqueeze(1), outside)
    return total


def folded(place: Tensor, size: int) -> Tensor:
    """Places beyond a border, reflected back at the centre of the last pixel."""
    if size == 1:
        return place * 0
    place = place.remainder(2 * (size - 1))
    return (size - 1) - (place - (size - 1)).abs()
