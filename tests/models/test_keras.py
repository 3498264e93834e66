from __future__ import annotations

import importlib.util
import os
import subprocess
import sys

import numpy as np
import pytest
import torch

from sparring.errors import BadInput
from sparring.models import keras as adapter
from sparring.models.loading import adopt, load

if importlib.util.find_spec("keras") is None:
    pytest.skip("the extra 'keras' is not installed", allow_module_level=True)

keras = adapter.keras()
pytestmark = [
    pytest.mark.frameworks,
    # Keras reads its own torch variables by NumPy's old protocol
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),
]

CROSS = """
import sys
import numpy as np
import torch
from sparring.evaluate.verdict import audit
from sparring.models.loading import load
from sparring.threats import linf

path, examples, out = sys.argv[1:]
victim = load(path)
x, g, y = (torch.from_numpy(part) for part in np.load(examples).values())
rows, slopes = [], []
for part, weight in zip(x.split(5), g.split(5)):
    part.requires_grad_()
    logits = victim(part)
    rows.append(logits.detach())
    slopes.append(torch.autograd.grad(logits, part, weight)[0])
result = audit(victim, (x.detach(), y), linf(0.02), suite="quick", batch_size=8)
broken = [row.broken_by is not None for row in result.per_example]
np.savez(out, logits=torch.cat(rows), slope=torch.cat(slopes), broken=broken, framework=victim.framework)
"""


def small(*tail, shape=(8, 8, 1)):
    """A small network with batch norm and dropout, with statistics that matter."""
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input(shape),
            keras.layers.Conv2D(4, 3, strides=2, activation="relu"),
            keras.layers.BatchNormalization(),
            keras.layers.Flatten(),
            keras.layers.Dropout(0.5),
            *tail,
        ]
    )
    norm = model.layers[1]
    norm.moving_mean.assign(np.linspace(-0.2, 0.2, 4))
    norm.moving_variance.assign(np.linspace(0.5, 2, 4))
    return model


def dense(units, activation):
    return keras.layers.Dense(units, activation=activation, bias_initializer="normal")


def told(model, x):
    """What Keras itself answers to channels-last numpy images."""
    return torch.tensor(keras.ops.convert_to_numpy(model(x, training=False)))


@pytest.fixture(scope="module")
def crossed(tmp_path_factory):
    """Outputs and gradients of one `.keras` file on a backend, in a process of its own."""
    folder = tmp_path_factory.mktemp("keras")
    model = small(dense(10, "softmax"))
    rng = np.random.default_rng(0)
    x, g = (rng.random(shape, dtype=np.float32) for shape in ((24, 1, 8, 8), (24, 10)))
    images = x.transpose(0, 2, 3, 1)
    bias = model.layers[-1].bias
    bias.assign(bias - told(model, images).log().mean(0))  # so that no class is the answer to everything
    model.save(folder / "net.keras")
    y = told(model, images).argmax(1).numpy()
    np.savez(folder / "examples.npz", x=x, g=g, y=y)
    (folder / "cross.py").write_text(CROSS)

    def run(backend):
        out = folder / f"{backend}.npz"
        if not out.exists():
            environment = {**os.environ, "KERAS_BACKEND": backend, "TF_CPP_MIN_LOG_LEVEL": "3", "OMP_NUM_THREADS": "1"}
            command = [sys.executable, folder / "cross.py", folder / "net.keras", folder / "examples.npz", out]
            done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
            assert done.returncode == 0, done.stderr
        return dict(np.load(out)), (model, x, g)

    return run


def test_on_the_torch_backend_outputs_and_gradients_are_those_of_keras(crossed):
    got, (model, x, _) = crossed("torch")
    assert got["framework"] == "keras on torch"
    want = told(model, x.transpose(0, 2, 3, 1))
    torch.testing.assert_close(torch.from_numpy(got["logits"]).softmax(1), want, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("backend", ["jax", "tensorflow"])
def test_the_same_weights_agree_with_the_torch_backend_and_break_on_the_same_examples(crossed, backend):
    if importlib.util.find_spec(backend) is None:
        pytest.skip(f"{backend} is not installed")
    got, _ = crossed(backend)
    want, _ = crossed("torch")
    assert got["framework"] == f"keras on {backend}"
    np.testing.assert_allclose(got["logits"], want["logits"], atol=1e-5, rtol=1e-5)
    np.testing.assert_allclose(got["slope"], want["slope"], atol=1e-5, rtol=1e-5)
    np.testing.assert_array_equal(got["broken"], want["broken"])
    assert 0 < want["broken"].sum() < 24


def test_a_final_softmax_is_left_out_exactly():
    x = torch.rand(3, 8, 8, 1)
    endings = [
        (dense(5, "softmax"),),
        (dense(5, None), keras.layers.Softmax()),
        (dense(5, None), keras.layers.Activation("softmax")),
    ]
    for ending in endings:
        model = small(*ending)
        victim = adopt(model)
        assert not victim.probabilities
        assert "final softmax is left out" in " ".join(victim.notes)
        torch.testing.assert_close(victim(x).softmax(1), told(model, x), atol=1e-6, rtol=1e-5)
        assert not torch.allclose(victim(x).exp().sum(1), torch.ones(3))


def test_one_sigmoid_unit_becomes_two_logits_and_many_become_their_own():
    x = torch.rand(3, 8, 8, 1)
    one, many = small(dense(1, "sigmoid")), small(dense(4, "sigmoid"))
    torch.testing.assert_close(adopt(one)(x).softmax(1)[:, 1:], told(one, x))
    torch.testing.assert_close(adopt(many)(x).sigmoid(), told(many, x))


def test_probabilities_that_cannot_be_left_out_are_marked():
    class Strange(keras.layers.Dense):
        def call(self, inputs):
            return super().call(2 * inputs)

    strange = small(Strange(5, activation="softmax"))
    nested = keras.Sequential([keras.Input((8, 8, 1)), small(dense(5, "softmax"))])
    x = torch.rand(2, 8, 8, 1)
    for model in (strange, nested):
        victim = adopt(model)
        assert victim.probabilities
        torch.testing.assert_close(victim(x), told(model, x))


def test_a_model_with_logits_is_called_as_it_is():
    model = small(dense(5, None))
    victim = adopt(model)
    assert (victim.access, victim.probabilities) == ("gradients", False)
    x = torch.rand(3, 8, 8, 1)
    torch.testing.assert_close(victim(x), told(model, x), rtol=0, atol=0)


def test_a_functional_model_with_a_shared_trunk_is_cut_at_its_own_end():
    inputs = keras.Input((6,))
    shared = keras.layers.Dense(4, activation="relu")
    head = keras.layers.Dense(3, activation="softmax")
    head(shared(keras.Input((6,))))  # the head is used elsewhere too
    model = keras.Model(inputs, head(shared(inputs)))
    x = torch.rand(3, 6)
    torch.testing.assert_close(adopt(model)(x).softmax(1), told(model, x))


def test_a_subclassed_model_is_called_as_it_is():
    class Net(keras.Model):
        def __init__(self):
            super().__init__()
            self.out = keras.layers.Dense(3)

        def call(self, x, training=False):
            return self.out(x) + (100 if training else 0)

    model = Net()
    x = torch.rand(2, 6)
    torch.testing.assert_close(adopt(model)(x), told(model, x))


def test_on_jax_a_model_that_was_never_built_is_refused_before_it_is_spoilt(monkeypatch):
    monkeypatch.setattr(keras.backend, "backend", lambda: "jax")
    with pytest.raises(BadInput, match="without weights"):
        adopt(keras.Sequential([keras.layers.Dense(3)]))


def test_images_come_in_the_shape_that_the_data_has():
    model = small(dense(5, None), shape=(8, 8, 3))
    victim = adopt(model)
    x = torch.rand(2, 3, 8, 8)
    torch.testing.assert_close(victim(x), told(model, x.permute(0, 2, 3, 1)))
    assert "transposed" in " ".join(victim.notes)
    flat = adopt(keras.Sequential([keras.Input((64,)), keras.layers.Dense(2)]))
    assert flat(torch.rand(2, 1, 8, 8)).shape == (2, 2)
    with pytest.raises(BadInput, match="inputs of shape"):
        victim(torch.rand(2, 1, 9, 9))


def test_the_model_comes_back_exactly_as_it_was_given():
    model = small(dense(5, "softmax"))
    model.compile("sgd", "categorical_crossentropy")
    config, weights = model.get_config(), [w.copy() for w in model.get_weights()]
    nodes = [len(layer._inbound_nodes) for layer in model.layers]
    modes = [part.training for part in model.modules()]
    x = torch.rand(2, 1, 8, 8, requires_grad=True)
    adopt(model)(x).sum().backward()
    assert model.get_config() == config
    assert all(map(np.array_equal, model.get_weights(), weights))
    assert [len(layer._inbound_nodes) for layer in model.layers] == nodes
    assert [part.training for part in model.modules()] == modes
    assert model.compiled


def test_weights_that_change_after_adoption_are_seen():
    model = small(dense(5, "softmax"))
    victim = adopt(model)
    x = torch.rand(2, 1, 8, 8)
    before = victim(x)
    model.layers[-1].bias.assign(model.layers[-1].bias + 1)
    torch.testing.assert_close(victim(x), before + 1)


def test_a_model_of_two_inputs_is_refused_in_one_line():
    a, b = keras.Input((2,)), keras.Input((2,))
    with pytest.raises(BadInput, match="2 inputs and 1 outputs"):
        adopt(keras.Model([a, b], keras.layers.add([a, b])))


def test_a_lambda_layer_is_refused_without_trust(tmp_path):
    model = keras.Sequential([keras.Input((4,)), keras.layers.Lambda(lambda x: 2 * x), keras.layers.Dense(2)])
    model.save(tmp_path / "lambda.keras")
    with pytest.raises(BadInput, match="brings code or files of its own"):
        load(str(tmp_path / "lambda.keras"))
    x = torch.rand(2, 4)
    torch.testing.assert_close(load(str(tmp_path / "lambda.keras"), trust=True)(x), told(model, x))


def test_a_damaged_file_is_refused_in_one_line(tmp_path):
    (tmp_path / "net.keras").write_bytes(b"not a zip")
    with pytest.raises(BadInput, match="does not load") as error:
        load(str(tmp_path / "net.keras"))
    assert "\n" not in str(error.value)


def test_weights_go_into_what_a_factory_returned(tmp_path):
    (tmp_path / "net.py").write_text(
        "import keras\n\ndef make():\n    return keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])\n"
    )
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
    model.save_weights(tmp_path / "right.weights.h5")
    keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)]).save_weights(tmp_path / "wrong.weights.h5")
    x = torch.rand(3, 4)
    victim = load(f"{tmp_path / 'net.py'}:make", weights=str(tmp_path / "right.weights.h5"))
    torch.testing.assert_close(victim(x), told(model, x))
    with pytest.raises(BadInput, match="does not fit"):
        load(f"{tmp_path / 'net.py'}:make", weights=str(tmp_path / "wrong.weights.h5"))


@pytest.mark.parametrize(("given", "got"), [(None, "torch None"), ("jax", "jax jax")])
def test_torch_is_the_backend_unless_the_user_chose_one(given, got):
    if given and importlib.util.find_spec(given) is None:
        pytest.skip(f"{given} is not installed")
    environment = {key: value for key, value in os.environ.items() if key != "KERAS_BACKEND"}
    code = "import os; from sparring.models.keras import keras; k = keras(); "
    code += "print(k.backend.backend(), os.environ.get('KERAS_BACKEND'))"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**environment, **({"KERAS_BACKEND": given} if given else {})},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == got
