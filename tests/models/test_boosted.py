import numpy as np
import pytest
import torch

from sparring.errors import BadInput
from sparring.models import boosted

pytestmark = pytest.mark.frameworks


def data(classes, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.random((200, 9), dtype=np.float32)
    y = np.digitize(x[:, 0] + 0.3 * x[:, 1], np.linspace(0, 1.3, classes + 1)[1:-1])
    return x, y


def images(x):
    return torch.from_numpy(x).reshape(-1, 1, 3, 3)


def expected(margins):
    out = np.asarray(margins)
    return torch.from_numpy(np.stack([np.zeros_like(out), out], 1) if out.ndim == 1 else out).float()


@pytest.mark.parametrize("classes", [2, 3])
def test_xgboost_classifiers_boosters_and_files_give_the_same_margins(classes, tmp_path):
    xgboost = pytest.importorskip("xgboost")
    x, y = data(classes)
    model = xgboost.XGBClassifier(n_estimators=8, max_depth=3, n_jobs=1).fit(x, y)
    want = expected(model.predict(x, output_margin=True))
    victims = [boosted.adopt(model), boosted.adopt(model.get_booster())]
    for suffix in ("json", "ubj"):
        model.save_model(tmp_path / f"model.{suffix}")
        victims.append(boosted.load(tmp_path / f"model.{suffix}"))
    for victim in victims:
        assert (victim.access, victim.framework) == ("scores", "xgboost")
        torch.testing.assert_close(victim(images(x)), want)
        assert np.array_equal(victim(images(x)).argmax(1), model.predict(x))


@pytest.mark.parametrize("classes", [2, 3])
def test_lightgbm_classifiers_boosters_and_files_give_the_same_margins(classes, tmp_path):
    lightgbm = pytest.importorskip("lightgbm")
    x, y = data(classes)
    model = lightgbm.LGBMClassifier(n_estimators=8, num_leaves=7, n_jobs=1, verbose=-1).fit(x, y)
    want = expected(model.booster_.predict(x, raw_score=True))
    model.booster_.save_model(tmp_path / "model.txt")
    for victim in (boosted.adopt(model), boosted.adopt(model.booster_), boosted.load(tmp_path / "model.txt")):
        assert (victim.access, victim.framework) == ("scores", "lightgbm")
        torch.testing.assert_close(victim(images(x)), want)
        assert torch.equal(victim(images(x)).argmax(1), want.argmax(1))


def test_early_stopping_keeps_the_best_iteration():
    xgboost = pytest.importorskip("xgboost")
    x, y = data(2)
    noise = np.random.default_rng(1).integers(0, 2, len(y))
    model = xgboost.XGBClassifier(n_estimators=30, early_stopping_rounds=2, n_jobs=1)
    model.fit(x, y, eval_set=[(x, noise)], verbose=False)
    assert model.best_iteration < 29
    torch.testing.assert_close(boosted.adopt(model)(images(x)), expected(model.predict(x, output_margin=True)))


def test_a_file_of_an_early_stopped_classifier_decides_as_the_classifier_in_hand(tmp_path):
    xgboost = pytest.importorskip("xgboost")
    x, y = data(2)
    noise = np.random.default_rng(1).integers(0, 2, len(y))
    model = xgboost.XGBClassifier(n_estimators=30, early_stopping_rounds=2, n_jobs=1)
    model.fit(x, y, eval_set=[(x, noise)], verbose=False)
    model.save_model(tmp_path / "model.json")
    torch.testing.assert_close(boosted.load(tmp_path / "model.json")(images(x)), boosted.adopt(model)(images(x)))
    (tmp_path / "MODEL.JSON").write_bytes((tmp_path / "model.json").read_bytes())
    assert boosted.load(tmp_path / "MODEL.JSON").access == "scores"
    booster = model.get_booster()  # of XGBoost's own kind, all of whose trees count unless told otherwise
    theirs = booster.predict(xgboost.DMatrix(x), output_margin=True)
    torch.testing.assert_close(boosted.adopt(booster)(images(x)), expected(theirs))


def test_a_booster_of_linear_models_gives_its_margins():
    xgboost = pytest.importorskip("xgboost")
    x, y = data(2)
    booster = xgboost.train({"booster": "gblinear", "objective": "binary:logistic"}, xgboost.DMatrix(x, y), 3)
    theirs = booster.predict(xgboost.DMatrix(x), output_margin=True)
    torch.testing.assert_close(boosted.adopt(booster)(images(x)), expected(theirs))


def test_several_labels_an_example_are_refused():
    xgboost = pytest.importorskip("xgboost")
    x, _ = data(2)
    model = xgboost.XGBClassifier(n_estimators=2, n_jobs=1).fit(x, (x[:, :3] > x[:, :3].mean()).astype(int))
    for several in (model, model.get_booster()):
        with pytest.raises(BadInput, match="3 labels an example"):
            boosted.adopt(several)


def test_labels_are_positions_in_classes():
    lightgbm = pytest.importorskip("lightgbm")
    x, y = data(3)
    names = np.array(["low", "middle", "high"])[y]
    model = lightgbm.LGBMClassifier(n_estimators=4, n_jobs=1, verbose=-1).fit(x, names)
    victim = boosted.adopt(model)
    assert any("[high, low, middle]" in note for note in victim.notes)
    theirs = model.booster_.predict(x).argmax(1)
    assert np.array_equal(victim(images(x)).argmax(1), theirs)


def test_regressors_tell_what_they_predict_and_their_boosters_are_refused():
    xgboost = pytest.importorskip("xgboost")
    lightgbm = pytest.importorskip("lightgbm")
    x, y = data(3)
    regressors = [
        xgboost.XGBRegressor(n_estimators=2, n_jobs=1).fit(x, y),
        lightgbm.LGBMRegressor(n_estimators=2, n_jobs=1, verbose=-1).fit(x, y),
    ]
    for model in regressors:
        np.testing.assert_allclose(boosted.adopt(model)(images(x)).numpy(), model.predict(x), rtol=1e-6)
    for bad in (regressors[0].get_booster(), regressors[1].booster_):
        with pytest.raises(BadInput, match="need a classifier"):
            boosted.adopt(bad)


def test_unfitted_models_are_refused():
    xgboost = pytest.importorskip("xgboost")
    lightgbm = pytest.importorskip("lightgbm")
    for bad in (xgboost.XGBClassifier(), lightgbm.LGBMClassifier(), xgboost.XGBRegressor(), lightgbm.LGBMRegressor()):
        with pytest.raises(BadInput, match="not fitted"):
            boosted.adopt(bad)
    with pytest.raises(BadInput, match="type list"):
        boosted.adopt([])


@pytest.mark.parametrize("name", ["model.json", "model.ubj", "model.txt"])
def test_a_damaged_file_is_refused_in_one_line(name, tmp_path):
    xgboost = pytest.importorskip("xgboost")
    lightgbm = pytest.importorskip("lightgbm")
    x, y = data(2)
    path = tmp_path / name
    if name.endswith("txt"):
        lightgbm.LGBMClassifier(n_estimators=4, n_jobs=1, verbose=-1).fit(x, y).booster_.save_model(path)
    else:
        xgboost.XGBClassifier(n_estimators=4, n_jobs=1).fit(x, y).save_model(path)
    whole = path.read_bytes()
    for part in (whole[: len(whole) // 2], whole[:9], b"", b"\xff\x00 not a model"):
        path.write_bytes(part)
        with pytest.raises(BadInput) as caught:
            boosted.load(path)
        assert "\n" not in str(caught.value)


def test_a_missing_file_and_an_unknown_ending_are_refused(tmp_path):
    with pytest.raises(BadInput, match="not a file"):
        boosted.load(tmp_path / "none.json")
    (tmp_path / "model.bin").write_bytes(b"")
    with pytest.raises(BadInput, match="save the model as one of these"):
        boosted.load(tmp_path / "model.bin")
