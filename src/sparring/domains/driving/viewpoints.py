"""A picture seen from further away and from the side: what a print of it shows a camera."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

from sparring.domains.driving.detectors import GREY
from sparring.domains.driving.predictions import NONE
from sparring.errors import BadInput

FOCAL = 2.0
"""The distance from which a picture fills the view, in halves of its width: a field of view of 53 degrees."""


def seen_from(x: Tensor, labels: Tensor, distance: float = 1.0, degrees: float = 0.0) -> tuple[Tensor, Tensor]:
    """Images `(B, 3, H, W)` as flat pictures, `distance` times as far away and turned by `degrees`; with their labels.

    They turn about the vertical through their middle, on a grey wall. A box becomes the smallest upright one around it,
    within the view. Differentiable in the images.

    Raises:
        BadInput: a camera in the picture or behind it.
    """
    angle = math.radians(degrees)
    if distance <= 0 or abs(degrees) >= 90 or FOCAL * distance <= abs(math.sin(angle)):
        raise BadInput(f"a view from {distance:g} and {degrees:g} degrees", "a camera before the picture", "go back")
    height, width = x.shape[2:]
    far, cosine, sine = FOCAL * distance, math.cos(angle), math.sin(angle)
    v, u = ((2 * torch.arange(n, device=x.device, dtype=x.dtype) + 1) / n - 1 for n in (height, width))
    # the ray through (u, v) meets the picture at (p cos, q, far + p sin)
    p = u * far / (FOCAL * cosine - u * sine)
    q = v.unsqueeze(1) * (far + p * sine) / FOCAL
    grid = torch.stack([p.expand_as(q), q], 2).expand(len(x), -1, -1, -1)
    seen = functional.grid_sample(x - GREY, grid, align_corners=False) + GREY
    corners = 2 * labels[..., [1, 2, 1, 4, 3, 2, 3, 4]].reshape(*labels.shape[:2], 4, 2) - 1
    depth = far + corners[..., 0] * sine
    at = torch.stack([FOCAL * corners[..., 0] * cosine / depth, FOCAL * corners[..., 1] / depth], 3)
    at = ((at + 1) / 2).clamp(0, 1)
    box = torch.cat([labels[..., :1], at.amin(2), at.amax(2)], 2)
    inside = (labels[..., 0] != NONE) & (box[..., 3:] > box[..., 1:3]).all(2)
    return seen, torch.where(inside.unsqueeze(2), box, box.new_tensor([NONE, 0, 0, 0, 0]))
