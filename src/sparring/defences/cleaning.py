"""Defences that clean the input: a transform before the model, and what stands in for its gradient."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import reduce

import torch
from torch import Tensor, nn

from sparring.errors import BadInput
from sparring.limits import one_or_more
from sparring.streams import Streams
from sparring.types import Defence, Model
from sparring.views import RandomTransform, Transform, bpda


def climbed(clean: Callable[..., Tensor], surrogate: Callable[..., Tensor] | None) -> Callable[..., Tensor]:
    """The transform that attacks see, random or not: with the gradient of its stand-in, if it has one."""
    return clean if surrogate is None else bpda(clean, surrogate)


class Cleaned(nn.Module):
    """A model that sees its inputs through a transform. Submodules keep the modes that they have."""

    def __init__(self, model: Model, clean: Transform) -> None:
        super().__init__()
        self.model, self.clean = model, clean
        self.training = getattr(model, "training", False)

    def forward(self, x: Tensor) -> Tensor:
        """Outputs of `x`, cleaned."""
        return self.model(self.clean(x))


class Drawn(nn.Module):
    """A random transform, with a stream for every row whose seed comes from torch's global random numbers."""

    def __init__(self, clean: RandomTransform) -> None:
        super().__init__()
        self.clean = clean
        self.training = getattr(clean, "training", False)

    def forward(self, x: Tensor) -> Tensor:
        """`x`, cleaned, differently at every call."""
        return self.clean(x, Streams.of(int(torch.randint(2**62, ())), range(len(x))))


@dataclass(frozen=True, kw_only=True)
class Cleaning:
    """Clean the input before the model sees it.

    `surrogate` stands in for `clean` in the backward pass (BPDA; Athalye et al., 2018); none where the transform's own
    gradient leads on.
    """

    clean: Transform
    surrogate: Transform | None = None
    draws: int = 1

    @property
    def differentiable(self) -> bool:
        """Whether gradients pass the transform as they are."""
        return self.surrogate is None

    def defend(self, model: Model) -> Model:
        """The model behind the transform."""
        return Cleaned(model, self.clean)

    def adaptive(self, model: Model) -> Model:
        """The same outputs, with the gradient of the stand-in."""
        return Cleaned(model, climbed(self.clean, self.surrogate))


@dataclass(frozen=True, kw_only=True)
class RandomCleaning:
    """Change the input at random before the model sees it: `clean(x, rng)`, a stream for every row.

    What it answers is the mean over calls; an attacker averages over `draws` (EOT; Athalye et al., 2018). `surrogate`
    as in `Cleaning`, with the same draws.
    """

    clean: RandomTransform
    surrogate: RandomTransform | None = None
    draws: int = 8

    def __post_init__(self) -> None:
        one_or_more(draws=self.draws)

    @property
    def differentiable(self) -> bool:
        """Whether gradients pass the transform as they are."""
        return self.surrogate is None

    def defend(self, model: Model) -> Model:
        """The model behind the transform, drawn anew at every call."""
        return Cleaned(model, Drawn(self.clean))

    def adaptive(self, model: Model) -> Model:
        """The same, with the gradient of the stand-in."""
        return Cleaned(model, Drawn(climbed(self.clean, self.surrogate)))


@dataclass(frozen=True)
class Chain:
    """Several defences, one behind the other: the input meets the first one first."""

    parts: tuple[Defence, ...]

    def __post_init__(self) -> None:
        if not self.parts:
            raise BadInput("a chain of no defences", "one or more", "leave the chain out")
        if learning := [type(part).__name__ for part in self.parts if not isinstance(part, Defence)]:
            raise BadInput(
                f"{', '.join(learning)} in a chain", "defences that are ready", "call fit(model, x, labels) on it first"
            )

    @property
    def differentiable(self) -> bool:
        """Whether gradients pass all of them."""
        return all(part.differentiable for part in self.parts)

    @property
    def draws(self) -> int:
        """As many as the most demanding asks for."""
        return max(part.draws for part in self.parts)

    def defend(self, model: Model) -> Model:
        """The model behind all of them."""
        return reduce(lambda inner, part: part.defend(inner), reversed(self.parts), model)

    def adaptive(self, model: Model) -> Model:
        """The adaptive view of each, one behind the other."""
        return reduce(lambda inner, part: part.adaptive(inner), reversed(self.parts), model)


def images(x: Tensor) -> Tensor:
    """`x`, if these are images.

    Raises:
        BadInput: any other shape than `(B, C, H, W)`.
    """
    if x.dim() != 4:
        raise BadInput(f"inputs of shape {tuple(x.shape)}", "images (B, C, H, W)", "use a defence for any input")
    return x


def to_learn_from(x: Tensor, labels: Tensor) -> None:
    """Refuse to learn from nothing.

    Raises:
        BadInput: no examples, or not a label for each.
    """
    if not len(x) or len(x) != len(labels):
        raise BadInput(
            f"{len(x)} examples and {len(labels)} labels to learn from", "one or more, a label each", "give others"
        )


Fitting = Callable[[Model, Tensor, Tensor], Defence]


@dataclass(frozen=True, eq=False)
class Learning:
    """A defence that is made from examples: `fit(model, x, labels)`."""

    fitting: Fitting

    def fit(self, model: Model, x: Tensor, labels: Tensor) -> Defence:
        """The defence as it has learned from these examples. Torch's global random numbers are left alone.

        Raises:
            BadInput: no examples, or not a label for each.
        """
        to_learn_from(x, labels)
        with torch.random.fork_rng(devices=[]):
            return self.fitting(model, x, labels)
