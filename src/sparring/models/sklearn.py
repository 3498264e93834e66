"""scikit-learn models: rewritten exactly in torch where that can be done, by their scores or labels elsewhere."""

from __future__ import annotations

import itertools
import math
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from sparring.errors import BadInput, require
from sparring.models import function
from sparring.models.victim import Victim

LINEAR = (
    "LogisticRegression",
    "LogisticRegressionCV",
    "LinearSVC",
    "RidgeClassifier",
    "RidgeClassifierCV",
    "SGDClassifier",
    "Perceptron",
    "PassiveAggressiveClassifier",
    "LinearDiscriminantAnalysis",
)
LINEAR_REGRESSION = (
    "LinearRegression",
    "Ridge",
    "RidgeCV",
    "Lasso",
    "LassoCV",
    "LassoLars",
    "LassoLarsCV",
    "LassoLarsIC",
    "ElasticNet",
    "ElasticNetCV",
    "Lars",
    "LarsCV",
    "OrthogonalMatchingPursuit",
    "OrthogonalMatchingPursuitCV",
    "BayesianRidge",
    "ARDRegression",
    "HuberRegressor",
    "QuantileRegressor",
    "SGDRegressor",
    "LinearSVR",
    "TheilSenRegressor",
    "MultiTaskLasso",
    "MultiTaskElasticNet",
)
"""Regressors that predict `coef_ x + intercept_`."""

BY_DECISION = frozenset(
    {
        *LINEAR,
        "SVC",
        "NuSVC",
        "AdaBoostClassifier",
        "GradientBoostingClassifier",
        "HistGradientBoostingClassifier",
        "QuadraticDiscriminantAnalysis",
        "OneVsRestClassifier",
        "OneVsOneClassifier",
    }
)
"""Classifiers that decide for the largest of their `decision_function`, or by its sign."""

BY_LABEL = frozenset({"SVC", "NuSVC", "NearestCentroid", "FixedThresholdClassifier", "TunedThresholdClassifierCV"})
"""Classifiers that need not decide for the largest of their `predict_proba`."""

FORESTS = frozenset({"RandomForestClassifier", "ExtraTreesClassifier"})
"""Classifiers whose `predict_proba` is the mean of their trees'."""

HANDING = frozenset({"RFE", "RFECV", "SelfTrainingClassifier", "StackingClassifier", "FrozenEstimator"})
HANDED = ("final_estimator_", "estimator_", "base_estimator_", "estimator")
"""Who hands the decision on to another estimator, and where that is kept."""


@torch.inference_mode(False)
@torch.random.fork_rng(devices=())  # torch's layers draw their weights before they are given the estimator's
def adopt(obj: Any) -> Victim:
    """Attack a fitted scikit-learn classifier or regressor, a pipeline or a finished search over them.

    Gradients for linear classifiers (LogisticRegression, LinearSVC, RidgeClassifier, SGDClassifier, Perceptron,
    LinearDiscriminantAnalysis ...), MLPClassifier, SVC and NuSVC with linear, rbf, poly or sigmoid kernel, and
    pipelines of these behind StandardScaler, MinMaxScaler, MaxAbsScaler, RobustScaler, Normalizer and PCA. Outputs are
    `decision_function` (for an MLP the last layer before its softmax), as logits `(B, K)`; a binary model's single
    score `s` becomes `[0, s]`, whose softmax is `predict_proba` where the model has one. Every other classifier is
    attacked by `decision_function`, where the class it decides for is known to have the largest, else by
    `predict_proba`, else by its labels; `notes` says which.

    A regressor gives what it predicts, `(B,)` or `(B, D)`, for the task of regression: linear ones and MLPRegressor,
    in pipelines too, with gradients.

    Inputs `(B, *shape)` are flattened to `(B, features)`. Labels are positions in `classes_`.

    Raises:
        BadInput: not fitted, neither a classifier nor a regressor, or several labels an example.

    """
    require("sklearn", "sklearn")
    from sklearn.base import is_classifier, is_regressor
    from sklearn.exceptions import NotFittedError
    from sklearn.utils.validation import check_is_fitted

    name = " > ".join(kind(part) for part in parts(obj))
    if not is_classifier(obj) and not is_regressor(obj):
        need = "a classifier or a regressor"
        raise BadInput(f"scikit-learn's {name}", need, "clusterers and transformers have no labels")
    try:
        check_is_fitted(obj)
    except NotFittedError:
        need = "a fitted classifier" if is_classifier(obj) else "a fitted regressor"
        raise BadInput(f"{name} is not fitted", need, "call fit(x, y) first") from None
    if is_regressor(obj):
        return regressor(obj, name)
    listed = getattr(obj, "classes_", None)
    if listed is None:
        raise BadInput(f"{name} without classes_", "a classifier that knows its classes", "fit it; a search with refit")
    classes = np.asarray(listed) if not isinstance(listed, list) else np.empty((0, 0))
    if classes.ndim != 1 or any(several(part) for part in parts(obj)):
        raise BadInput(f"{name} gives several labels an example", "one label an example", "fit one classifier a label")
    if len(classes) < 2:
        raise BadInput(f"{name} was fitted on one class", "at least two classes", "fit it on data of two or more")

    notes = [f"labels are positions in classes_ = {shown(classes)}"]
    stages = [rewrite(part) for part in parts(obj)]
    missing = [kind(part) for part, stage in zip(parts(obj), stages, strict=True) if stage is None]
    if missing:
        notes.append(f"no gradients: {', '.join(missing)} has no exact form in torch here")
        return black_box(obj, classes, name, notes)
    if kind(parts(obj)[-1]) in {"SVC", "NuSVC"} and len(classes) > 2:
        notes.append(
            "scores are one-vs-one votes plus confidences in (-1/3, 1/3); gradients come from the confidences; where "
            "votes tie, scikit-learn's predict takes the first class unless break_ties=True"
        )
    module = nn.Sequential(nn.Flatten(), *(layer for stage in stages if stage is not None for layer in stage)).eval()
    return Victim(
        call=module, access="gradients", framework="scikit-learn", name=name, module=module, notes=tuple(notes)
    )


def regressor(obj: Any, name: str) -> Victim:
    """Attack by what it predicts, with gradients where every part of it has an exact form in torch."""
    stages = [rewrite(part) for part in parts(obj)]
    layers = [layer for stage in stages if stage is not None for layer in stage]
    if all(stage is not None for stage in stages):
        module = nn.Sequential(nn.Flatten(), *layers).eval()
        return Victim(call=module, access="gradients", framework="scikit-learn", name=name, module=module)
    missing = [kind(part) for part, stage in zip(parts(obj), stages, strict=True) if stage is None]
    note = f"no gradients: {', '.join(missing)} has no exact form in torch here"
    return function.answers(
        lambda x: obj.predict(flat(x)), name=name, framework="scikit-learn", notes=(note, "answers are predict")
    )


def load(path: str | Path, *, trust: bool = False) -> Victim:
    """Attack the scikit-learn classifier or regressor in a `.skops` file; only types that skops trusts are built.

    With `trust` every type the file names is built, which can run code from the file: only for files of your own.

    Raises:
        BadInput: what `read` refuses, or what `adopt` does.

    """
    return adopt(read(path, trust=trust))


def read(path: str | Path, *, trust: bool = False) -> Any:
    """The estimator in a `.skops` file.

    Raises:
        BadInput: no such file, not a skops file, or types that skops does not trust.

    """
    skops = require("skops.io", "sklearn")
    path = Path(path)
    if not path.is_file():
        raise BadInput(f"{path} is not a file", "a .skops file", "check the path")
    if not zipfile.is_zipfile(path):
        raise BadInput(f"{path} is not a skops file or is cut short", "a file of skops.io.dump", "write it again")
    try:
        unknown = skops.get_untrusted_types(file=path)
        if unknown and not trust:
            raise BadInput(
                f"{path} holds types that skops does not trust: {', '.join(unknown)}",
                "trusted types alone",
                "pass --trust if the file is your own: building these types can run code",
            )
        obj = skops.load(path, trusted=unknown)
    except BadInput:
        raise
    except Exception as error:  # skops raises whatever the damaged part raises
        raise BadInput(
            f"{path} cannot be read: {first_line(error)}", "a file of skops.io.dump", "write it again"
        ) from None
    return obj


def black_box(obj: Any, classes: np.ndarray, name: str, notes: list[str]) -> Victim:
    """Attack by the most telling method whose largest score is the class that the classifier decides for."""
    common: dict[str, Any] = {"name": name, "framework": "scikit-learn"}
    last = decider(obj)
    # Probabilities come second: they saturate, and a forest's are exactly 0 over wide regions.
    if kind(last) in BY_DECISION and hasattr(obj, "decision_function") and not pairwise(last, len(classes)):

        def decision(x: np.ndarray) -> np.ndarray:
            out = np.asarray(obj.decision_function(flat(x)))
            return np.stack([np.zeros_like(out), out], axis=1) if out.ndim == 1 else out

        return function.scores(decision, **common, notes=(*notes, "scores are decision_function"))
    if kind(last) not in BY_LABEL and hasattr(obj, "predict_proba"):
        return function.scores(
            by_trees(obj) if kind(parts(obj)[-1]) in FORESTS else lambda x: obj.predict_proba(flat(x)),
            **common,
            probabilities=True,
            notes=(*notes, "scores are predict_proba"),
        )
    order = np.argsort(classes)
    return function.labels(
        lambda x: order[np.searchsorted(classes, obj.predict(flat(x)), sorter=order)],
        **common,
        classes=len(classes),
        notes=(*notes, "only predict: labels, no scores"),
    )


def by_trees(obj: Any) -> Callable[[np.ndarray], np.ndarray]:
    """Return a forest's `predict_proba`, to the last bit, from its trees: a call is then made of little else.

    Where scikit-learn shares the trees among threads, the order of the sum changes from call to call; here it does not.
    """
    *before, forest = parts(obj)
    trees = [tree.tree_ for tree in forest.estimators_]

    def mean(x: np.ndarray) -> np.ndarray:
        z = flat(x)
        for step in before:
            z = step.transform(z)
        rows = np.ascontiguousarray(z, dtype=np.float32)  # as trees are asked
        return sum((tree.predict(rows)[:, : forest.n_classes_] for tree in trees), np.zeros(())) / len(trees)

    return mean


def flat(x: np.ndarray) -> np.ndarray:
    """Rows of features as scikit-learn has them, in double precision as it was most likely fitted."""
    return x.reshape(len(x), math.prod(x.shape[1:])).astype(np.float64)


def parts(obj: Any) -> list[Any]:
    """Return the steps of a pipeline, what a search found best, the estimator itself elsewhere."""
    if hasattr(obj, "best_estimator_"):
        return parts(obj.best_estimator_)
    if kind(obj) != "Pipeline":
        return [obj]
    steps = [step for _, step in obj.steps if step is not None and not isinstance(step, str)]
    return [part for step in steps for part in parts(step)]


def several(obj: Any) -> bool:
    """Whether an estimator was fitted on several labels an example."""
    binarizer = getattr(obj, "_label_binarizer", None)
    return bool(getattr(obj, "multilabel_", False)) or str(getattr(binarizer, "y_type_", "")).startswith("multilabel")


def decider(obj: Any) -> Any:
    """Return the estimator whose decision it is in the end: the last step, or the one that another hands on to."""
    last = parts(obj)[-1]
    handed = next((getattr(last, name) for name in HANDED if hasattr(last, name)), None)
    return last if kind(last) not in HANDING or handed is None else decider(handed)


def pairwise(obj: Any, classes: int) -> bool:
    """Whether the columns of `decision_function` are pairs of classes, or their sign is not what decides."""
    if kind(obj) == "OneVsOneClassifier":
        return classes == 2  # over an estimator with probabilities alone the threshold is a half
    return getattr(obj, "decision_function_shape", "ovr") == "ovo" and classes > 2


def kind(obj: Any) -> str:
    """Name an estimator; a subclass from elsewhere is named in full, so that it is never taken for its parent."""
    cls = type(obj)
    return cls.__name__ if cls.__module__.startswith("sklearn.") else f"{cls.__module__}.{cls.__qualname__}"


def shown(classes: np.ndarray) -> str:
    """Print the classes, shortened when there are many."""
    names = [str(name) for name in classes]
    return f"[{', '.join(names if len(names) <= 20 else [*names[:19], '...'])}]"


def first_line(error: Exception) -> str:
    """Return the first line of what an error says."""
    return (str(error).splitlines() or [type(error).__name__])[0]


# --- the rewriting: every function takes a fitted estimator and gives its layers, or None where it has no exact form


class Affine(nn.Module):
    """`(x - shift) * factor`, feature by feature; kept in this order because it loses the fewest digits."""

    shift: Tensor
    factor: Tensor

    def __init__(self, shift: Any, factor: Any) -> None:
        super().__init__()
        self.register_buffer("shift", single(shift))
        self.register_buffer("factor", single(factor))

    def forward(self, x: Tensor) -> Tensor:
        """Scale `(B, features)`."""
        return (x - self.shift) * self.factor


class UnitNorm(nn.Module):
    """Scale every row to norm one; a row of zeros stays as it is."""

    def __init__(self, order: float) -> None:
        super().__init__()
        self.order = order

    def forward(self, x: Tensor) -> Tensor:
        """Scale `(B, features)`."""
        size = torch.linalg.vector_norm(x, self.order, dim=1, keepdim=True)
        return x / torch.where(size == 0, torch.ones_like(size), size)


class TwoLogits(nn.Module):
    """The score `(B, 1)` of a binary model as logits `[0, s]`: their difference and their softmax are the model's."""

    def forward(self, s: Tensor) -> Tensor:
        """Put the zero in front."""
        return torch.cat([torch.zeros_like(s), s], dim=1)


class Kernel(nn.Module):
    """Kernel values against the support vectors, then one weighted sum a pair of classes `(B, pairs)`.

    In double precision: the sums of an SVM cancel, and single precision would flip decisions that scikit-learn makes.
    What comes out is of the input's type.
    """

    support: Tensor
    weight: Tensor
    bias: Tensor

    def __init__(
        self, shape: str, *, gamma: float, coef0: float, degree: int, support: Any, weight: Any, bias: Any
    ) -> None:
        super().__init__()
        self.shape, self.gamma, self.coef0, self.degree = shape, gamma, coef0, degree
        for name, value in (("support", support), ("weight", weight), ("bias", bias)):
            self.register_buffer(name, torch.from_numpy(np.array(dense(value), dtype=np.float64)))

    def forward(self, x: Tensor) -> Tensor:
        """Return the decision value of every pair."""
        given, x = x.dtype, x.double()
        dot = x @ self.support.T
        if self.shape == "rbf":
            squared = (x * x).sum(1, keepdim=True) - 2 * dot + (self.support * self.support).sum(1)
            values = torch.exp(-self.gamma * squared)
        elif self.shape == "poly":
            values = (self.gamma * dot + self.coef0) ** self.degree
        elif self.shape == "sigmoid":
            values = torch.tanh(self.gamma * dot + self.coef0)
        else:
            values = dot
        return (values @ self.weight.T + self.bias).to(given)


class Votes(nn.Module):
    """One-vs-one decisions `(B, pairs)` to one score a class, as scikit-learn does it: votes, then confidences.

    The votes are steps and have no gradient; the confidences, squeezed into (-1/3, 1/3), carry it.
    """

    first: Tensor
    second: Tensor

    def __init__(self, classes: int) -> None:
        super().__init__()
        pairs = torch.tensor(list(itertools.combinations(range(classes), 2)))
        self.register_buffer("first", nn.functional.one_hot(pairs[:, 0], classes).float())
        self.register_buffer("second", nn.functional.one_hot(pairs[:, 1], classes).float())

    def forward(self, decisions: Tensor) -> Tensor:
        """Count the votes of every pair and add up how sure it is."""
        first, second = (part.to(decisions.dtype) for part in (self.first, self.second))
        for_second = (decisions < 0).to(decisions.dtype)
        votes = for_second @ second + (1 - for_second) @ first
        sure = decisions @ first - decisions @ second
        return votes + sure / (3 * (sure.abs() + 1))


def linear(weight: Any, bias: Any) -> nn.Linear:
    """Make a layer of `(outputs, inputs)` weights."""
    weight = np.atleast_2d(dense(weight))
    layer = nn.Linear(weight.shape[1], weight.shape[0], dtype=torch.float32)
    with torch.no_grad():
        layer.weight.copy_(single(weight))
        layer.bias.copy_(single(np.broadcast_to(np.asarray(bias), (weight.shape[0],))))
    return layer


def logits(outputs: int) -> list[nn.Module]:
    """Return what follows the last layer."""
    return [TwoLogits()] if outputs == 1 else []


def linear_classifier(obj: Any) -> list[nn.Module] | None:
    """Weights of one row a class, or one row in all for two classes."""
    layer = linear(obj.coef_, obj.intercept_)
    return [layer, *logits(layer.out_features)]


def linear_regressor(obj: Any) -> list[nn.Module] | None:
    """Weights of one row an output."""
    return [linear(obj.coef_, obj.intercept_)]


def mlp_regressor(obj: Any) -> list[nn.Module] | None:
    """Its layers, where the last is linear: newer losses may have another."""
    return mlp_layers(obj) if obj.out_activation_ == "identity" else None


def mlp(obj: Any) -> list[nn.Module] | None:
    """Its layers, without the last softmax or sigmoid."""
    return [*mlp_layers(obj), *logits(obj.n_outputs_)]


def mlp_layers(obj: Any) -> list[nn.Module]:
    """Its layers, up to the last linear one."""
    activation = {"relu": nn.ReLU, "tanh": nn.Tanh, "logistic": nn.Sigmoid, "identity": nn.Identity}[obj.activation]
    layers: list[nn.Module] = []
    for weight, bias in zip(obj.coefs_, obj.intercepts_, strict=True):
        layers += [linear(weight.T, bias), activation()]
    return layers[:-1]


def svc(obj: Any) -> list[nn.Module] | None:
    """Kernel, pairs of classes, votes."""
    if obj.kernel not in {"linear", "poly", "rbf", "sigmoid"}:
        return None
    coefficients, per_class = dense(obj.dual_coef_), np.asarray(obj.n_support_)
    ends = np.cumsum(per_class)
    mine = [slice(end - count, end) for end, count in zip(ends, per_class, strict=True)]
    pairs = list(itertools.combinations(range(len(per_class)), 2))
    weight = np.zeros((len(pairs), coefficients.shape[1]))
    for row, (i, j) in enumerate(
        pairs
    ):  # libsvm: the coefficients of class i against j are in row j - 1, of j in row i
        weight[row, mine[i]] = coefficients[j - 1, mine[i]]
        weight[row, mine[j]] = coefficients[i, mine[j]]
    kernel = Kernel(
        obj.kernel,
        gamma=float(obj._gamma),
        coef0=obj.coef0,
        degree=obj.degree,
        support=obj.support_vectors_,
        weight=weight,
        bias=obj.intercept_,
    )
    return [kernel, TwoLogits() if len(pairs) == 1 else Votes(len(per_class))]


def standard(obj: Any) -> list[nn.Module] | None:
    """Mean zero, deviation one."""
    return [Affine(obj.mean_ if obj.with_mean else 0.0, 1 / np.asarray(obj.scale_) if obj.with_std else 1.0)]


def min_max(obj: Any) -> list[nn.Module] | None:
    """A range onto a range."""
    scale = np.asarray(obj.scale_)
    # min_ = low - data_min * scale, so this is (x - data_min) * scale + low without the cancellation
    layers: list[nn.Module] = [Affine(-np.asarray(obj.min_) / scale, scale)]
    low, high = obj.feature_range
    return [*layers, nn.Hardtanh(float(low), float(high))] if obj.clip else layers


def max_abs(obj: Any) -> list[nn.Module] | None:
    """Largest absolute value one."""
    layers: list[nn.Module] = [Affine(0.0, 1 / np.asarray(obj.scale_))]
    return [*layers, nn.Hardtanh()] if getattr(obj, "clip", False) else layers


def robust(obj: Any) -> list[nn.Module] | None:
    """Median zero, quartile distance one."""
    return [Affine(obj.center_ if obj.with_centering else 0.0, 1 / np.asarray(obj.scale_) if obj.with_scaling else 1.0)]


def normalizer(obj: Any) -> list[nn.Module] | None:
    """Every row to norm one."""
    return [UnitNorm({"l1": 1.0, "l2": 2.0, "max": float("inf")}[obj.norm])]


def pca(obj: Any) -> list[nn.Module] | None:
    """Projection, whitened where asked."""
    weight = np.asarray(obj.components_, dtype=np.float64)
    if obj.whiten:
        scale = np.sqrt(np.asarray(obj.explained_variance_))
        weight = weight / np.maximum(scale, np.finfo(scale.dtype).eps)[:, None]
    return [Affine(obj.mean_, 1.0), linear(weight, 0.0)]


REWRITERS: dict[str, Callable[[Any], list[nn.Module] | None]] = {
    **dict.fromkeys(LINEAR, linear_classifier),
    **dict.fromkeys(LINEAR_REGRESSION, linear_regressor),
    "MLPClassifier": mlp,
    "MLPRegressor": mlp_regressor,
    "SVC": svc,
    "NuSVC": svc,
    "StandardScaler": standard,
    "MinMaxScaler": min_max,
    "MaxAbsScaler": max_abs,
    "RobustScaler": robust,
    "Normalizer": normalizer,
    "PCA": pca,
}


def rewrite(obj: Any) -> list[nn.Module] | None:
    """Return the layers that compute the same as one estimator."""
    rewriter = REWRITERS.get(kind(obj))
    return rewriter(obj) if rewriter else None


def dense(value: Any) -> np.ndarray:
    """Return an array, from a sparse matrix too."""
    return np.asarray(value.toarray() if hasattr(value, "toarray") else value)


def single(value: Any) -> Tensor:
    """Return a float32 tensor, rounded from double once."""
    return torch.from_numpy(np.array(value, dtype=np.float32))
