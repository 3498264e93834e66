from __future__ import annotations

import io
from itertools import pairwise
from xml.etree import ElementTree as ET

import example
import matplotlib as mpl
import numpy as np
import pytest

from sparring.errors import BadInput
from sparring.evaluate.result import AttackRecord, Example, Progress, Result
from sparring.report import derive, figures
from sparring.report.words import words


def test_the_curve_has_a_line_for_each_result_and_a_band_at_the_audited_eps() -> None:
    results = [example.natural(), example.result()]
    axes = figures.curve(results).axes[0]
    for line, result in zip(axes.get_lines(), results, strict=False):
        x, y = line.get_data()
        assert np.allclose(x, [point.eps for point in result.curve])
        assert np.allclose(y, [point.robust_accuracy for point in result.curve])
    bands = [band.get_datalim(axes.transData) for band in axes.collections if band.get_alpha()]
    for band, result in zip(bands, results, strict=True):
        assert band.x0 < example.EPS < band.x1
        assert (band.y0, band.y1) == pytest.approx((result.robust_accuracy.low, result.robust_accuracy.high))
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["natural", "adversarially trained"]


def test_words_at_audited_eps_that_are_near_each_other_do_not_lie_on_each_other() -> None:
    audited = (0.1, 0.105, 0.11, 0.4)
    threats = ({"norm": "linf", "eps": eps, "low": 0.0, "high": 1.0} for eps in audited)
    figure = figures.curve([example.result(str(i), threat=threat) for i, threat in enumerate(threats)])
    figure.savefig(io.BytesIO(), format="svg")
    words = [text.get_window_extent() for text in figure.axes[0].texts]
    assert len(words) == 2
    assert words[0].x1 < words[1].x0


def test_the_cost_ends_at_the_robust_accuracy_and_the_passes_spent() -> None:
    result = example.result()
    x, y = figures.cost(result).axes[0].get_lines()[0].get_data()
    assert y[0] == pytest.approx(result.clean_accuracy.estimate)
    assert y[-1] == pytest.approx(result.robust_accuracy.estimate)
    assert x[-1] == pytest.approx((result.passes.forward + result.passes.backward) / result.examples)
    assert list(y) == list(derive.standing(result))


def test_the_band_of_an_example_goes_from_what_is_proved_to_what_broke_it() -> None:
    kept = {"label": 1, "clean": 1, "broken_by": None}
    rows = [
        {"distance": None, "proved": 0.2, **kept},
        {"distance": 0.15, "proved": 0.1, **kept},
        {"distance": 0.04, "proved": 0.025, **kept, "broken_by": "fgsm"},
        {"distance": None, "label": 1, "clean": 2, "broken_by": None},
    ]
    result = example.result(examples=4, per_example=tuple(Example(index=i, **row) for i, row in enumerate(rows)))
    assert derive.spans(result) == ((0.0, 0.0), (0.025, 0.04), (0.1, 0.15), (0.2, np.inf))
    axes = figures.spans(result).axes[0]
    broken, proved = (line.get_ydata() for line in axes.get_lines()[:2])
    assert list(proved) == [0.0, 0.025, 0.1, 0.2]
    assert list(broken[:3]) == [0.0, 0.04, 0.15]
    assert np.isnan(broken[3])
    with pytest.raises(BadInput, match="an invalid result"):
        figures.spans(example.invalid())


def test_figures_of_an_invalid_result_are_refused() -> None:
    with pytest.raises(BadInput, match="an invalid result"):
        figures.curve([example.result(), example.invalid()])
    with pytest.raises(BadInput, match="an invalid result"):
        figures.cost(example.invalid())


def test_curves_of_different_norms_are_refused() -> None:
    other = example.result(threat={"norm": "l2", "eps": 1.0})
    with pytest.raises(BadInput, match="norms l2, linf"):
        figures.curve([example.result(), other])


def test_svg_is_well_formed_and_equal_for_equal_figures() -> None:
    first, second = (figures.svg(figures.curve([example.result()], words("zh")), "a") for _ in range(2))
    assert first == second
    assert "攻击下的准确率" in first
    assert "var(--series-1" in first
    ET.fromstring(first.replace("xlink:href", "href"))


def test_figures_do_not_care_for_the_readers_matplotlibrc() -> None:
    expected = figures.svg(figures.cost(example.result()), "a")
    with mpl.rc_context({"font.size": 30, "axes.grid": False, "svg.fonttype": "path", "lines.linewidth": 9}):
        assert figures.svg(figures.cost(example.result()), "a") == expected


def test_a_gallery_is_a_row_of_three_for_each_picture() -> None:
    figure = figures.gallery(example.gallery(count=2), [f"class {k}" for k in range(10)])
    assert len(figure.axes) == 6
    assert figure.axes[0].get_title().startswith("class ")
    assert figure.axes[2].get_title() == "× 10"
    assert figures.png(figure).startswith(b"\x89PNG")


def test_a_gallery_of_lines_is_refused() -> None:
    with pytest.raises(BadInput, match="without images"):
        figures.gallery(example.gallery(count=1, shape=(30,)))


def course(*steps: tuple[str, int, float]) -> Result:
    """A result whose course went so: attack, round, passes an example."""
    count = example.result().examples
    progress = [Progress(attack="clean", round=0, passes=count, standing=count)]
    progress += [Progress(attack=n, round=k, passes=round(p * count), standing=count) for n, k, p in steps]
    idle = {"config": "", "broke": 0, "attacked": 0, "forward": 0, "backward": 0, "seconds": 0.0}
    attacks = [AttackRecord(name=name, **idle) for name in dict.fromkeys(name for name, *_ in steps)]
    return example.result().model_copy(update={"progress": tuple(progress), "attacks": tuple(attacks)})


def test_rounds_and_adaptive_attempts_are_stretches_and_what_cost_nothing_is_left_out() -> None:
    tried = (("fgsm", 0, 3.0), ("a", 1, 10.0), ("b", 2, 20.0), ("nothing", 0, 20.0))
    adapted = (("adaptive search", 0, 30.0), ("adaptive search", 0, 40.0), ("adaptive: x", 1, 50.0), ("last", 0, 90.0))
    stops = derive.stops(course(*tried, *adapted))
    assert [(stop.kind, stop.attack, stop.count, stop.passes, stop.rows) for stop in stops] == [
        ("stage", "clean", 1, 1.0, (0,)),
        ("stage", "fgsm", 1, 3.0, (1,)),
        ("rounds", "b", 2, 20.0, (2, 3)),
        ("adaptive", "adaptive: x", 3, 50.0, (5, 6)),
        ("stage", "last", 1, 90.0, (7,)),
    ]


def test_the_cost_numbers_attacks_as_the_table_does() -> None:
    taking_turns = [("a", 1, 10.0), ("b", 2, 20.0), ("a", 3, 30.0), ("c", 4, 40.0)]
    figure = figures.cost(course(("21 rounds", 0, 3.0), *taking_turns, ("square", 0, 900.0)))
    listed = next(text.get_text() for text in figure.axes[0].texts if "\n" in text.get_text())
    assert listed.split("\n") == ["0: clean", "1: 21 rounds", "2–4: 4 rounds", "5: square"]
    marks = [text.get_text() for text in figure.axes[0].texts if text.get_bbox_patch() is not None]
    assert marks == ["0", "1", "2–4", "5"]


@pytest.mark.parametrize(("names", "columns"), [("ab", 2), (["model.py:make (before)", "model.py:make (after)"], 1)])
def test_a_legend_is_no_wider_than_the_figure(names: list[str], columns: int) -> None:
    figure = figures.curve([example.result(name) for name in names])
    figure.savefig(io.BytesIO(), format="svg")
    legend = figure.axes[0].get_legend()
    assert legend.get_window_extent().x1 <= figure.bbox.x1
    assert legend._ncols == columns


@pytest.mark.parametrize("seed", range(4))
def test_numbered_marks_hide_no_number_and_do_not_lie_on_each_other(seed: int) -> None:
    passes = np.cumsum(np.random.default_rng(seed).exponential(size=25) ** 3)
    result = course(*((f"attack {i}", 0, 2 + float(at)) for i, at in enumerate(passes)))
    figure = figures.cost(result)
    figure.savefig(io.BytesIO(), format="svg")
    marks = [text for text in figure.axes[0].texts if text.get_bbox_patch() is not None]
    ends = [list(map(int, mark.get_text().split("–"))) for mark in marks]
    rows = [row for stop in derive.stops(result) for row in stop.rows]
    assert [row for end in ends for row in rows if end[0] <= row <= end[-1]] == rows
    boxes = [mark.get_bbox_patch().get_window_extent() for mark in marks]
    for one, other in pairwise(boxes):
        assert not one.shrunk(0.9, 0.9).overlaps(other.shrunk(0.9, 0.9))
