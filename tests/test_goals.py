import pytest
import torch

from sparring.goals import Never, Targeted, Towards, Untargeted

OUTPUTS = torch.tensor([[2.0, 1.0, 0.0], [0.0, 1.0, 2.0], [1.0, torch.nan, 0.0], [0.0, 3.0, -torch.inf]])
LABELS = torch.tensor([0, 0, 0, 1])


@pytest.mark.parametrize(
    ("goal", "reached"),
    [
        (Untargeted(LABELS), [False, True, False, False]),
        (Targeted(LABELS), [True, False, False, True]),
        (Never(LABELS), [False, False, False, False]),
        (Towards(LABELS, torch.tensor([1, 1, 1, 0])), [False, True, False, False]),
    ],
)
def test_which_outputs_are_successes(goal, reached):
    assert goal.reached(OUTPUTS).tolist() == reached
    some = torch.tensor([3, 1])
    assert goal[some].reached(OUTPUTS[some]).tolist() == [reached[3], reached[1]]
    assert type(goal[some]) is type(goal)
    assert goal[some].labels.tolist() == [1, 0]


def test_rows_may_be_chosen_by_a_mask():
    goal = Towards(LABELS, torch.tensor([1, 2, 1, 0]))[torch.tensor([False, True, False, True])]
    assert (goal.labels.tolist(), goal.targets.tolist()) == ([0, 1], [2, 0])


def test_only_the_targeted_goal_has_a_negative_sign():
    signs = [goal.sign for goal in (Untargeted(LABELS), Never(LABELS), Towards(LABELS, LABELS), Targeted(LABELS))]
    assert signs == [1, 1, 1, -1]
