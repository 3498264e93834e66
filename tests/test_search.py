import pytest
import torch

from sparring.attacks import Restarts, pgd
from sparring.goals import Never, Untargeted
from sparring.losses import margin
from sparring.search import Search, finite, take
from sparring.streams import Streams
from sparring.threats import linf


def two(z):
    """Class 1 where the input is above zero."""
    return torch.cat([-z, z], 1)


def start(*values):
    x = torch.tensor(values).unsqueeze(1)
    return Search(two, x, Untargeted(torch.zeros(len(values), dtype=torch.int64)), margin), x


def test_a_row_that_reaches_its_goal_leaves_with_everything_it_carries():
    search, x = start(-1.0, 2.0, -3.0)
    names = (torch.tensor([10, 20, 30]), (None, torch.tensor([1, 2, 3])))
    gradient, score, x, (names, (nothing, inner)) = search.climb(x, x, names)
    assert x.flatten().tolist() == [-1, -3]
    assert score.tolist() == [-2, -6]
    assert gradient.flatten().tolist() == [2, 2]
    assert (names.tolist(), nothing, inner.tolist()) == ([10, 30], None, [1, 3])
    assert search.open.tolist() == [0, 2]
    assert len(search.goal.labels) == 2


def test_the_best_point_of_every_row_is_kept_also_after_others_left():
    search, x = start(-1.0, 2.0, -3.0)
    search.judge(x)
    (score,) = search.judge(torch.tensor([[-5.0], [-2.0]]))
    assert score.tolist() == [-10, -4]
    search.judge(torch.tensor([[0.5], [-9.0]]))
    search.judge(torch.tensor([[-2.5]]))
    assert search.best.flatten().tolist() == [0.5, 2.0, -2.0]
    assert search.open.tolist() == [2]


def test_where_nobody_leaves_nothing_is_copied():
    search, x = start(-1.0, -2.0)
    _, same = search.judge(x, x)
    assert same is x


def test_steps_end_when_no_row_is_open():
    search, x = start(-1.0, -2.0)
    seen = []
    for i in search.steps(10):
        seen.append(i)
        (_, x) = search.judge(x + 0.6, x + 0.6)
    assert seen == [0, 1, 2, 3]
    assert len(x) == 0


def test_where_no_row_is_left_the_model_is_not_asked():
    def silent(z):
        raise AssertionError("a question about no row")

    search = Search(silent, torch.ones(0, 1), Untargeted(torch.zeros(0, dtype=torch.int64)), margin)
    names = torch.zeros(0, dtype=torch.int64)
    gradient, score, same = search.climb(torch.ones(0, 1), names)
    assert (gradient.shape, score.shape, len(same)) == ((0, 1), (0,), 0)
    score, same = search.judge(torch.ones(0, 1), names)
    assert (score.shape, len(same)) == ((0,), 0)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16], ids=str)
def test_scores_have_the_type_of_the_inputs_also_where_the_first_is_no_number(dtype):
    x = torch.tensor([[-1.0], [-2.0], [-4.0]])

    def model(z):
        return two(torch.where(z == -2, torch.nan, z)).to(dtype)

    search = Search(model, x, Untargeted(torch.zeros(3, dtype=torch.int64)), margin)
    gradient, score, z = search.climb(x, x)
    assert (gradient.dtype, score.dtype, search.best_score.dtype) == (torch.float32,) * 3
    (score,) = search.judge(0.75 * z)
    assert score.tolist() == [-1.5, -3, -6]
    assert search.best_score.tolist() == [-1.5, -3, -6]


def test_a_gradient_of_nan_moves_nothing():
    x = torch.tensor([[-1.0], [-0.0]])

    def root(z):
        return torch.cat([torch.ones_like(z), z.abs().sqrt() * 0], 1)

    gradient, *_ = Search(root, x, Never(torch.zeros(2, dtype=torch.int64)), margin).climb(x)
    assert gradient.flatten().tolist() == [0, 0]


def test_scores_of_nan_never_become_the_best():
    search, x = start(-1.0, -2.0)
    search.judge(x)
    search.judge(torch.tensor([[torch.nan], [-1.5]]))
    assert search.best.flatten().tolist() == [-1.0, -1.5]


def test_rows_are_taken_of_everything_in_a_tuple():
    tree = (torch.arange(3), (None, Streams.of(0, range(3))), Untargeted(torch.tensor([5, 6, 7])))
    numbers, (nothing, streams), goal = take(tree, torch.tensor([2, 0]))
    assert numbers.tolist() == [2, 0]
    assert nothing is None
    assert torch.equal(streams.keys, Streams.of(0, [2, 0]).keys)
    assert goal.labels.tolist() == [7, 5]


def test_restarts_run_in_turn_on_what_still_stands():
    seen = []

    class Push:
        threat = linf(1.0)

        def __init__(self, by):
            self.by = by

        def __call__(self, model, x, goal, rng):
            seen.append((self.by, len(x)))
            return x + self.by

    x = torch.tensor([[-0.05], [-0.15], [-9.0]])
    goal = Untargeted(torch.zeros(3, dtype=torch.int64))
    z = Restarts(attacks=(Push(0.1), Push(0.2)), times=3)(two, x, goal, Streams.of(0, range(3)))
    assert seen == [(0.1, 3), (0.2, 2), (0.1, 1)]
    torch.testing.assert_close(z.flatten(), torch.tensor([0.05, 0.05, -8.8]))


def test_a_gradient_is_made_finite_and_left_alone_where_it_is():
    whole = torch.tensor([[1.0, -0.0], [-3e38, 2.0]])
    assert finite(whole) is whole
    for broken in ([[torch.nan, 1.0]], [[torch.inf, -torch.inf]], [[torch.inf, 1.0]], [[3e38, 3e38, 3e38]]):
        gradient = torch.tensor(broken)
        assert torch.equal(finite(gradient), torch.where(gradient.isfinite(), gradient, 0))


def test_restarts_draw_new_numbers_every_time():
    starts = []

    class Start:
        threat = linf(1.0)

        def __call__(self, model, x, goal, rng):
            starts.append(self.threat.sample(x, rng))
            return x

    x = torch.full((2, 3), 0.5)
    goal = Never(torch.zeros(2, dtype=torch.int64))
    Restarts(attacks=(Start(),), times=4)(lambda z: z[:, :2], x, goal, Streams.of(0, range(2)))
    assert len(torch.stack(starts).flatten(1).unique(dim=0)) == 4


def test_a_model_is_asked_about_open_rows_only():
    asked = []

    def model(z):
        asked.append(len(z))
        return two(z)

    x = torch.tensor([[0.5], [0.9], [0.1]]) - 0.55
    goal = Untargeted(torch.zeros(3, dtype=torch.int64))
    pgd(linf(0.2, low=-1), steps=10)(model, x, goal, Streams.of(0, range(3)))
    assert asked[0] == 3
    assert max(asked[1:]) <= 2
    assert asked == sorted(asked, reverse=True)
