import numpy as np
import pytest
import torch

from sparring.errors import BadInput
from sparring.models import function
from sparring.models.loading import adopt

X = torch.rand(5, 1, 3, 3)
WEIGHTS = np.linspace(-1, 1, 27, dtype=np.float64).reshape(9, 3)


def linear(x):
    return x.reshape(len(x), -1) @ WEIGHTS


def test_a_numpy_function_gives_float32_scores():
    victim = function.scores(linear)
    out = victim(X)
    assert (victim.access, victim.name, out.dtype) == ("scores", "linear", torch.float32)
    torch.testing.assert_close(out, torch.from_numpy(linear(X.numpy())).float())


def test_a_torch_function_is_given_a_detached_tensor():
    seen = []

    def f(x):
        seen.append(x.requires_grad)
        return x.flatten(1) @ torch.from_numpy(WEIGHTS).float()

    out = function.scores(f, takes="torch")(X.clone().requires_grad_())
    assert seen == [False]
    assert not out.requires_grad
    assert out.shape == (5, 3)


def test_a_function_that_writes_into_its_input_does_not_change_x():
    def f(x):
        x *= 0
        return x.reshape(len(x), -1)

    for takes in ("numpy", "torch"):
        before = X.clone()
        function.scores(f, takes=takes)(X)
        assert torch.equal(X, before)


def test_labels_become_one_hot_rows():
    victim = function.labels(lambda x: linear(x).argmax(1), classes=3, name="decisions")
    out = victim(X)
    assert (victim.access, victim.name) == ("labels", "decisions")
    assert torch.equal(out.argmax(1), torch.from_numpy(linear(X.numpy()).argmax(1)))
    assert torch.equal(out.sum(1), torch.ones(5))


def test_a_list_is_an_answer_too():
    assert function.labels(lambda x: [1] * len(x), classes=2)(X).argmax(1).tolist() == [1] * 5


def test_adopt_takes_a_callable_and_nothing_else():
    assert function.adopt(linear)(X).shape == (5, 3)
    with pytest.raises(BadInput, match="type int"):
        function.adopt(3)


@pytest.mark.parametrize(
    "f",
    [
        lambda x: x.sum((1, 2, 3)),
        lambda x: np.zeros((2, 3)),
        lambda x: "cat",
        lambda x: [[1], [2, 3]],
        lambda x: [torch.ones(2, requires_grad=True)] * 5,
    ],
)
def test_scores_of_the_wrong_shape_are_refused_in_one_line(f):
    with pytest.raises(BadInput) as caught:
        function.scores(f)(X)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("value", [[3] * 5, [-1] * 5, [0.5] * 5, [0] * 4, [[0, 1, 0]] * 5])
def test_labels_out_of_range_are_refused_in_one_line(value):
    with pytest.raises(BadInput) as caught:
        function.labels(lambda x: np.array(value), classes=3)(X)
    assert "\n" not in str(caught.value)


def test_one_class_is_refused():
    with pytest.raises(BadInput, match="at least two"):
        function.labels(linear, classes=1)


@pytest.mark.parametrize("takes", ["numpy", "torch"])
def test_an_answer_stays_as_it_is_where_a_function_writes_into_the_same_memory_again(takes):
    buffer = np.zeros((2, 2), np.float32) if takes == "numpy" else torch.zeros(2, 2)

    def again(x):
        buffer[:] = x
        return buffer

    victim = function.scores(again, takes=takes)
    first = victim(torch.zeros(2, 2))
    victim(torch.ones(2, 2))
    assert torch.equal(first, torch.zeros(2, 2))


def test_numbers_in_the_byte_order_of_another_machine_are_read():
    assert torch.equal(function.scores(lambda x: x.astype(">f4"))(torch.eye(2)), torch.eye(2))


def test_an_empty_batch_is_answered():
    assert function.labels(lambda x: np.zeros(len(x), int), classes=3)(X[:0]).shape == (0, 3)


@pytest.mark.parametrize("kind", [np.bool_, np.uint8, np.uint16, np.int64, np.float32])
def test_decisions_may_be_numbers_of_any_kind(kind):
    victim = function.labels(lambda x: (x[:, 0] > 0.5).astype(kind), classes=2)
    assert victim(torch.tensor([[0.2], [0.7]])).tolist() == [[1, 0], [0, 1]]


@pytest.mark.parametrize("kind", ["arrays from tensors", "tensors without a gradient"])
def test_a_function_of_torch_tensors_alone_is_handed_them_though_it_gives_no_gradient(kind):
    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 3))
    functions = {
        "arrays from tensors": lambda x: network(x).detach().numpy(),
        "tensors without a gradient": torch.inference_mode()(network.forward),
    }
    x = torch.rand(5, 2, 2)
    victim = adopt(functions[kind], example=x[:1])
    assert victim.access == "scores"
    assert torch.equal(victim(x), network(x).detach())
