from __future__ import annotations

import pickle
import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import nn

from sparring.errors import BadInput
from sparring.models.loading import ADAPTERS, FILES, adopt, load
from sparring.models.victim import Victim

FACTORY = """
import torch
from torch import nn

def make():
    return nn.Sequential(nn.Flatten(), nn.Linear(4, 3), nn.Dropout(0.5))

def nothing():
    return None

def number():
    return 3

def scores():
    return lambda x: x.reshape(len(x), -1)[:, :2]

ready = make().eval()
"""


@pytest.fixture
def factory(tmp_path):
    (tmp_path / "net.py").write_text(FACTORY)
    return f"{tmp_path / 'net.py'}:make"


def test_a_factory_gives_its_network_in_the_mode_in_which_it_came(factory):
    victim = load(factory)
    assert isinstance(victim, Victim)
    assert (victim.framework, victim.access, victim.name) == ("torch", "gradients", factory)
    assert victim.module.training
    assert not load(factory.replace(":make", ":ready")).module.training


def test_a_module_on_the_path_is_a_factory_too(tmp_path, monkeypatch):
    (tmp_path / "sparring_test_net.py").write_text(FACTORY)
    monkeypatch.chdir(tmp_path)
    assert load("sparring_test_net:make")(torch.rand(2, 4)).shape == (2, 3)


def test_weights_go_into_the_network_and_put_it_into_eval_mode(factory, tmp_path):
    wanted = nn.Sequential(nn.Flatten(), nn.Linear(4, 3))
    torch.save(wanted.state_dict(), tmp_path / "w.pt")
    victim = load(factory, weights=str(tmp_path / "w.pt"))
    x = torch.rand(5, 4)
    assert torch.equal(victim(x), wanted(x))
    assert not any(part.training for part in victim.module.modules())


def test_a_factory_of_a_plain_function_gives_scores(factory):
    victim = load(factory.replace(":make", ":scores"))
    assert victim.access == "scores"
    assert victim(torch.rand(2, 4)).shape == (2, 2)


def test_a_victim_is_adopted_as_it_is_under_its_new_name():
    victim = adopt(nn.Linear(2, 2))
    assert adopt(victim) is victim
    renamed = adopt(victim, name="small")
    assert (renamed.name, renamed.call) == ("small", victim.call)


@pytest.mark.parametrize("model", [3, None, "net", np.ones(3), object()])
def test_what_cannot_be_called_is_refused_in_one_line(model):
    with pytest.raises(BadInput, match=f"an object of type {type(model).__name__}; need a model"):
        adopt(model)


def refused(spec, match, **more):
    with pytest.raises(BadInput, match=match) as error:
        load(str(spec), **more)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("suffix", FILES)
def test_a_missing_file_is_refused_in_one_line_whatever_its_ending(tmp_path, suffix):
    refused(tmp_path / f"net{suffix}", "no file '.*need a model file")
    refused(tmp_path / f"net{suffix}", "no file '", trust=True)


def test_a_missing_name_an_unknown_ending_and_a_missing_module_are_refused_in_one_line(tmp_path, factory):
    refused("nowhere", "no file 'nowhere'; need a file .onnx")
    (tmp_path / "net.bin7").touch()
    refused(tmp_path / "net.bin7", "ends in no known way")
    refused("sparring_has_no_such_module:make", "no module")
    refused(factory.replace(":make", ":mak"), "has no 'mak'.*did you mean 'make'")
    refused(tmp_path / "other.py:make", "no file")
    refused(factory.replace(":make", ":number"), "an object of type int")
    refused(factory.replace(":make", ":nothing"), "an object of type NoneType")


def test_weights_that_cannot_be_used_are_refused_in_one_line(tmp_path, factory):
    refused(factory, "no file '.*check --weights", weights=str(tmp_path / "gone.pt"))
    torch.save(nn.Linear(2, 2).state_dict(), tmp_path / "w.pt")
    refused(
        factory, r"does not fit Sequential \(missing 1.weight, 1.bias; unexpected weight", weights=f"{tmp_path}/w.pt"
    )
    refused(factory.replace(":make", ":scores"), "--weights for the function", weights=f"{tmp_path}/w.pt")
    (tmp_path / "net.onnx").touch()
    refused(tmp_path / "net.onnx", "--weights with", weights=f"{tmp_path}/w.pt")
    refused("https://example.invalid/classify", "--weights with", weights=f"{tmp_path}/w.pt")


def test_a_folder_that_is_no_model_is_refused_in_one_line(tmp_path):
    refused(tmp_path, r"no saved_model\.pb")


class Explosive:
    def __reduce__(self):
        return print, ("this ran",)


@pytest.mark.parametrize("suffix", [".pkl", ".pickle", ".joblib", ".pt", ".pth"])
def test_a_pickle_is_refused_and_not_run_without_trust(tmp_path, suffix, capsys):
    (tmp_path / f"net{suffix}").write_bytes(pickle.dumps(Explosive(), protocol=2))
    refused(tmp_path / f"net{suffix}", "pickle.*--trust")
    assert capsys.readouterr().out == ""


def test_a_pickle_is_loaded_with_trust(tmp_path):
    torch.manual_seed(0)
    model = nn.Linear(4, 2)
    (tmp_path / "net.pkl").write_bytes(pickle.dumps(model))
    x = torch.rand(3, 4)
    assert torch.equal(load(str(tmp_path / "net.pkl"), trust=True)(x), model(x))
    (tmp_path / "net.pkl").write_bytes(b"no pickle")
    refused(tmp_path / "net.pkl", "does not load", trust=True)


def test_adopting_a_torch_module_imports_no_other_framework():
    code = (
        "import sys; from torch import nn; from sparring.models.loading import adopt; adopt(nn.Linear(2, 2)); "
        "adopt(lambda x: x); print(sorted({'keras', 'tensorflow', 'jax', 'sklearn', 'onnx', 'xgboost', 'lightgbm', "
        "'httpx', 'transformers'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_every_adapter_named_is_there():
    import importlib

    for adapter in set(ADAPTERS.values()):
        assert callable(importlib.import_module(f"sparring.models.{adapter}").adopt)


@pytest.mark.frameworks
def test_an_endpoint_is_adopted_by_its_description():
    pytest.importorskip("httpx", reason="the extra 'http' is not installed")
    from sparring.models.endpoint import Endpoint

    for victim in (adopt(Endpoint(url="https://example.invalid/")), load("https://example.invalid/")):
        assert victim.access in {"scores", "labels"}


@pytest.mark.frameworks
def test_estimators_and_boosters_reach_their_own_adapters(tmp_path):
    sklearn = pytest.importorskip("sklearn.linear_model", reason="the extra 'sklearn' is not installed")
    xgboost = pytest.importorskip("xgboost", reason="the extra 'xgboost' is not installed")
    joblib = pytest.importorskip("joblib")
    rng = np.random.default_rng(0)
    x, y = rng.random((40, 4)), np.arange(40) % 2
    linear = sklearn.LogisticRegression().fit(x, y)
    assert adopt(linear).access == "gradients"
    joblib.dump(linear, tmp_path / "linear.joblib")
    assert load(str(tmp_path / "linear.joblib"), trust=True).access == "gradients"
    trees = xgboost.XGBClassifier(n_estimators=2, n_jobs=1).fit(x, y)
    assert "xgboost" in adopt(trees).framework.lower()
    trees.get_booster().save_model(tmp_path / "trees.json")
    victim = load(str(tmp_path / "trees.json"))
    assert (victim.access, victim.name) == ("scores", "trees.json")
