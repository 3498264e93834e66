"""A random size at a random place."""

from __future__ import annotations

from torch import Tensor

from sparring.defences.cleaning import RandomCleaning, images
from sparring.errors import BadInput
from sparring.registry import register
from sparring.streams import Streams
from sparring.views import settled, shrink_each


def resized(x: Tensor, rng: Streams, *, smallest: float) -> Tensor:
    """Every image at a random size of its own, at a random place on black."""
    return shrink_each(images(x), rng, smallest=smallest)


@register("defences", "random-resize", shape="image", paper="Xie et al., 2018")
def random_resize(*, smallest: float = 0.85, draws: int = 8) -> RandomCleaning:
    """Shrink the image to a random size, and put it at a random place on black (Xie et al., 2018).

    The paper enlarges images of 299 pixels to 331; here they keep their size, as digits and CIFAR need it.
    """
    if not 0 < smallest <= 1:
        raise BadInput(f"images shrunk to {smallest:g} of their size", "above 0 and up to 1", "give smallest=0.85, say")
    return RandomCleaning(clean=settled(resized, smallest=smallest), draws=draws)
