"""The contracts between the parts: the six nouns as Protocols, and the two things that surround them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Literal, Protocol, runtime_checkable

from torch import Tensor

if TYPE_CHECKING:
    from sparring.streams import Streams

Model = Callable[[Tensor], Tensor]
"""A torch callable: inputs `(B, *shape)` to outputs, logits `(B, K)` for a classifier."""

Access = Literal["gradients", "scores", "labels"]
"""What a model lets an attacker have: everything, the outputs alone, or the decision alone."""


class Goal(Protocol):
    """What counts as success, judged on the outputs alone."""

    @property
    def labels(self) -> Tensor:
        """The labels `(B,)` to leave (`sign` +1) or to reach (`sign` -1)."""
        ...

    @property
    def sign(self) -> int:
        """+1: leave the labels; -1: reach them. The only place where targeted and untargeted differ."""
        ...

    def reached(self, outputs: Tensor) -> Tensor:
        """Which rows are successes, `(B,)` bool."""
        ...

    def __getitem__(self, rows: Tensor) -> Goal:
        """The goal of some of the rows."""
        ...


Loss = Callable[[Tensor, Goal], Tensor]
"""The attacker's score, `(outputs, goal) -> (B,)`: always higher when the attacker is better off."""


class Near(Protocol):
    """The allowed points around some `x`, as the nearest of them to a `z`."""

    def __call__(self, z: Tensor) -> Tensor:
        """The allowed point nearest to `z` (Euclidean), row by row."""
        ...

    def __getitem__(self, rows: Tensor) -> Near:
        """The allowed points around some of the rows."""
        ...


class Norm(Protocol):
    """The functions from which every continuous threat is made.

    `delta`, `x` and `z` are `(B, *shape)`, `eps` is `(B,)` or a number, `low` and `high` bound every coordinate.
    """

    @property
    def name(self) -> str:
        """linf, l2, l1 or l0, or that of what only some inputs have, as images have patches."""
        ...

    @property
    def counts(self) -> bool:
        """Whether sizes say how many coordinates change, and not how far: the box bounds that."""
        ...

    @property
    def whole(self) -> bool:
        """Whether sizes are whole numbers."""
        ...

    def unit(self, eps: float, width: float) -> float:
        """What steps are measured in, in input units, where the box is so wide."""
        ...

    def measure(self, x: Tensor) -> Tensor | float:
        """What the eps of a ball around `x` is counted in, in input units: one, or `(B,)` where rows differ."""
        ...

    def said(self, eps: float) -> float:
        """An eps as it is said after the norm's name: the number itself, or in decibels."""
        ...

    def size(self, delta: Tensor) -> Tensor:
        """The norm of every row, `(B,)`, in input units."""
        ...

    def project(self, z: Tensor, x: Tensor, eps: Tensor | float, low: float, high: float) -> Tensor:
        """The point nearest to `z` (Euclidean) that is within `eps` of `x`, and in the box."""
        ...

    def around(self, x: Tensor, eps: float, low: float, high: float) -> Near:
        """`project` for one `x` and many `z`: what can be worked out once is."""
        ...

    def steepest(self, gradient: Tensor) -> Tensor:
        """The direction of size one that climbs fastest: `argmax <gradient, d>` over `size(d) <= 1`."""
        ...

    def ascent(self, gradient: Tensor) -> Tensor:
        """The direction in which projected ascent moves: `steepest`, spread out where that is a single coordinate.

        A new tensor, that may be written to.
        """
        ...

    def sample(self, x: Tensor, eps: Tensor | float, low: float, high: float, rng: Streams) -> Tensor:
        """A uniform draw from the ball around `x`, inside the box."""
        ...


@runtime_checkable
class Threat(Protocol):
    """Which inputs the attacker may hand over in place of `x`."""

    def contains(self, z: Tensor, x: Tensor) -> Tensor:
        """Whether the attacker may hand over `z` for `x`, `(B,)` bool."""
        ...

    def distance(self, z: Tensor, x: Tensor) -> Tensor:
        """How far `z` is from `x` in the threat's own unit, `(B,)`."""
        ...


@runtime_checkable
class Boxed(Threat, Protocol):
    """A threat on inputs every coordinate of which lies in a box."""

    @property
    def low(self) -> float:
        """The least value that a coordinate may take."""
        ...

    @property
    def high(self) -> float:
        """The greatest."""
        ...


class Finite(Boxed, Protocol):
    """A threat that holds finitely many inputs for every `x`: all of them can be tried, and any of them checked."""

    @property
    def sizes(self) -> Sequence[float]:
        """The size of every member, in the threat's own unit, from 0 upwards: the first member is `x` itself."""
        ...

    def member(self, x: Tensor, which: Tensor) -> Tensor:
        """For each row the member at the position `which`, `(B,)` int64."""
        ...


class Step(Protocol):
    """How a gradient becomes a move."""

    def init(self, x: Tensor) -> Any:
        """The state before the first step."""
        ...

    def update(self, g: Tensor, state: Any, i: int) -> tuple[Tensor, Any]:
        """The move for gradient `g` at step `i`, and the next state."""
        ...


class Attack(Protocol):
    """A search for `z` in `S(x)` that reaches the goal. It returns inputs, nothing else, and owns no model."""

    @property
    def threat(self) -> Threat:
        """The set it searches."""
        ...

    def __call__(self, model: Model, x: Tensor, goal: Goal, rng: Streams) -> Tensor:
        """The best `z` found for every row of `x`; `x` itself where nothing better was found."""
        ...


@runtime_checkable
class Thorough(Attack, Protocol):
    """An attack that tries every member of a finite threat, up to some size: what stands there is proved to stand.

    It returns the worst of them, and before any that does not reach the goal one whose outputs are no numbers: so that
    to judge the one that it returns is to judge them all.
    """

    def tried(self, x: Tensor) -> Tensor:
        """Up to which size all members are tried, `(B,)`, where none of them reaches the goal; 0 for none."""
        ...


@runtime_checkable
class Amortised(Attack, Protocol):
    """An attack that learns from examples once, and then costs next to nothing on each new one.

    Called as it is, it learns from the very rows that it is given, which see each other then. What `fit` returns is
    an attack like any other.
    """

    def fit(self, model: Model, x: Tensor, goal: Goal, rng: Streams) -> Attack:
        """The attack as it has learned from these examples; settings and randomness are in it for good."""
        ...


@runtime_checkable
class Defence(Protocol):
    """What is put around a model to protect it, together with the view through which it must be attacked."""

    @property
    def differentiable(self) -> bool:
        """Whether gradients pass what is deployed, as they are."""
        ...

    @property
    def draws(self) -> int:
        """Over how many calls of the adaptive view an attacker should average; 1 where nothing is random."""
        ...

    def defend(self, model: Model) -> Model:
        """What is deployed."""
        ...

    def adaptive(self, model: Model) -> Model:
        """What an attacker who knows the defence climbs: the outputs of what is deployed, and a pullback that leads on.

        The outputs are equal to the last bit; where something is random, they have the same distribution.
        """
        ...


@runtime_checkable
class Learns(Protocol):
    """A defence that has to learn from examples first."""

    def fit(self, model: Model, x: Tensor, labels: Tensor) -> Defence:
        """The defence as it has learned from these examples, `(B, *shape)` and `(B,)`, for this model."""
        ...


@runtime_checkable
class Data(Protocol):
    """Labelled examples, read by index, so that a data set need not fit in memory."""

    @property
    def name(self) -> str:
        """What reports call it."""
        ...

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the classes, in the order of the labels; empty where unknown."""
        ...

    def __len__(self) -> int:
        """The number of examples."""
        ...

    def take(self, indices: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Inputs `(B, *shape)` float32 and labels `(B,)` int64 of the examples at these positions."""
        ...
