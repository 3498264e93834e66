import pytest
import torch

from sparring import threats
from sparring.errors import BadInput
from sparring.threats import Ball, parse

X = torch.tensor([[0.5, 0.5, 0.5]])


@pytest.mark.parametrize(
    ("text", "norm", "eps"),
    [
        ("linf:0.3", "linf", 0.3),
        ("linf:8/255", "linf", 8 / 255),
        ("linf: 8 / 255", "linf", 8 / 255),
        ("l2:1.5", "l2", 1.5),
        ("l1:12", "l1", 12),
        ("l0:24", "l0", 24),
        ("linf:0", "linf", 0),
        ("l2:1e-3", "l2", 1e-3),
    ],
)
def test_a_threat_is_written_as_norm_and_eps(text, norm, eps):
    threat = parse(text)
    assert (threat.norm.name, threat.eps) == (norm, pytest.approx(eps))


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("linf:8", "write linf:8/255"),
        ("l3:1", "norm of linf, l2, l1, l0"),
        ("0.3", "NORM:EPS"),
        ("linf:", "a number or a fraction"),
        ("linf:8/0", "a number or a fraction"),
        ("linf:1/", "a number or a fraction"),
        ("linf:1e400", "a number or a fraction"),
        ("l2:much", "a number or a fraction"),
        ("l2:-1", "zero or more"),
        ("l2:inf", "number"),
        ("l2:nan", "number"),
        ("", "NORM:EPS"),
    ],
)
def test_a_threat_that_makes_no_sense_is_refused_in_one_line(text, line):
    with pytest.raises(BadInput, match=line) as refusal:
        parse(text)
    assert "\n" not in str(refusal.value)


def test_linf_8_is_fine_where_inputs_reach_255():
    assert parse("linf:8", low=0, high=255) == threats.linf(8, low=0, high=255)


@pytest.mark.parametrize(
    ("eps", "low", "high"), [(-1, 0, 1), (torch.nan, 0, 1), (torch.inf, 0, 1), (1, 1, 0), (1, 0, 0)]
)
def test_a_ball_without_a_size_or_a_box_is_refused(eps, low, high):
    with pytest.raises(BadInput):
        threats.l2(eps, low=low, high=high)


def test_a_point_just_outside_the_ball_or_the_box_is_not_contained():
    threat = threats.linf(0.1)
    assert threat.contains(X + 0.1, X).all()
    assert not threat.contains(X + 0.10001, X).any()
    assert not threats.l2(1.0).contains(X + 0.50001, X).any()
    assert not threats.l0(2).contains(X + 0.01, X).any()
    assert threats.l0(3).contains(X + 0.01, X).all()


def test_nan_and_infinity_are_never_contained():
    for make in (threats.linf, threats.l2, threats.l1, threats.l0):
        for value in (torch.nan, torch.inf, -torch.inf):
            z = X.clone()
            z[0, 1] = value
            assert not make(3.0).contains(z, X).any()
            assert not make(3.0, low=-torch.inf, high=torch.inf).contains(z, X).any()


def test_inputs_stored_as_bytes_are_inside_the_ball_that_made_them():
    x = torch.arange(256)[None].float() / 255
    for step in (1, 8, 77):
        z = ((x * 255).round() + step).clamp(max=255) / 255
        assert threats.linf(step / 255).contains(z, x).all()
        assert not threats.linf((step - 0.01) / 255).contains(z, x).any()


def test_the_distance_is_in_the_unit_of_the_threat():
    z = X + torch.tensor([[0.3, 0.0, -0.4]])
    for make, distance in ((threats.linf, 0.4), (threats.l2, 0.5), (threats.l1, 0.7), (threats.l0, 2)):
        assert make(1.0).distance(z, X).item() == pytest.approx(distance, rel=1e-5)


def test_a_threat_can_be_taken_at_another_size():
    assert threats.l1(3.0, low=-1).at(5) == threats.l1(5, low=-1)
    assert str(threats.linf(0.25)) == "linf:0.25"


def test_steps_are_measured_in_eps_or_where_it_is_a_count_in_boxes():
    assert threats.linf(8.0, high=255.0).unit == 8
    assert threats.l0(8, high=255.0).unit == 8 * 255
    assert threats.l0(8, low=-torch.inf).unit == 8
    assert Ball(threats.l2(1).norm, 1.0, -1.0, 1.0).width == 2
