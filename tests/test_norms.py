import pytest
import torch
from torch.testing import assert_close

from sparring.norms import L0, L1, L2, NORMS, Linf, rows

V = torch.tensor([[3.0, -4.0, 0.0]])
HERE = torch.zeros(1, 3)


def test_there_are_four_norms_under_their_names():
    assert list(NORMS) == ["linf", "l2", "l1", "l0"]
    assert all(norm.name == name for name, norm in NORMS.items())
    assert [name for name, norm in NORMS.items() if norm.counts] == ["l0"]


@pytest.mark.parametrize(("norm", "size"), [(Linf(), 4), (L2(), 5), (L1(), 7), (L0(), 2)])
def test_the_size_is_that_of_every_row(norm, size):
    assert norm.size(torch.stack([V, 0 * V])).tolist() == [size, 0]


@pytest.mark.parametrize(
    ("norm", "eps", "nearest"),
    [
        (Linf(), 2, [2, -2, 0]),
        (L2(), 2.5, [1.5, -2, 0]),
        (L1(), 3, [1, -2, 0]),
        (L1(), 0.5, [0, -0.5, 0]),
        (L0(), 1, [0, -4, 0]),
        (L0(), 1.9, [0, -4, 0]),
        (L0(), 0.5, [0, 0, 0]),
        (L0(), 2, [3, -4, 0]),
    ],
)
def test_the_nearest_point_of_a_ball(norm, eps, nearest):
    assert_close(norm.project(V, HERE, eps, -100.0, 100.0), torch.tensor([nearest]).float())


@pytest.mark.parametrize(
    ("norm", "eps", "nearest"),
    [
        (Linf(), 2, [2, -1, 0]),  # the box lets the second coordinate fall by one, and no more
        (L2(), 2.5, [2.2912879, -1, 0]),  # what the second cannot take, the first may: sqrt(2.5^2 - 1)
        (L1(), 3, [2, -1, 0]),
        (L0(), 1, [3, 0, 0]),  # clipped to one, the larger change is worth less
    ],
)
def test_the_nearest_point_of_ball_and_box_together(norm, eps, nearest):
    assert_close(norm.project(V, HERE, eps, -1.0, 9.0), torch.tensor([nearest]).float())
    assert_close(norm.project(V + 5, HERE + 5, eps, 4.0, 14.0), torch.tensor([nearest]).float() + 5)


def test_the_coordinates_that_gain_most_are_kept_however_far_outside_a_point_is():
    x, far = torch.full((1, 10), 0.5), 1e7 * (1 + torch.arange(10) / 100)
    assert (L0().project(x + far, x, 3.0, 0.0, 1.0) != x).nonzero()[:, 1].tolist() == [7, 8, 9]


@pytest.mark.parametrize("norm", NORMS.values(), ids=list(NORMS))
def test_a_point_inside_is_its_own_nearest_point_to_the_last_bit(norm):
    x, inside = torch.tensor([[0.3, 0.9, 0.7]]), torch.tensor([[0.1, 0.8, 0.7]])
    assert torch.equal(norm.project(inside, x, 2.0, 0.0, 1.0), inside)


@pytest.mark.parametrize(
    ("norm", "direction"), [(Linf(), [1, -1, 0]), (L2(), [0.6, -0.8, 0]), (L1(), [0, -1, 0]), (L0(), [0, -1, 0])]
)
def test_the_steepest_direction(norm, direction):
    assert_close(norm.steepest(V), torch.tensor([direction]).float())


def test_ascent_spreads_where_the_steepest_direction_is_a_single_coordinate():
    assert_close(Linf().ascent(V), Linf().steepest(V))
    assert_close(L2().ascent(V), L2().steepest(V))
    assert_close(L1().ascent(V), 3 * V / 4)
    assert_close(L0().ascent(V), 10 * V / V.abs().mean())


def test_a_projection_leaves_what_it_is_given_alone():
    for norm in NORMS.values():
        for z in (V.clone(), HERE + 0.1):
            x, before = HERE.clone(), z.clone()
            found = norm.project(z, x, 1.0, -10.0, 10.0)
            assert (z._version, x._version) == (0, 0)
            assert torch.equal(z, before)
            assert found.data_ptr() not in (z.data_ptr(), x.data_ptr())


def test_a_number_for_all_rows_keeps_all_its_digits():
    assert rows(0.1, torch.zeros(2, 3).double()).flatten().tolist() == [0.1, 0.1]
    x = torch.zeros(1, 5).double()
    for norm in NORMS.values():
        size = norm.size(norm.project(x + 8, x, 3.1, -9.0, 9.0)).item()
        assert size == pytest.approx(3.0 if norm.counts else 3.1, rel=1e-14), norm


def test_a_value_an_example_broadcasts_over_the_example():
    like = torch.zeros(2, 3, 4)
    assert rows(torch.tensor([1.0, 2.0]), like).shape == (2, 1, 1)
    assert (like + rows(torch.tensor([1, 2]), like))[:, 0, 0].tolist() == [1, 2]
    assert rows(3, like).flatten().tolist() == [3, 3]
    assert rows(torch.tensor([True, False]), like).dtype == torch.bool


@pytest.mark.parametrize("size", [1e-30, 1e-20, 1.0, 1e20, 1e30])
def test_a_direction_has_length_one_however_small_or_large_the_gradient_is(size):
    gradient = torch.tensor([[3.0, -4.0, 0.0]]) * size
    assert_close(NORMS["l2"].steepest(gradient), torch.tensor([[0.6, -0.8, 0.0]]))
    assert_close(NORMS["l1"].ascent(gradient), torch.tensor([[2.25, -3.0, 0.0]]))
    assert_close(NORMS["l0"].ascent(gradient), torch.tensor([[90 / 7, -120 / 7, 0.0]]))


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("norm", NORMS.values(), ids=NORMS)
def test_half_precision_has_directions_and_nearest_points_too(norm, kind):
    gradient = torch.tensor([[1e-3, -2e-3, 0.0], [3e4, -6e4, 0.0], [0.0, 0.0, 0.0]])
    assert_close(norm.ascent(gradient.to(kind)).float(), norm.ascent(gradient), rtol=0.02, atol=0)
    x, z = torch.full((1, 1000), 0.5), torch.linspace(0, 1, 1000)[None]
    near = norm.project(z.to(kind), x.to(kind), 2, 0, 1)
    assert near.dtype == kind
    assert_close(near.float(), norm.project(z.to(kind).float(), x, 2, 0, 1), rtol=0.02, atol=0.002)
