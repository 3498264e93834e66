"""Attacks on the decision alone come as near as their peers do, on a published network and a few hundred questions."""

import importlib.util
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.frameworks
pytest.importorskip("foolbox", reason="a peer: pip install 'sparring[peers]'")


@pytest.fixture(scope="module")
def benchmark(sparring_data):
    folder = Path(__file__).resolve().parents[2] / "benchmarks"
    spec = importlib.util.spec_from_file_location("benchmark_of_decisions", folder / "decisions.py")
    module = sys.modules["benchmark_of_decisions"] = importlib.util.module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)  # benchmarks import each other by name
        spec.loader.exec_module(module)
    module.MARKS = (300, 900)
    return module


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("norm", "name", "peer"),
    [
        ("l2", "hop-skip-jump", "foolbox hop-skip-jump"),
        ("linf", "hop-skip-jump", "foolbox hop-skip-jump"),
        ("l2", "boundary", "foolbox boundary"),
        ("l2", "hop-skip-jump", "art hop-skip-jump"),
        ("linf", "hop-skip-jump", "art hop-skip-jump"),
        ("linf", "rays", "rays as published"),
    ],
)
def test_the_median_distance_is_within_5_percent_of_the_peers_on_as_many_questions(norm, name, peer, benchmark):
    if peer.startswith("art"):
        pytest.importorskip("art", reason="a peer: pip install adversarial-robustness-toolbox")
    model = benchmark.published(benchmark.NETWORKS["wong fgsm-rs, linf 0.3"])
    bout = benchmark.Bout(norm, model, *benchmark.digits(15, known_to=model))
    ours = benchmark.ours(name, bout, 0)
    theirs = benchmark.PEERS[peer.split()[0]](peer, bout, 0)
    for mark in benchmark.MARKS:
        assert ours[mark].median() <= 1.05 * theirs[mark].median()
