"""Gradient-boosted trees, XGBoost and LightGBM, by their raw margins; trees are flat, so there are no gradients."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from sparring.errors import BadInput, require
from sparring.models import function
from sparring.models.victim import Victim


def adopt(obj: Any) -> Victim:
    """Attack an XGBoost or LightGBM classifier: `XGBClassifier`, `LGBMClassifier`, or the `Booster` of either.

    Outputs are the raw margins before the softmax, `(B, K)`; a binary model's margin `s` becomes `[0, s]`. Inputs
    `(B, *shape)` are flattened. Labels are positions in `classes_`, for a bare Booster the numbers it was trained on.

    Raises:
        BadInput: not fitted, or not a classifier.

    """
    package = type(obj).__module__.split(".", maxsplit=1)[0]
    if package == "xgboost":
        return xgboost(obj)
    if package == "lightgbm":
        return lightgbm(obj)
    raise BadInput(
        f"an object of type {type(obj).__name__}",
        "an XGBoost or LightGBM classifier",
        "pass an XGBClassifier, an LGBMClassifier or a Booster",
    )


def load(path: str | Path) -> Victim:
    """Attack the classifier in an XGBoost file (`.json`, `.ubj`) or a LightGBM text file (`.txt`).

    Raises:
        BadInput: no such file, a file that the library cannot read, or not a classifier.

    """
    path = Path(path)
    if not path.is_file():
        raise BadInput(
            f"{path} is not a file", "an XGBoost .json or .ubj file or a LightGBM .txt file", "check the path"
        )
    readers = {".json": read_xgboost, ".ubj": read_xgboost, ".txt": read_lightgbm}
    if path.suffix.lower() not in readers:
        raise BadInput(
            f"{path}", "an XGBoost .json or .ubj file or a LightGBM .txt file", "save the model as one of these"
        )
    try:
        return adopt(readers[path.suffix.lower()](path))
    except (ValueError, TypeError) as error:  # XGBoostError is a ValueError
        if isinstance(error, BadInput):
            raise
        raise BadInput(
            f"{path} is not a saved model or is damaged", "a whole file from save_model", "save the model again"
        ) from None


def read_xgboost(path: Path) -> Any:
    """Read a Booster; XGBoost ends the process on an empty buffer, so that never reaches it."""
    library = require("xgboost", "xgboost")
    whole = path.read_bytes()
    if not whole:
        raise ValueError("empty")
    return library.Booster(model_file=bytearray(whole))


def read_lightgbm(path: Path) -> Any:
    """Read a Booster; LightGBM takes a file that ends early for one of fewer trees, so the end is looked for first."""
    library = require("lightgbm", "lightgbm")
    text = path.read_text(encoding="utf-8")
    if "\nend of trees" not in text:
        raise ValueError("cut short")
    try:
        return library.Booster(model_str=text)
    except library.basic.LightGBMError as error:
        raise ValueError(str(error)) from None


def xgboost(obj: Any) -> Victim:
    """Attack an XGBoost model; one of its scikit-learn kind up to the best iteration that early stopping found."""
    labels: tuple[Any, ...] = ()
    if type(obj).__name__ == "Booster":
        booster, margin = obj, of_booster(obj)
    else:
        from xgboost import XGBClassifier, XGBRegressor

        if isinstance(obj, XGBRegressor) and obj.__sklearn_is_fitted__():
            return regressor(partial(obj.predict, validate_features=False), "xgboost", type(obj).__name__)
        if not isinstance(obj, XGBClassifier | XGBRegressor):
            raise BadInput(f"XGBoost's {type(obj).__name__}", "a classifier or a regressor", "rankers have no labels")
        if not obj.__sklearn_is_fitted__():
            raise BadInput(f"{type(obj).__name__} is not fitted", "a fitted one", "call fit(x, y) first")
        booster, labels = obj.get_booster(), tuple(obj.classes_)
        margin = partial(obj.predict, output_margin=True, validate_features=False)
    learner = json.loads(booster.save_config())["learner"]
    shape = learner["learner_model_param"]
    if int(shape.get("num_target", 1)) > 1:
        raise BadInput(f"an XGBoost model of {shape['num_target']} labels an example", "one label", "fit one a label")
    return victim(margin, str(learner["objective"]["name"]), labels, framework="xgboost", name=type(obj).__name__)


def of_booster(booster: Any) -> Callable[[np.ndarray], np.ndarray]:
    """The margins of a Booster: of all its trees, unless scikit-learn's kind wrote it, which stops at the best."""
    config = json.loads(booster.save_config())["learner"]
    if config["gradient_booster"]["name"] == "gblinear":  # which has no prediction in place
        from xgboost import DMatrix

        return lambda x: np.asarray(booster.predict(DMatrix(x), output_margin=True, validate_features=False))
    told = booster.attributes()
    last = int(told["best_iteration"]) + 1 if {"scikit_learn", "best_iteration"} <= told.keys() else 0  # 0: all
    return partial(booster.inplace_predict, predict_type="margin", iteration_range=(0, last), validate_features=False)


def lightgbm(obj: Any) -> Victim:
    """Attack a LightGBM model, at the best iteration where early stopping found one."""
    labels: tuple[Any, ...] = ()
    if type(obj).__name__ == "Booster":
        booster = obj
    else:
        from lightgbm import LGBMClassifier, LGBMRegressor

        if isinstance(obj, LGBMRegressor) and obj.__sklearn_is_fitted__():
            return regressor(obj.booster_.predict, "lightgbm", type(obj).__name__)
        if not isinstance(obj, LGBMClassifier | LGBMRegressor):
            raise BadInput(f"LightGBM's {type(obj).__name__}", "a classifier or a regressor", "rankers have no labels")
        if not obj.__sklearn_is_fitted__():
            raise BadInput(f"{type(obj).__name__} is not fitted", "a fitted one", "call fit(x, y) first")
        booster, labels = obj.booster_, tuple(obj.classes_)
    objective = str(booster.dump_model(num_iteration=1).get("objective", "custom"))
    return victim(
        lambda x: np.asarray(booster.predict(x, raw_score=True)),
        objective,
        labels,
        framework="lightgbm",
        name=type(obj).__name__,
    )


def regressor(predict: Callable[[np.ndarray], Any], framework: str, name: str) -> Victim:
    """Attack by what it predicts, for the task of regression."""
    notes = ("no gradients: trees are flat; answers are predict",)
    return function.answers(
        lambda x: predict(x.reshape(len(x), math.prod(x.shape[1:]))), name=name, framework=framework, notes=notes
    )


def victim(
    margin: Callable[[np.ndarray], np.ndarray], objective: str, labels: tuple[Any, ...], *, framework: str, name: str
) -> Victim:
    """Make margins `(B,)` or `(B, K)` into scores, after checking that they are a classifier's."""
    if not labels and not objective.startswith(("binary", "multi", "custom", "cross_entropy")):
        raise BadInput(
            f"a {framework} model of objective {objective}",
            "a classifier",
            "train with a binary or multi-class objective",
        )

    def scores(x: np.ndarray) -> np.ndarray:
        out = np.asarray(margin(x.reshape(len(x), math.prod(x.shape[1:]))))
        return np.stack([np.zeros_like(out), out], axis=1) if out.ndim == 1 else out

    notes = [f"no gradients: trees are flat; scores are raw margins of {objective.split(maxsplit=1)[0]}"]
    if labels:
        notes.append(f"labels are positions in classes_ = [{', '.join(map(str, labels[:20]))}]")
    return function.scores(scores, name=name, framework=framework, notes=tuple(notes))
