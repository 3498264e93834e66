"""The picture of an attack on a detector: the images, and the boxes that it finds in them."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from torch import Tensor

from sparring.domains.driving.predictions import NONE
from sparring.report.figures import PAPER, SERIES, styled


def draw(
    images: Sequence[Tensor], found: Sequence[Tensor], titles: Sequence[str] = (), classes: Sequence[str] = ()
) -> Figure:
    """A row for each batch of images `(B, 3, H, W)`, with its detections `(B, D, 6)` of `Rules.detect` and its title.

    A class has one colour in all of them; `classes` are their names.
    """
    with styled():
        across, (height, width) = len(images[0]), images[0].shape[2:]
        size = 2.6 * across, (2.6 * height / width + 0.3) * len(images)
        figure = Figure(figsize=size, layout="constrained")
        grid = figure.subplots(len(images), across, squeeze=False)
        for row, (batch, boxes) in enumerate(zip(images, found, strict=True)):
            for axes, image, some in zip(grid[row], batch, boxes, strict=True):
                _shown(axes, image, some, classes)
            if titles:
                grid[row][0].set_title(titles[row], loc="left", fontsize=9)
    return figure


def _shown(axes: Axes, image: Tensor, found: Tensor, classes: Sequence[str]) -> None:
    height, width = image.shape[1:]
    axes.imshow(image.permute(1, 2, 0).clamp(0, 1).cpu().numpy(), interpolation="nearest")
    axes.set_axis_off()
    for kind, x1, y1, x2, y2, sure in found.flip(0).tolist():  # the surest on top
        if kind == NONE:
            continue
        colour, name = SERIES[int(kind) % len(SERIES)], classes[int(kind)] if classes else f"{kind:g}"
        box = (x1 * width, y1 * height), (x2 - x1) * width, (y2 - y1) * height
        axes.add_patch(Rectangle(*box, fill=False, edgecolor=colour, linewidth=1.4))
        axes.text(
            max(x1, 0) * width,
            max(y1, 0) * height,
            f"{name} {sure:.2f}",
            fontsize=6,
            color=PAPER,
            va="bottom",
            clip_on=True,
            bbox={"facecolor": colour, "edgecolor": "none", "pad": 1},
        )
