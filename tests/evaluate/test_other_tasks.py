"""Audits of models that do not classify: known worst cases, faults that must be noticed, runs that go on."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from sparring import audit, cli, report
from sparring.attacks import bim, each_way
from sparring.data import digits
from sparring.data.asked import asked, load_for
from sparring.errors import BadInput
from sparring.evaluate import examine
from sparring.evaluate.collect import collect
from sparring.losses import margin
from sparring.models.function import answers
from sparring.models.loading import adopt
from sparring.registry import find
from sparring.streams import Streams
from sparring.tasks import Binary, Embedding, MultiLabel, Regression, Segmentation, parse
from sparring.threats import linf

EPS = 0.05


def furthest(x: Tensor, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    """The least and the greatest that a linear model says within EPS and the box, `(B, D)` each."""
    low, high = (x - EPS).clamp(0, 1), (x + EPS).clamp(0, 1)
    up, down = weight.clamp(min=0).T, weight.clamp(max=0).T
    return low @ up + high @ down + bias, high @ up + low @ down + bias


@pytest.fixture(scope="module")
def gauges() -> tuple[nn.Linear, Tensor, Tensor]:
    """How large a digit is, read off its pixels by ridge regression: and digits on which that is judged."""
    (x, y), (given, wanted) = digits("train").take(range(1000)), digits("test").take(range(100))
    x, given = (nn.functional.avg_pool2d(part, 2).flatten(1) for part in (x, given))
    net = nn.Linear(196, 1)
    with torch.no_grad():
        centred = x - x.mean(0)
        net.weight.copy_(
            torch.linalg.solve(centred.T @ centred + 10 * torch.eye(196), centred.T @ (y - y.float().mean()))
        )
        net.bias.copy_(y.float().mean() - net.weight @ x.mean(0))
    return net, given, wanted.float()


@pytest.fixture(scope="module")
def ink() -> tuple[nn.Module, Tensor, Tensor]:
    """Where there is ink on a small page: one logit a pixel, and each looks at this pixel alone."""
    net = nn.Conv2d(1, 1, 1)
    with torch.no_grad():
        net.weight.fill_(1.0)
        net.bias.fill_(-0.52)
    x = nn.functional.avg_pool2d(digits("test").take(range(60))[0], 2)
    return net, x, (x[:, 0] > 0.5).long()


def test_a_regression_stands_exactly_where_the_worst_case_is_within_the_tolerance(gauges):
    net, x, y = gauges
    task = Regression(2.0)
    low, high = (end[:, 0] for end in furthest(x, net.weight.detach(), net.bias.detach()))
    worst = torch.maximum((low - y).abs(), (high - y).abs())
    found = audit(net, (x, y), linf(EPS), task=task, suite="quick")
    assert found.verdict == "trusted"
    assert found.clean_accuracy.estimate == pytest.approx(float(((net(x)[:, 0] - y).abs() <= 2).float().mean()))
    assert found.robust_accuracy.estimate == pytest.approx(float((worst <= 2).float().mean()))
    assert found.settings["task"] == "regression:2.0"
    assert found.settings["classes"] == '["right", "wrong"]'
    assert {(row.label, row.clean) for row in found.per_example} == {(0, 0), (0, 1)}


def test_several_labels_stand_exactly_where_none_of_them_can_be_turned():
    torch.manual_seed(1)
    net, x = nn.Linear(8, 5), torch.rand(80, 8)
    y = (net(x) > 0).long()
    y[::9] = 1 - y[::9]
    low, high = furthest(x, net.weight.detach(), net.bias.detach())
    stands = torch.where(y > 0, low > 0, high <= 0).all(1)
    found = audit(net, (x, y), linf(EPS), task="multi-label", suite="quick")
    assert found.robust_accuracy.estimate == pytest.approx(float(stands.float().mean()))
    assert found.verdict == "trusted"


def test_a_segmentation_stands_exactly_where_too_few_pixels_can_be_turned(ink):
    net, x, y = ink
    least, most = ((end.clamp(0, 1) - 0.52)[:, 0] for end in (x - EPS, x + EPS))
    stands = torch.where(y > 0, least > 0, most <= 0).flatten(1).float().mean(1) >= 0.97
    found = audit(net, (x, y), linf(EPS), task=Segmentation(0.97), suite="quick")
    assert 0.1 < found.robust_accuracy.estimate < 0.9
    assert found.robust_accuracy.estimate == pytest.approx(float(stands.float().mean()))
    assert found.verdict == "trusted", found.reasons


def test_binary_answers_and_embeddings_are_audited_too():
    x, _ = digits("test").take(range(60))
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(784, 16), nn.Tanh(), nn.Linear(16, 8))
    shown = audit(net, (x, net(x).detach()), linf(0.1), task=Embedding(0.5), suite="quick")
    assert shown.clean_accuracy.estimate == 1.0
    assert shown.robust_accuracy.estimate < 0.5
    assert shown.verdict == "trusted", shown.reasons
    one = nn.Sequential(nn.Flatten(), nn.Linear(784, 1))
    with torch.no_grad():
        said = (one(x)[:, 0] > 0).long()
    found = audit(one, (x, said), linf(0.02), task=Binary(), suite="quick")
    assert found.settings["classes"] == ""  # yes and no are classes
    assert found.verdict == "trusted", found.reasons


def test_a_function_that_answers_with_numbers_is_attacked_by_these(gauges):
    net, x, _ = gauges
    y = net(x).detach()[:, 0]
    told = answers(lambda rows: net(torch.tensor(rows)).detach().numpy()[:, 0], name="told")
    found = audit(told, (x[:8], y[:8]), linf(EPS), task="regression:2", suite="quick")
    assert found.verdict == "suspect"
    assert any("gives scores alone" in reason for reason in found.reasons)
    with pytest.raises(BadInput, match="one row an example"):
        audit(answers(lambda rows: rows[:1, 0]), (x, y), linf(EPS), task="regression:2")


def test_an_audit_takes_answers_of_one_axis(gauges):
    net, x, y = gauges
    one, row = (
        audit(model, (x[:30], y[:30]), linf(EPS), task="regression:2", suite="quick", passes=0, name="gauge")
        for model in (nn.Sequential(net, nn.Flatten(0)), net)
    )
    assert one.per_example == row.per_example
    assert one.passes == row.passes


def test_a_regression_without_gradients_is_not_called_robust(gauges):
    net, x, y = gauges
    found = audit(
        lambda z: net(z).detach() + 0 * z.sum(), (x[:40], y[:40]), linf(EPS), task=Regression(2.0), suite="quick"
    )
    assert found.verdict == "suspect"
    assert any(check.name == "gradients" and check.outcome == "fail" for check in found.checks)


@pytest.mark.parametrize(
    ("spoil", "check", "said"),
    [
        (lambda y: y.roll(7), "labels", "with labels of other examples"),
        (lambda y: y.unsqueeze(1).repeat(1, 3), "outputs-and-labels", "outputs have shape"),
    ],
)
def test_labels_that_do_not_belong_to_the_inputs_are_invalid(gauges, spoil, check, said):
    net, x, y = gauges
    found = audit(net, (x, spoil(y)), linf(EPS), task=Regression(1.0), suite="quick")
    assert found.verdict == "invalid"
    failed = next(one for one in found.checks if one.name == check and one.outcome == "fail")
    assert said in failed.evidence


def test_neither_batches_nor_a_break_change_the_result(ink, tmp_path):
    net, x, y = ink
    task, few = Segmentation(0.97), (x[:8], y[:8])
    first = audit(net, few, linf(EPS), task=task, suite="quick")
    stop = iter(range(2))

    def watch(stage: str, done: int, total: int) -> None:
        if stage == "first margin" and next(stop, None) is None:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        audit(net, few, linf(EPS), task=task, suite="quick", out=tmp_path, batch_size=2, watch=watch)
    with pytest.raises(BadInput, match="differs in task"):
        audit(net, few, linf(EPS), task=Segmentation(0.9), suite="quick", out=tmp_path, resume=True)
    again = audit(net, few, linf(EPS), task=task, suite="quick", out=tmp_path, batch_size=7, resume=True)
    assert again.per_example == first.per_example
    assert again.passes == first.passes


def test_the_report_shows_the_task_and_what_was_measured(ink, tmp_path):
    net, x, y = ink
    audit(net, (x[:20], y[:20]), linf(EPS), task=Segmentation(0.97), suite="quick", out=tmp_path, name="ink")
    found, pictures = report.read(tmp_path)
    assert {picture.measured for picture in pictures} == {"pixel accuracy"}
    for picture in pictures:
        assert picture.clean[0] >= 0.97 > picture.attacked[0]
    page = report.write(tmp_path, [found], {found.name: pictures}).read_text()
    assert "</span> · segmentation:0.97 · " in page
    assert "pixel accuracy" in page
    assert "true label" not in page


def test_the_doctor_looks_at_what_is_asked(gauges):
    net, x, y = gauges
    task = Regression(2.0)
    found = examine(adopt(net), task.data("gauges", x, y), linf(EPS))
    outcomes = {check.name: check.outcome for check in found.checks}
    assert outcomes["logits"] == outcomes["class-balance"] == outcomes["scale"] == "skipped"
    assert outcomes["finite-differences"] == outcomes["labels"] == "pass"
    assert found.classes == 0


def test_an_answer_that_no_input_changes_is_not_held_against_the_attack():
    torch.manual_seed(0)
    net = nn.Linear(6, 1)
    with torch.no_grad():
        net.weight.mul_(0.1)
    x = torch.rand(40, 6)
    found = audit(net, (x, net(x).detach()[:, 0]), linf(EPS), task=Regression(2.0), suite="quick")
    assert found.robust_accuracy.estimate == 1
    assert next(check for check in found.checks if check.name == "unbounded").outcome == "pass"
    assert found.verdict == "trusted", found.reasons


def test_certificates_are_for_classes_and_say_so(gauges):
    net, x, y = gauges
    with pytest.raises(BadInput, match="certificates of regression:2"):
        audit(net, (x, y), linf(EPS), task="regression:2", certify="crown")


def test_data_are_of_one_task(gauges):
    _, x, y = gauges
    data = parse("regression:1").data("gauges", x, y)
    assert asked(data, Regression(1.0)).task == Regression(1.0)
    with pytest.raises(BadInput, match="which is for regression:1"):
        asked(data, Regression(2.0))
    with pytest.raises(BadInput, match="a dict for the data"):
        asked({}, Regression(2.0))


def test_files_hold_labels_of_every_shape(tmp_path, gauges):
    _, x, y = gauges
    np.savez(tmp_path / "gauges.npz", x=x, y=y)
    found = load_for(str(tmp_path / "gauges.npz"), Regression(1.0))
    assert torch.equal(found.take([3])[1], y[3:4])
    (tmp_path / "gauges.csv").write_text("a,b,y\n0.1,0.2,1.5\n0.3,0.4,2.5\n")
    assert load_for(str(tmp_path / "gauges.csv"), Regression(1.0)).take([1])[1].tolist() == [2.5]
    (tmp_path / "words.csv").write_text("a,y\n0.1,cat\n0.3,dog\n")
    with pytest.raises(BadInput, match=r"labels of 'words\.csv' that are words"):
        load_for(str(tmp_path / "words.csv"), Regression(1.0))
    with pytest.raises(BadInput, match="whose labels are classes"):
        load_for("digits", Regression(1.0))
    with pytest.raises(BadInput, match="whose labels are classes"):
        audit(lambda z: z.flatten(1).sum(1), "digits", linf(0.1), task="multi-label", limit=20)


def test_one_attack_is_collected_with_labels_as_they_are(ink, tmp_path):
    net, x, y = ink
    data = Segmentation(0.97).data("ink", x[:20], y[:20])
    found = collect(adopt(net), data, find("attacks", "pgd"), linf(EPS), tmp_path)
    with np.load(found.file) as kept:
        assert kept["label"].shape == (len(found.broken), 14, 14)
        z = torch.tensor(kept["z"])
    wrong = Segmentation(0.97).goal(y[list(found.broken)]).reached(Segmentation(0.97).view(net)(z))
    assert found.broken
    assert wrong.all()


NET = """
import torch
from torch import nn

def make():
    torch.manual_seed(0)
    net = nn.Linear(4, 1)
    with torch.no_grad():
        net.weight.copy_(torch.tensor([[4.0, -3.0, 2.0, 0.0]]))
        net.bias.fill_(1.0)
    return net

def data():
    x = torch.rand(60, 4, generator=torch.Generator().manual_seed(1))
    return x, make()(x).detach()[:, 0]
"""


def said(capsys, *words: str) -> tuple[int, str]:
    """The status of a command, and what it printed."""
    sys.argv[1:] = words
    with pytest.raises(SystemExit) as left:
        cli.main()
    shown = capsys.readouterr()
    return int(left.value.code or 0), shown.out + shown.err


def test_the_command_line_audits_a_regression(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["sparring"])
    Path("net.py").write_text(NET)
    of = ("net.py:make", "--data", "net.py:data", "--threat", "linf:0.05")
    status, out = said(capsys, "doctor", *of, "--task", "regression:0.3")
    assert status == 0, out
    assert "answers are no classes" in out
    status, out = said(capsys, "audit", *of, "--task", "regression:0.3", "--budget", "quick", "--out", "run")
    assert status == 0, out
    found = json.loads(Path("run/result.json").read_text())
    assert found["verdict"] == "trusted"
    assert found["robust_accuracy"]["estimate"] < 1  # 0.05 times 9 is beyond 0.3, unless the box is in the way
    assert found["settings"]["task"] == "regression:0.3"
    assert "--task regression:0.3" in found["command"]
    status, out = said(capsys, "attack", *of, "--task", "regression:0.3", "--attack", "pgd", "--out", "finds")
    assert status == 0, out
    assert "pgd on linf:0.05: broke" in out
    for words, line in (
        (("--task", "regresion:0.3"), "did you mean 'regression'"),
        (("--task", "regression"), "regression:tolerance"),
        (("--task", "regression:0.3", "--defence", "jpeg"), "--task with --defence"),
        (("--task", "regression:0.3", "--certify", "crown"), "certificates of regression:0.3"),
    ):
        status, out = said(capsys, "audit", *of, *words, "--out", "no")
        assert status == 2
        assert line in out
        assert out.count("\n") == 1


def test_all_tasks_are_listed_those_of_detectors_too(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["sparring"])
    status, out = said(capsys, "list", "tasks")
    assert status == 0
    assert {"regression:tolerance", "vanishing:lost:[confidence]:[match]:[overlap]"} <= set(out.split())


def test_texts_have_classes_and_no_other_task(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["sparring"])
    Path("reviews.tsv").write_text("a fine film\t1\na dull film\t0\n")
    Path("net.py").write_text("def make():\n    return lambda texts: [[0.0, 1.0] for _ in texts]\n")
    words = ("audit", "net.py:make", "--data", "reviews.tsv", "--threat", "typos:1", "--task")
    for task in ("binary", "regression:1"):
        status, out = said(capsys, *words, task)
        assert status == 2
        assert out.count("\n") == 1
        assert task in out


def test_attacks_that_reason_about_classes_say_what_they_need(tmp_path, ink):
    net, x, y = ink
    with pytest.raises(BadInput, match="no class labels"):
        collect(adopt(net), Segmentation(0.97).data("ink", x[:4], y[:4]), find("attacks", "fab"), linf(EPS), tmp_path)


@pytest.mark.parametrize("threat", ["l2:0.5", "l1:2", "l0:12", "patch:0.05"])
def test_every_norm_has_a_suite_for_other_tasks(ink, threat):
    net, x, y = ink
    found = audit(net, (x[:12], y[:12]), threat, task=Segmentation(0.985), suite="quick")
    assert found.verdict in ("trusted", "suspect")
    points = [point.robust_accuracy for point in found.curve]
    assert points == sorted(points, reverse=True)
    assert points[-1] < points[0]


def test_a_value_that_cannot_fall_far_enough_is_raised():
    def floored(x: Tensor) -> Tensor:
        return x.clamp(min=0.4)

    x, y = torch.full((3, 1), 0.43), torch.tensor([0.45, 0.45, 0.42])  # two answers are a little low, one is high
    goal, rng = Regression(0.1).goal(y), Streams.of(0, range(3))
    climb = bim(linf(0.2), loss=margin)
    assert goal.reached(floored(climb(floored, x, goal, rng))).tolist() == [False, False, True]
    assert goal.reached(floored(each_way(climb)(floored, x, goal, rng))).all()


def test_labels_may_be_wrong_by_a_few(gauges):
    net = nn.Linear(4, 6)
    x = torch.rand(40, 4)
    y = (net(x) > 0).long()
    strict, mild = (
        audit(net, (x, y), linf(0.2), task=MultiLabel(wrong), suite="quick").robust_accuracy.estimate
        for wrong in (0, 2)
    )
    assert strict < mild


class Rounded(nn.Module):
    """Looks at its inputs in steps of a quarter."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        return self.network((4 * x).round() / 4)


class Noisy(nn.Module):
    """Answers otherwise at every call."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        return self.network(x + 0.1 * torch.randn_like(x))


def traits(y: Tensor) -> Tensor:
    """Even, large, prime, with a hole: four labels of a digit."""
    among = ((0, 2, 4, 6, 8), (5, 6, 7, 8, 9), (2, 3, 5, 7), (0, 6, 8, 9))
    return torch.stack([torch.isin(y, torch.tensor(some)) for some in among], 1).long()


PLACES = torch.randn(10, 16, generator=torch.Generator().manual_seed(0))
ASKED = {
    "regression": (Regression(1.0), 1, lambda y: y.float(), lambda out, y: (out[:, 0] - y).abs().mean()),
    "several labels": (
        MultiLabel(0),
        4,
        traits,
        lambda out, y: nn.functional.binary_cross_entropy_with_logits(out, y.float()),
    ),
    "yes or no": (
        Binary(),
        1,
        lambda y: (y > 4).long(),
        lambda out, y: nn.functional.binary_cross_entropy_with_logits(out[:, 0], y.float()),
    ),
    "embedding": (
        Embedding(0.5),
        16,
        lambda y: PLACES[y],
        lambda out, y: (1 - nn.functional.cosine_similarity(out, y)).mean(),
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", ASKED)
def test_a_network_of_another_task_is_trusted_until_it_hides_something(kind):
    task, size, wanted, loss = ASKED[kind]
    (x, y), (given, held) = digits("train").take(range(4000)), digits("test").take(range(120))
    network = nn.Sequential(
        *(nn.Conv2d(1, 16, 4, 2, 1), nn.ReLU(), nn.Conv2d(16, 32, 4, 2, 1), nn.ReLU(), nn.Flatten()),
        *(nn.Linear(32 * 49, 64), nn.ReLU(), nn.Linear(64, size)),
    )
    optimiser = torch.optim.Adam(network.parameters(), 2e-3)
    for rows in torch.cat([torch.randperm(len(x)) for _ in range(6)]).split(100):
        optimiser.zero_grad()
        loss(network(x[rows]), wanted(y[rows])).backward()
        optimiser.step()
    verdicts = {
        name: audit(one.eval(), (given, wanted(held)), linf(0.05), task=task, suite="quick")
        for name, one in {"as it is": network, "rounded": Rounded(network), "noisy": Noisy(network)}.items()
    }
    assert verdicts["as it is"].verdict == "trusted", verdicts["as it is"].reasons
    assert verdicts["as it is"].robust_accuracy.estimate < verdicts["as it is"].clean_accuracy.estimate
    assert verdicts["rounded"].verdict == "suspect", verdicts["rounded"].reasons
    assert any("gradients" in reason for reason in verdicts["rounded"].reasons)
    assert verdicts["noisy"].verdict == "suspect", verdicts["noisy"].reasons
    assert any(check.name == "randomness" and check.outcome == "fail" for check in verdicts["noisy"].checks)
