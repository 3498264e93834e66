"""Attributions before and under attack, as a picture."""

from __future__ import annotations

from collections.abc import Sequence
from textwrap import fill

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from numpy.typing import NDArray
from torch import Tensor

from sparring.errors import BadInput
from sparring.explain.stability import Explanation

COLUMNS = ("clean", "attribution", "under attack", "attribution")
AGAINST_FOR = LinearSegmentedColormap.from_list("against-for", ["#0072b2", "#ffffff", "#d55e00"])
"""Blue speaks against the label, orange for it (Okabe and Ito, 2008)."""


def draw(
    explanations: Sequence[Explanation], *, classes: Sequence[str] = (), columns: Sequence[str] = COLUMNS
) -> Figure:
    """A row for each example, four columns for each model: clean, attribution, under attack, attribution.

    Images `(1 or 3, H, W)` in [0, 1]. Above an image stands what the model says of it; above the attribution under
    attack its cosine with the one before. Each attribution is scaled to its own largest value.

    Raises:
        BadInput: examples that are not images, or explanations of different numbers of them.

    """
    rows = {len(explanation.x) for explanation in explanations}
    if len(rows - {0}) != 1 or any(e.x.dim() != 4 or e.x.shape[1] not in (1, 3) for e in explanations):
        raise BadInput(
            f"explanations of inputs {[tuple(e.x.shape) for e in explanations]}",
            "the same number of images (B, 1 or 3, H, W) in each",
            "explain images, the same for every model",
        )
    count, wide = rows.pop(), len(columns)
    figure = Figure(figsize=(1.05 * (wide + 0.35) * len(explanations), 1.3 * count + 0.7), layout="constrained")
    groups = figure.subfigures(1, len(explanations), squeeze=False, wspace=0.04)[0]
    for group, explanation in zip(groups, explanations, strict=True):
        group.suptitle(fill(explanation.name, 10 * wide), fontsize=10, fontweight="bold")
        grid = group.subplots(count, wide, squeeze=False)
        for i, row in enumerate(grid):
            _row(row, explanation, i, classes)
        for axes, column in zip(grid[0], columns, strict=True):
            axes.set_title(f"{column}\n\n{axes.get_title()}", fontsize=8, pad=3)
    return figure


def _row(row: Sequence[Axes], explanation: Explanation, i: int, classes: Sequence[str]) -> None:
    """One example: its four panels."""
    for axes, image, decision in zip(row[::2], (explanation.x, explanation.z), explanation.decisions, strict=True):
        _panel(axes, _word(int(decision[i]), classes))
        axes.imshow(_pixels(image[i]), cmap="gray", vmin=0, vmax=1)
    titles = ("", f"cosine {float(explanation.cosine[i]):.2f}")
    for axes, values, title in zip(row[1::2], (explanation.before, explanation.under), titles, strict=True):
        _panel(axes, title)
        total = values[i].float().sum(0)
        largest = float(total.abs().max()) or 1.0
        axes.imshow(total.cpu().numpy(), cmap=AGAINST_FOR, vmin=-largest, vmax=largest)


def _panel(axes: Axes, title: str) -> None:
    axes.set_title(title, fontsize=8, pad=3)
    axes.set_xticks([])
    axes.set_yticks([])
    axes.grid(False)
    axes.spines[:].set_visible(False)


def _pixels(image: Tensor) -> NDArray[np.float32]:
    channels_last: NDArray[np.float32] = image.float().clamp(0, 1).cpu().numpy().transpose(1, 2, 0)
    return channels_last[..., 0] if channels_last.shape[2] == 1 else channels_last


def _word(k: int, classes: Sequence[str]) -> str:
    return classes[k] if k < len(classes) else str(k)
