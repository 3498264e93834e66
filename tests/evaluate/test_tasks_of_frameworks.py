"""The same regression in every framework: the same examples stand, exactly those of the closed form."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from sparring import audit
from sparring.threats import linf

pytestmark = pytest.mark.frameworks

EPS, TOLERANCE = 0.05, 0.6
WEIGHT = np.array([4.0, -3.0, 2.0, 0.5], dtype=np.float32)
X = np.random.default_rng(0).random((60, 4), dtype=np.float32)
Y = X @ WEIGHT + np.random.default_rng(1).uniform(-0.3, 0.3, 60).astype(np.float32)


def stands() -> np.ndarray:
    """Which examples no change within EPS and the box drives off."""
    low, high = (X - EPS).clip(0, 1), (X + EPS).clip(0, 1)
    most = np.where(WEIGHT > 0, high, low) @ WEIGHT - Y
    least = np.where(WEIGHT > 0, low, high) @ WEIGHT - Y
    return np.maximum(most, -least) <= TOLERANCE


def in_jax() -> Any:
    jax = pytest.importorskip("jax", reason="the extra 'jax' is not installed")
    return jax.jit(lambda x: x @ WEIGHT)


def in_tensorflow() -> Any:
    tf = pytest.importorskip("tensorflow", reason="the extra 'tensorflow' is not installed")
    return tf.function(lambda x: tf.linalg.matvec(x, WEIGHT))


def in_keras() -> Any:
    keras = pytest.importorskip("keras", reason="the extra 'keras' is not installed")
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1, use_bias=False)])
    model.layers[0].set_weights([WEIGHT[:, None]])
    return model


def in_onnx() -> Any:
    onnx = pytest.importorskip("onnx", reason="the extra 'onnx' is not installed")
    pytest.importorskip("onnxruntime", reason="the extra 'onnx' is not installed")
    node = onnx.helper.make_node("MatMul", ["x", "w"], ["y"])
    x, y = (onnx.helper.make_tensor_value_info(name, 1, ["n", size]) for name, size in (("x", 4), ("y", 1)))
    graph = onnx.helper.make_graph([node], "line", [x], [y], [onnx.numpy_helper.from_array(WEIGHT[:, None], "w")])
    return onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)


def in_sklearn() -> Any:
    linear_model = pytest.importorskip("sklearn.linear_model", reason="the extra 'sklearn' is not installed")
    return linear_model.LinearRegression(fit_intercept=False).fit(X, X @ WEIGHT)


@pytest.mark.parametrize("make", [in_jax, in_tensorflow, in_keras, in_onnx, in_sklearn], ids=lambda make: make.__name__)
def test_a_regression_of_any_framework_stands_exactly_where_the_closed_form_says(make):
    task = f"regression:{TOLERANCE}"
    found = audit(make(), (torch.tensor(X), torch.tensor(Y)), linf(EPS), task=task, suite="quick", passes=0)
    assert found.verdict == "trusted", found.reasons
    assert found.clean_accuracy.estimate == 1
    assert [row.broken_by is None for row in found.per_example] == stands().tolist()
    assert 0.1 < stands().mean() < 0.9


def test_trees_that_regress_are_attacked_by_what_they_say():
    xgboost = pytest.importorskip("xgboost", reason="the extra 'xgboost' is not installed")
    model = xgboost.XGBRegressor(n_estimators=8, n_jobs=1).fit(X, Y)
    task = f"regression:{TOLERANCE}"
    found = audit(model, (torch.tensor(X[:10]), torch.tensor(Y[:10])), linf(EPS), task=task, suite="quick")
    assert found.settings["access"] == "scores"
    assert found.robust_accuracy.estimate < found.clean_accuracy.estimate
