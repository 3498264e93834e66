import pickle

import numpy as np
import pytest
import torch
from torch import nn
from torch.testing import assert_close

from sparring.attacks import pgd
from sparring.data import Arrays, Subset, load
from sparring.errors import BadInput
from sparring.goals import Targeted, Untargeted
from sparring.losses import cross_entropy, margin
from sparring.streams import Streams
from sparring.tasks import (
    TASKS,
    Binary,
    Classification,
    Embedding,
    MultiLabel,
    Regression,
    Segmentation,
    odds,
    pairs,
    parse,
)
from sparring.threats import linf

EVERY = [Classification(), Binary(), MultiLabel(), Regression(0.5), Segmentation(0.5), Embedding(0.5)]
every_task = pytest.mark.parametrize("task", EVERY, ids=str)

ANSWERS = {
    "classification": (torch.tensor([[0.0, 1.0, 2.0], [3.0, 1.0, 0.0]]), torch.tensor([2, 1])),
    "binary": (torch.tensor([3.0, 0.1]), torch.tensor([1, 0])),
    "multi-label": (torch.tensor([[1.0, -1.0], [1.0, -1.0]]), torch.tensor([[1, 0], [1, 1]])),
    "regression": (torch.tensor([[1.0], [5.0]]), torch.tensor([1.2, 3.0])),
    "segmentation": (
        torch.tensor([[2.0, 0.0], [0.0, 3.0], [0.0, -1.0], [0.0, 3.0]]).view(2, 2, 1, 2),
        torch.tensor([[[0, 1]], [[1, 0]]]),
    ),
    "embedding": (torch.tensor([[1.0, 0.0], [1.0, 0.0]]), torch.tensor([[2.0, 0.1], [0.0, 1.0]])),
}
"""Of every task: a first row that is right and a second that is wrong."""


def answer(task):
    outputs, labels = ANSWERS[task.name]
    return task.view(lambda x: outputs)(torch.zeros(2, 1)), labels


def refusal(make):
    with pytest.raises(BadInput) as error:
        make()
    assert "\n" not in str(error.value)
    return str(error.value)


@every_task
def test_an_answer_is_wrong_exactly_where_the_goal_is_reached(task):
    outputs, labels = answer(task)
    goal = task.goal(labels)
    assert goal.reached(outputs).tolist() == [False, True]
    assert task.misfit(outputs, labels) == ""
    assert task.measure(outputs, labels).shape == (2,)


@every_task
def test_what_is_said_is_wanted_too(task):
    outputs, labels = answer(task)
    target = task.target(labels)
    assert target.sign == -1
    assert target.reached(outputs).tolist() == [True, False]


@every_task
def test_no_answer_is_wrong_enough_for_a_climb_to_the_end(task):
    outputs, labels = answer(task)
    goal, never = task.goal(labels), task.never(labels)
    rows = torch.tensor([1])
    assert not never.reached(outputs).any()
    assert never.sign == goal.sign
    for loss in (margin, cross_entropy):
        assert torch.equal(loss(outputs, never), loss(outputs, goal))
        assert torch.equal(loss(outputs[rows], never[rows]), loss(outputs, goal)[rows])


@every_task
def test_an_answer_that_is_no_number_does_not_fit(task):
    outputs, labels = answer(task)
    outputs = outputs.clone()
    outputs[1] = torch.nan
    assert task.misfit(outputs, labels) == "1 of 2 outputs hold NaN or infinity"


@every_task
def test_outputs_of_another_shape_do_not_fit(task):
    outputs, labels = answer(task)
    assert task.misfit(outputs.unsqueeze(-1).expand(*outputs.shape, 7), labels) != ""
    assert task.misfit(outputs, torch.zeros(2, 5, 5, 5, dtype=torch.int64)) != ""


@every_task
def test_a_task_is_a_value_that_its_text_gives_back(task):
    assert parse(str(task)) == task
    assert hash(parse(str(task))) == hash(task)
    assert pickle.loads(pickle.dumps(task)) == task
    assert TASKS[task.name] is type(task)
    assert len({str(other) for other in EVERY}) == len(EVERY)


@pytest.mark.parametrize(
    "text",
    [
        "binary:probability",
        "multi-label:2",
        "multi-label:2:probability",
        "multi-label:probability",
        "segmentation:0.9:0",
    ],
)
def test_settings_are_in_the_text(text):
    assert str(parse(text)) == text


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("regresion:1", "did you mean 'regression'"),
        ("regression", "need regression:tolerance"),
        ("regression:near", "need regression:tolerance"),
        ("regression:1:2", "need regression:tolerance"),
        ("regression:-1", "tolerance of -1"),
        ("regression:inf", "need a finite number"),
        ("multi-label:-1", "-1 labels that may be wrong"),
        ("multi-label:1.5", "need multi-label:[wrong]:[probability]"),
        ("binary:1", "need binary:[probability]"),
        ("segmentation:50", "pixel accuracy of 50"),
        ("embedding:1", "cosine of 1"),
        ("", "unknown task ''"),
    ],
)
def test_a_text_that_names_no_task_is_refused_in_one_line(text, said):
    assert said in refusal(lambda: parse(text))


def test_one_logit_is_two_with_the_same_decision_and_probability():
    s = torch.tensor([-2.0, 0.0, 3.0])
    for shape in ((3,), (3, 1)):
        both = pairs(lambda x: s.view(shape))(torch.zeros(3, 1))  # noqa: B023
        assert both.shape == (3, 2)
        assert_close(both.softmax(1)[:, 1], s.sigmoid())
        assert_close(Untargeted(torch.zeros(3).long()).reached(both), s > 0)
    assert pairs(lambda x: s.sum())(torch.zeros(1, 1)).shape == (1, 2)
    maps = torch.ones(3, 1, 4, 5)
    assert pairs(lambda x: maps)(torch.zeros(3, 1)).shape == (3, 2, 4, 5)
    two = torch.ones(3, 2)
    assert pairs(lambda x: two)(torch.zeros(3, 1)) is two


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_sigmoid_is_undone(dtype):
    s = torch.tensor([[-9.0, -0.01], [0.01, 5.0]], dtype=dtype)
    assert_close(odds(torch.sigmoid)(s), s, rtol=1e-3, atol=1e-3)
    sure = odds(torch.sigmoid)(torch.tensor([-1000.0, 1000.0], dtype=dtype))
    assert sure.isfinite().all()
    assert sure[0] < -10 < 10 < sure[1]


@pytest.mark.parametrize("task", [Binary(probability=True), MultiLabel(probability=True)], ids=str)
def test_a_model_that_ends_in_a_sigmoid_is_judged_by_a_half(task):
    p = torch.tensor([[0.4], [0.6]])
    outputs = task.view(lambda x: p)(p)
    labels = torch.zeros((2,) if isinstance(task, Binary) else (2, 1), dtype=torch.int64)
    assert task.goal(labels).reached(outputs).tolist() == [False, True]
    assert task.misfit(outputs, labels) == ""


@pytest.mark.parametrize(
    ("task", "outputs", "labels"),
    [
        (Binary(), torch.tensor([0.2, 0.9]), torch.tensor([0, 1])),
        (MultiLabel(), torch.tensor([[0.2, 0.9], [0.6, 0.1]]), torch.tensor([[0, 1], [1, 0]])),
    ],
    ids=str,
)
def test_probabilities_where_logits_were_promised_are_noticed(task, outputs, labels):
    problem = task.misfit(task.view(lambda x: outputs)(outputs), labels)
    assert f"say {task.name}:probability" in problem
    assert task.misfit(task.view(lambda x: 20 * outputs - 10)(outputs), labels) == ""


@pytest.mark.parametrize(
    ("task", "outputs", "labels", "said"),
    [
        (Classification(), torch.zeros(2, 1), torch.tensor([0, 0]), "single output"),
        (Classification(), torch.zeros(2, 3), torch.tensor([0, 3]), "labels reach from 0 to 3, and the model has 3"),
        (Classification(), torch.zeros(2, 3), torch.tensor([0.0, 1.0]), "not one class an example"),
        (Binary(), torch.zeros(2, 3), torch.tensor([0, 1]), "3 outputs, not one for yes or no"),
        (Binary(), torch.zeros(2, 2), torch.tensor([0, 2]), "labels reach from 0 to 2"),
        (MultiLabel(), torch.zeros(2, 3), torch.zeros(2, 2), "(2, 3) for labels (2, 2)"),
        (Regression(1.0), torch.zeros(2, 3), torch.zeros(2), "(2, 3) for labels (2,)"),
        (Segmentation(0.5), torch.zeros(2, 3, 4, 4), torch.zeros(2, 8, 8), "(2, 3, 4, 4) for labels (2, 8, 8)"),
        (Segmentation(0.5), torch.zeros(2, 3, 4, 4), torch.full((2, 4, 4), 3), "labels reach from 3 to 3"),
        (Embedding(0.5), torch.zeros(2, 3), torch.zeros(2, 4), "(2, 3) for labels (2, 4)"),
    ],
    ids=str,
)
def test_what_does_not_fit_is_said(task, outputs, labels, said):
    assert said in task.misfit(outputs, labels)


def test_ignored_pixels_may_be_of_any_class():
    assert Segmentation(0.5).misfit(torch.zeros(2, 3, 4, 4), torch.full((2, 4, 4), 255, dtype=torch.uint8)) == ""


def test_a_classification_attacks_as_ever():
    labels = torch.tensor([0, 1])
    assert isinstance(Classification().goal(labels), Untargeted)
    assert isinstance(Classification().target(labels), Targeted)
    data = Classification().data("a", np.zeros((3, 2)), np.eye(3))
    assert data.take([2, 0])[1].tolist() == [2, 0]
    assert data.notes == Arrays("a", np.zeros((3, 2)), np.eye(3)).notes


def test_a_binary_network_with_one_logit_is_attacked_as_its_twin_with_two_is():
    torch.manual_seed(0)
    one = nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.Tanh(), nn.Linear(8, 1))
    two = nn.Sequential(*one[:-1], nn.Linear(8, 2))
    two[-1].weight.data, two[-1].bias.data = one[-1].weight[[0, 0]].detach() / 2, one[-1].bias[[0, 0]].detach() / 2
    two[-1].weight.data[0] *= -1
    two[-1].bias.data[0] *= -1
    x, rng = Streams.of(0, range(20)).uniform(1, 4, 4), Streams.of(1, range(20))
    labels = (one(x).squeeze(1) > 0).long()
    z = pgd(linf(0.3))(Binary().view(one), x, Binary().goal(labels), rng)
    same = pgd(linf(0.3))(two, x, Untargeted(labels), rng)
    assert_close(z, same)
    assert ((one(z).squeeze(1) > 0).long() != labels).any()


@pytest.mark.parametrize(
    ("task", "y", "kept"),
    [
        (Binary(), np.array([[1.0], [0.0]]), torch.tensor([1, 0])),
        (Binary(), np.array([True, False]), torch.tensor([1, 0])),
        (MultiLabel(), np.array([[1.0, 0.0], [1.0, 1.0]]), torch.tensor([[1, 0], [1, 1]])),
        (MultiLabel(), torch.tensor([[True, False], [True, True]]), torch.tensor([[1, 0], [1, 1]])),
        (Regression(1.0), np.array([1.5, -2.0]), torch.tensor([1.5, -2.0])),
        (Regression(1.0), np.array([[1, 2], [3, 4]]), torch.tensor([[1.0, 2.0], [3.0, 4.0]])),
        (Segmentation(0.5), np.full((2, 3, 3), 255, np.uint8), torch.full((2, 3, 3), 255, dtype=torch.uint8)),
        (Segmentation(0.5), np.ones((2, 1, 3, 3)), torch.ones(2, 3, 3, dtype=torch.int64)),
        (Segmentation(0.5, ignore=-1), np.full((2, 3, 3), -1), torch.full((2, 3, 3), -1)),
        (Embedding(0.5), np.array([[1, 2], [0, 4]]), torch.tensor([[1.0, 2.0], [0.0, 4.0]])),
    ],
    ids=str,
)
def test_labels_of_every_shape_pass_and_can_be_attacked(task, y, kept):
    data = task.data("mine", np.zeros((2, 4), np.uint8), y)
    x, labels = data.take([0, 1])
    assert torch.equal(labels, kept)
    assert labels.dtype == kept.dtype
    assert x.dtype == torch.float32
    assert data.take([1])[1].tolist() == kept[1:].tolist()
    assert "uint8 inputs were divided by 255" in data.notes
    assert pickle.loads(pickle.dumps(data)).take([0])[1].tolist() == kept[:1].tolist()
    task.goal(labels)


@pytest.mark.parametrize(
    ("task", "y", "said"),
    [
        (Binary(), np.array([-1, 1]), "contain -1; need 0 and 1 alone"),
        (Binary(), np.array([0.5, 1]), "contain 0.5"),
        (MultiLabel(), np.array([0, 1]), "shape (2,); need (N, L)"),
        (MultiLabel(), np.array([[0, 2], [0, 1]]), "contain 2"),
        (Regression(1.0), np.array([1.0, np.nan]), "NaN or infinity"),
        (Regression(1.0), np.array(["a", "b"]), "are text"),
        (Segmentation(0.5), np.zeros(2), "shape (2,); need (N, H, W)"),
        (
            Segmentation(0.5),
            np.full((2, 3, 3), -1),
            "contain -1; need whole numbers from 0; give class numbers, and 255",
        ),
        (Segmentation(0.5), np.full((2, 3, 3), 0.5), "contain 0.5"),
        (Segmentation(0.5), np.full((2, 3, 3), np.nan), "contain nan"),
        (Embedding(0.5), np.zeros(2), "shape (2,); need (N, D)"),
        (Embedding(0.5), np.array([[1.0, 0.0], [0.0, 0.0]]), "is zero"),
        (Embedding(0.5), np.full((2, 2), np.inf), "NaN or infinity"),
        (Regression(1.0), np.zeros(3), "2 inputs and 3 labels"),
        (Regression(1.0), np.float32(1), "shape ()"),
        (Segmentation(0.5), np.zeros((0, 3, 3)), "empty"),
    ],
    ids=str,
)
def test_labels_that_are_none_of_the_task_are_refused_in_one_line(task, y, said):
    message = refusal(lambda: task.data("mine", np.zeros((2, 4)), y))
    assert said in message
    assert "mine" in message


def test_a_label_map_stays_on_disk_in_its_own_type(tmp_path):
    np.save(tmp_path / "y.npy", np.zeros((50, 8, 8), np.uint8))
    data = Segmentation(0.5).data("maps", np.zeros((50, 1, 8, 8), np.uint8), np.load(tmp_path / "y.npy", mmap_mode="r"))
    assert isinstance(data.y, np.memmap)
    assert data.take([3, 1])[1].shape == (2, 8, 8)
    assert len(Subset(data, range(7)).take([6])[1]) == 1


def test_a_factory_may_give_a_data_set_of_a_task(tmp_path):
    (tmp_path / "mine.py").write_text(
        "import numpy as np\nfrom sparring.tasks import Regression\n\n\n"
        "def data():\n    return Regression(0.5).data('mine', np.zeros((3, 2)), np.array([0.25, 1.5, 2.5]))\n"
    )
    assert load(f"{tmp_path / 'mine.py'}:data").take([2])[1].tolist() == [2.5]
