"""Arrays, subsets, and what is refused as inputs or labels."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sparring.data import Arrays, first
from sparring.errors import BadInput


def rows(n=4):
    return np.arange(n * 3, dtype=np.float32).reshape(n, 3)


def test_bytes_become_fractions_and_that_is_said():
    data = Arrays("a", np.array([[0, 51, 255]], np.uint8), np.array([2], np.uint8))
    x, y = data.take([0])
    assert x.dtype == torch.float32
    assert y.dtype == torch.int64
    assert torch.equal(x, torch.tensor([[0, 51, 255]], dtype=torch.float32) / 255)
    assert any("255" in note for note in data.notes)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, ">f4", np.int16, bool])
def test_other_types_keep_their_values(dtype):
    given_x = np.array([[0, 1], [1, 1]]).astype(dtype) * (1 if dtype is bool else 200)
    x, _ = Arrays("a", given_x.astype(dtype), np.array([0, 1])).take([1, 0])
    assert x.dtype == torch.float32
    assert torch.equal(x, torch.from_numpy(given_x.astype(dtype).astype(np.float32)[::-1].copy()))


def test_tensors_are_taken_too():
    x, y = Arrays("a", torch.ones(3, 2, dtype=torch.bfloat16, requires_grad=True), torch.tensor([0, 1, 2])).take([2])
    assert x.tolist() == [[1.0, 1.0]]
    assert y.tolist() == [2]
    assert not x.requires_grad


def test_what_take_returns_can_be_written_to_without_changing_the_data():
    data = Arrays("a", rows(), np.arange(4))
    data.take([0])[0].fill_(99)
    assert data.take([0])[0].max() < 99


def test_channels_last_images_are_pointed_out():
    assert any("channels last" in note for note in Arrays("a", np.zeros((2, 8, 8, 3)), np.zeros(2)).notes)
    assert not Arrays("a", np.zeros((2, 3, 8, 8)), np.zeros(2)).notes


def test_one_hot_labels_become_positions_and_that_is_said():
    data = Arrays("a", rows(3), np.eye(3)[[2, 0, 1]])
    assert data.take([0, 1, 2])[1].tolist() == [2, 0, 1]
    assert "one-hot" in data.notes[0]


def test_whole_floats_and_a_column_are_labels():
    assert Arrays("a", rows(2), np.array([[3.0], [0.0]])).take([0, 1])[1].tolist() == [3, 0]


@pytest.mark.parametrize(
    ("x", "y", "said"),
    [
        (rows(3), np.arange(4), "3 inputs and 4 labels"),
        (rows(2), np.array([0, np.nan]), "NaN"),
        (rows(2), np.array([0, np.inf]), "inf"),
        (rows(2), np.array([0, 0.5]), "0.5"),
        (rows(2), np.array([0, -1]), "-1"),
        (rows(2), np.array([0, 1e20]), "1e+20"),
        (rows(2), np.array([0, 2**63], np.uint64), "9223372036854775808"),
        (torch.eye(2).to_sparse(), np.zeros(2), "Sparse layout"),
        ([torch.ones(2, requires_grad=True)] * 2, np.zeros(2), "requires grad"),
        (rows(2), np.array(["cat", "dog"]), "text"),
        (rows(2), np.array([0, None]), "Python objects"),
        (rows(2), np.array([[0.2, 0.8], [0.5, 0.5]]), "one-hot"),
        (rows(2), np.zeros((2, 1, 1)), "(2, 1, 1)"),
        (rows(0), np.zeros(0), "empty"),
        (np.zeros((2, 0)), np.zeros(2), "empty, (2, 0)"),
        (np.zeros(3), np.zeros(3), "shape (3,)"),
        (np.array([["a"], ["b"]]), np.zeros(2), "text"),
        (np.array([[{}], [{}]]), np.zeros(2), "Python objects"),
        (np.zeros((2, 2), complex), np.zeros(2), "complex"),
        ([[1, 2], [3]], np.zeros(2), "unequal"),
    ],
)
def test_inputs_and_labels_that_cannot_be_used_are_refused_in_one_line(x, y, said):
    with pytest.raises(BadInput, match="mine") as refusal:
        Arrays("mine", x, y)
    assert said in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_nan_inputs_pass_because_the_doctor_judges_them():
    assert Arrays("a", np.full((1, 2), np.nan), np.zeros(1)).take([0])[0].isnan().all()


@given(st.integers(1, 12), st.lists(st.integers(0, 11)))
def test_the_first_n_are_the_first_n(n, indices):
    data = Arrays("a", rows(8), np.arange(8), ("a",) * 8)
    view = first(data, n)
    assert len(view) == min(n, 8)
    assert view.name == "a"
    assert view.classes == data.classes
    inside = [i for i in indices if i < len(view)]
    x, y = view.take(inside)
    assert y.tolist() == inside
    assert torch.equal(x, data.take(inside)[0])


def test_a_limit_below_one_is_refused():
    with pytest.raises(BadInput, match="limit of 0"):
        first(Arrays("a", rows(), np.arange(4)), 0)


@pytest.mark.parametrize("value", [1e39, -1e300])
def test_numbers_that_float32_cannot_hold_are_refused_when_they_are_taken(value):
    data = Arrays("a", np.array([[1.0, np.inf], [1.0, value]]), np.zeros(2))
    assert data.take([0])[0].tolist() == [[1.0, np.inf]]
    with pytest.raises(BadInput, match=r"beyond 3\.4e\+38; need numbers that float32 can hold"):
        data.take([0, 1])
