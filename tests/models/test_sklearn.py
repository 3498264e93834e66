import copy
import io
import json
import zipfile

import numpy as np
import pytest
import torch

from sparring.errors import BadInput
from sparring.models import sklearn as adapter

pytestmark = pytest.mark.frameworks
pytest.importorskip("sklearn")

from sklearn import (  # noqa: E402
    cluster,
    datasets,
    decomposition,
    discriminant_analysis,
    ensemble,
    feature_selection,
    linear_model,
    model_selection,
    multiclass,
    naive_bayes,
    neighbors,
    neural_network,
    pipeline,
    preprocessing,
    semi_supervised,
    svm,
    tree,
)

SEEDS = (0, 1, 2)


def data(seed, classes):
    x, y = datasets.make_classification(
        n_samples=120, n_features=12, n_informative=8, n_classes=classes, class_sep=0.7, random_state=seed
    )
    return x.astype(np.float32).astype(np.float64), y


def reference(model, x):
    out = model.decision_function(x)
    return np.stack([np.zeros_like(out), out], 1) if out.ndim == 1 else out


def agree(victim, model, x):
    theirs = torch.from_numpy(reference(model, x))
    ours = victim(torch.from_numpy(x).float())
    torch.testing.assert_close(ours.double(), theirs, rtol=1e-5, atol=1e-5)
    return ours


def test_a_rewriting_draws_no_random_numbers_and_asks_for_no_default_type():
    model, state = linear_model.LogisticRegression().fit([[0.0], [1.0]], [0, 1]), torch.get_rng_state()
    torch.set_default_dtype(torch.float64)
    try:
        victim = adapter.adopt(model)
    finally:
        torch.set_default_dtype(torch.float32)
    assert torch.equal(torch.get_rng_state(), state)
    assert victim(torch.rand(2, 1)).dtype == torch.float32


CLASSIFIERS = {
    "logistic": linear_model.LogisticRegression,
    "linear svm": svm.LinearSVC,
    "ridge": linear_model.RidgeClassifier,
    "sgd": lambda: linear_model.SGDClassifier(random_state=0, alpha=0.1),
    "perceptron": lambda: linear_model.Perceptron(random_state=0, penalty="l2"),
    "lda": discriminant_analysis.LinearDiscriminantAnalysis,
    "svm rbf": svm.SVC,
    "svm linear": lambda: svm.SVC(kernel="linear"),
    "svm poly": lambda: svm.SVC(kernel="poly", degree=2, coef0=1.0),
    "svm sigmoid": lambda: svm.SVC(kernel="sigmoid", gamma=0.02),
    "nu svm": lambda: svm.NuSVC(nu=0.3, gamma=0.05),
}


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("classes", [2, 3, 5])
@pytest.mark.parametrize("name", CLASSIFIERS)
def test_a_classifier_agrees_with_its_decision_function(name, classes, seed):
    x, y = data(seed, classes)
    model = CLASSIFIERS[name]().fit(x[:90], y[:90])
    victim = adapter.adopt(model)
    assert victim.access == "gradients"
    out = agree(victim, model, x)
    assert out.shape == (120, classes)
    if "svm" not in name or classes == 2 or "linear svm" in name:  # predict of one-vs-one resolves ties in its own way
        assert np.array_equal(model.classes_[out.argmax(1)], model.predict(x))


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("name", CLASSIFIERS)
def test_a_classifier_runs_in_double_precision_too_and_says_the_same(name, classes):
    x, y = data(0, classes)
    victim = adapter.adopt(CLASSIFIERS[name]().fit(x, y))
    single = victim(torch.from_numpy(x).float())
    double = copy.deepcopy(victim.module).double()(torch.from_numpy(x))
    assert (single.dtype, double.dtype) == (torch.float32, torch.float64)
    torch.testing.assert_close(single.double(), double, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("classes", [2, 4])
@pytest.mark.parametrize("activation", ["relu", "tanh", "logistic", "identity"])
@pytest.mark.filterwarnings("ignore:Stochastic Optimizer")
def test_an_mlp_agrees_with_the_logarithm_of_its_probabilities(activation, classes, seed):
    x, y = data(seed, classes)
    model = neural_network.MLPClassifier((16, 8), activation=activation, max_iter=30, random_state=seed).fit(x, y)
    ours = adapter.adopt(model)(torch.from_numpy(x).float()).log_softmax(1)
    np.testing.assert_allclose(ours.detach().numpy(), model.predict_log_proba(x), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("classes", [2, 3])
def test_the_softmax_of_a_logistic_regression_is_its_predict_proba(classes):
    x, y = data(0, classes)
    model = linear_model.LogisticRegression().fit(x, y)
    ours = adapter.adopt(model)(torch.from_numpy(x).float()).softmax(1)
    np.testing.assert_allclose(ours.detach().numpy(), model.predict_proba(x), atol=1e-6)


SCALERS = {
    "standard": preprocessing.StandardScaler,
    "standard without mean": lambda: preprocessing.StandardScaler(with_mean=False),
    "standard without std": lambda: preprocessing.StandardScaler(with_std=False),
    "min max": lambda: preprocessing.MinMaxScaler((-1, 2)),
    "min max clipped": lambda: preprocessing.MinMaxScaler(clip=True),
    "max abs": preprocessing.MaxAbsScaler,
    "robust": preprocessing.RobustScaler,
    "robust without centring": lambda: preprocessing.RobustScaler(with_centering=False),
    "normalizer l1": lambda: preprocessing.Normalizer("l1"),
    "normalizer l2": lambda: preprocessing.Normalizer("l2"),
    "normalizer max": lambda: preprocessing.Normalizer("max"),
    "pca": lambda: decomposition.PCA(5, random_state=0),
    "pca whitened": lambda: decomposition.PCA(5, whiten=True, random_state=0),
}


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("name", SCALERS)
def test_a_pipeline_agrees_with_its_decision_function(name, seed):
    x, y = data(seed, 3)
    x[:, 3] = 0.25  # a constant feature has no scale
    model = pipeline.make_pipeline(SCALERS[name](), linear_model.LogisticRegression()).fit(x[:60], y[:60])
    victim = adapter.adopt(model)
    assert victim.access == "gradients"
    agree(victim, model, x)
    agree(victim, model, np.zeros_like(x[:2]))


def test_nested_pipelines_and_passthrough_steps_are_followed():
    x, y = data(0, 3)
    inner = pipeline.make_pipeline(preprocessing.StandardScaler(), "passthrough", decomposition.PCA(6))
    model = pipeline.make_pipeline(inner, svm.SVC()).fit(x, y)
    victim = adapter.adopt(model)
    agree(victim, model, x)
    assert victim.name == "StandardScaler > PCA > SVC"


def test_a_finished_search_is_its_best_estimator():
    x, y = data(0, 2)
    search = model_selection.GridSearchCV(linear_model.LogisticRegression(), {"C": [0.1, 1.0]}, cv=2).fit(x, y)
    agree(adapter.adopt(search), search.best_estimator_, x)


@pytest.mark.parametrize(
    "model",
    [
        svm.SVC(gamma=0.05),
        pipeline.make_pipeline(preprocessing.StandardScaler(), linear_model.LogisticRegression()),
        pipeline.make_pipeline(
            preprocessing.Normalizer(), neural_network.MLPClassifier((8,), activation="tanh", max_iter=5)
        ),
    ],
)
@pytest.mark.filterwarnings("ignore:Stochastic Optimizer")
def test_gradients_agree_with_finite_differences(model):
    x, y = data(1, 3)
    victim = adapter.adopt(model.fit(x, y))
    at = torch.from_numpy(x[:8]).float().requires_grad_()
    direction = torch.randn(at.shape, generator=torch.Generator().manual_seed(0))
    (gradient,) = torch.autograd.grad(victim(at)[:, 0].sum(), at)
    h = 1e-2
    with torch.no_grad():
        difference = (victim(at + h * direction)[:, 0] - victim(at - h * direction)[:, 0]) / (2 * h)
    torch.testing.assert_close((gradient * direction).sum(1), difference, rtol=0.05, atol=5e-3)


def test_images_are_flattened():
    x, y = data(0, 3)
    model = linear_model.LogisticRegression().fit(x, y)
    images = torch.from_numpy(x).float().reshape(-1, 1, 3, 4)
    assert torch.equal(adapter.adopt(model)(images), adapter.adopt(model)(images.flatten(1)))
    forest = ensemble.RandomForestClassifier(5).fit(x, y)
    np.testing.assert_allclose(adapter.adopt(forest)(images).numpy(), forest.predict_proba(x), atol=1e-6)


@pytest.mark.parametrize("kind", [ensemble.RandomForestClassifier, ensemble.ExtraTreesClassifier])
def test_a_forest_answers_by_its_trees_to_the_last_bit(kind):
    x, y = data(0, 3)
    forest = kind(20, n_jobs=1, random_state=0).fit(x, y)
    scaled = pipeline.make_pipeline(preprocessing.StandardScaler(), kind(20, n_jobs=1, random_state=0)).fit(x, y)
    probe = torch.from_numpy(x).float()
    for model in (forest, scaled):
        want = torch.from_numpy(model.predict_proba(probe.double().numpy())).float()
        assert torch.equal(adapter.adopt(model)(probe), want)


def test_labels_are_positions_in_classes():
    x, y = data(0, 3)
    names = np.array(["cat", "cow", "dog"])[y]
    victim = adapter.adopt(linear_model.LogisticRegression().fit(x, names))
    assert victim.notes == ("labels are positions in classes_ = [cat, cow, dog]",)
    decisions = adapter.adopt(multiclass.OutputCodeClassifier(linear_model.Perceptron()).fit(x, names))
    assert decisions(torch.from_numpy(x).float()).argmax(1).bincount().sum() == 120


@pytest.mark.parametrize(
    ("model", "access", "said"),
    [
        (ensemble.RandomForestClassifier(5), "scores", "predict_proba"),
        (tree.DecisionTreeClassifier(), "scores", "predict_proba"),
        (neighbors.KNeighborsClassifier(), "scores", "predict_proba"),
        (naive_bayes.GaussianNB(), "scores", "predict_proba"),
        (ensemble.GradientBoostingClassifier(n_estimators=20), "scores", "decision_function"),
        (svm.SVC(kernel=lambda a, b: a @ b.T), "scores", "decision_function"),
        (neighbors.NearestCentroid(), "labels", "only predict"),
        (ensemble.VotingClassifier([("a", naive_bayes.GaussianNB())], voting="hard"), "labels", "only predict"),
        (
            pipeline.make_pipeline(preprocessing.PolynomialFeatures(2), linear_model.RidgeClassifier()),
            "scores",
            "decision_function",
        ),
    ],
)
@pytest.mark.parametrize("classes", [2, 3])
def test_everything_else_gives_what_it_has_and_says_so(model, access, said, classes):
    x, y = data(0, classes)
    victim = adapter.adopt(model.fit(x, y))
    out = victim(torch.from_numpy(x).float())
    assert victim.access == access
    assert any(said in note for note in victim.notes)
    assert any("no gradients" in note for note in victim.notes)
    assert out.shape == (120, classes)
    if not (isinstance(model, svm.SVC) and access == "scores"):
        assert np.array_equal(out.argmax(1).numpy(), model.predict(x))


def test_a_subclass_is_not_taken_for_its_parent():
    class Contrary(linear_model.LogisticRegression):
        def decision_function(self, x):
            return -super().decision_function(x)

    x, y = data(0, 3)
    model = Contrary().fit(x, y)
    victim = adapter.adopt(model)
    assert victim.access == "scores"
    assert any("predict_proba" in note for note in victim.notes)  # how it decides is not known
    torch.testing.assert_close(victim(torch.from_numpy(x).float()).double(), torch.from_numpy(model.predict_proba(x)))


SEARCHED = model_selection.GridSearchCV(svm.SVC(decision_function_shape="ovo"), {"C": [1.0]}, cv=2)
PAIRWISE = svm.SVC(kernel="linear", decision_function_shape="ovo")


@pytest.mark.parametrize(
    "model",
    [
        pipeline.make_pipeline(preprocessing.StandardScaler(), SEARCHED),
        svm.SVC(kernel=lambda a, b: a @ b.T, decision_function_shape="ovo"),
        ensemble.BaggingClassifier(PAIRWISE, 3, random_state=0),
        ensemble.BaggingClassifier(linear_model.LogisticRegression(), 3, random_state=0),
        ensemble.StackingClassifier([("a", naive_bayes.GaussianNB())], PAIRWISE, cv=2),
        feature_selection.RFE(PAIRWISE),
        semi_supervised.SelfTrainingClassifier(svm.SVC(probability=True, decision_function_shape="ovo")),
        multiclass.OneVsOneClassifier(naive_bayes.GaussianNB()),
        multiclass.OneVsRestClassifier(naive_bayes.GaussianNB()),
        multiclass.OneVsRestClassifier(svm.SVC()),
        model_selection.FixedThresholdClassifier(linear_model.LogisticRegression(), threshold=0.8),
        model_selection.FixedThresholdClassifier(linear_model.LogisticRegression(), threshold=0.8, pos_label=0),
    ],
    ids=lambda model: str(model)[:60],
)
@pytest.mark.filterwarnings("ignore:The `probability` parameter", "ignore:y contains no unlabeled")
@pytest.mark.parametrize("classes", [2, 4])
def test_the_largest_output_is_the_class_that_a_wrapped_classifier_decides_for(model, classes):
    if isinstance(model, model_selection.FixedThresholdClassifier) and classes > 2:
        pytest.skip("a threshold is for two classes")
    x, y = data(0, classes)
    model.fit(x, y)
    victim = adapter.adopt(model)
    decided = victim(torch.from_numpy(x).float()).argmax(1).numpy()
    ties = 0.02 if victim.access == "gradients" and classes > 2 else 0.0  # of the votes of an SVC: its note says so
    assert (decided != model.predict(x)).mean() <= ties


def test_classes_in_any_order_are_told_apart():
    class Backwards(naive_bayes.GaussianNB):
        def predict(self, x):
            return self.classes_[super().predict_proba(x).argmax(1)]

        def fit(self, x, y):
            super().fit(x, y)
            order = [2, 0, 1]
            self.classes_ = self.classes_[order]
            self.theta_, self.var_, self.class_prior_ = self.theta_[order], self.var_[order], self.class_prior_[order]
            return self

    x, y = data(0, 3)
    model = Backwards().fit(x, y)
    named = adapter.black_box(Labels(model), model.classes_, "backwards", [])
    assert np.array_equal(model.classes_[named(torch.from_numpy(x).float()).argmax(1)], model.predict(x))


class Labels:
    """Another's decisions alone."""

    def __init__(self, model):
        self.model = model

    def predict(self, x):
        return self.model.predict(x)


@pytest.mark.filterwarnings("ignore:Stochastic Optimizer")
def test_what_is_not_a_fitted_classifier_of_one_label_is_refused():
    x, y = data(0, 3)
    several = neural_network.MLPClassifier((4,), max_iter=2).fit(x, np.eye(3, dtype=int)[y])
    with pytest.raises(BadInput, match="several labels"):
        adapter.adopt(several)
    with pytest.raises(BadInput, match="several labels"):
        adapter.adopt(multiclass.OneVsRestClassifier(linear_model.LogisticRegression()).fit(x, np.eye(3, dtype=int)[y]))
    with pytest.raises(BadInput, match="without classes_"):
        adapter.adopt(model_selection.GridSearchCV(linear_model.LogisticRegression(), {}, refit=False).fit(x, y))
    with pytest.raises(BadInput, match="not fitted"):
        adapter.adopt(linear_model.LogisticRegression())
    with pytest.raises(BadInput, match="a fitted regressor"):
        adapter.adopt(linear_model.LinearRegression())
    with pytest.raises(BadInput, match="need a classifier"):
        adapter.adopt(cluster.KMeans(2, n_init=1).fit(x))
    with pytest.raises(BadInput, match="several labels"):
        adapter.adopt(linear_model.RidgeClassifier().fit(x, np.eye(3, dtype=int)[y]))
    with pytest.raises(BadInput, match="several labels"):
        adapter.adopt(tree.DecisionTreeClassifier().fit(x, np.eye(3, dtype=int)[y]))


def test_a_skops_file_is_loaded(tmp_path):
    skops = pytest.importorskip("skops.io")
    x, y = data(0, 3)
    model = pipeline.make_pipeline(preprocessing.StandardScaler(), svm.SVC()).fit(x, y)
    skops.dump(model, tmp_path / "model.skops")
    agree(adapter.load(tmp_path / "model.skops"), model, x)


def test_types_that_skops_does_not_trust_are_named_and_refused(tmp_path):
    skops = pytest.importorskip("skops.io")
    x, y = data(0, 3)
    model = svm.SVC(kernel=shadow).fit(x, y)
    skops.dump(model, tmp_path / "model.skops")
    with pytest.raises(BadInput, match=r"shadow.*--trust"):
        adapter.load(tmp_path / "model.skops")


def test_a_forest_in_a_skops_file_needs_trust_as_the_page_says(tmp_path):
    skops = pytest.importorskip("skops.io")
    x, y = data(0, 3)
    model = ensemble.RandomForestClassifier(3, random_state=0).fit(x, y)
    skops.dump(model, tmp_path / "model.skops")
    with pytest.raises(BadInput, match=r"sklearn\.tree\._tree\.Tree.*--trust"):
        adapter.load(tmp_path / "model.skops")
    assert adapter.load(tmp_path / "model.skops", trust=True).access == "scores"


def shadow(a, b):
    return a @ b.T


def test_a_damaged_skops_file_is_refused_in_one_line(tmp_path):
    skops = pytest.importorskip("skops.io")
    x, y = data(0, 3)
    whole = skops.dumps(linear_model.LogisticRegression().fit(x, y))
    (tmp_path / "short.skops").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "text.skops").write_text("not a model")
    empty = io.BytesIO()
    with zipfile.ZipFile(empty, "w") as archive:
        archive.writestr("schema.json", json.dumps({"protocol": 2}))
    (tmp_path / "empty.skops").write_bytes(empty.getvalue())
    for name in ("short", "text", "empty", "missing"):
        with pytest.raises(BadInput) as caught:
            adapter.load(tmp_path / f"{name}.skops")
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "model",
    [
        linear_model.LinearRegression(),
        linear_model.Ridge(),
        pipeline.make_pipeline(preprocessing.StandardScaler(), linear_model.Lasso(0.1)),
        neural_network.MLPRegressor(hidden_layer_sizes=(8,), max_iter=20, tol=1e9, n_iter_no_change=2),
    ],
    ids=str,
)
def test_regressors_predict_the_same_with_gradients(model):
    x, y = datasets.load_diabetes(return_X_y=True)
    both = np.stack([y, -y], 1) if isinstance(model, neural_network.MLPRegressor | linear_model.Ridge) else y
    model.fit(x, both)
    victim = adapter.adopt(model)
    assert victim.access == "gradients"
    said = victim(torch.tensor(x, dtype=torch.float32)).detach().numpy().reshape(model.predict(x).shape)
    np.testing.assert_allclose(said, model.predict(x), rtol=1e-4, atol=1e-3)


def test_other_regressors_tell_what_they_predict():
    x, y = datasets.load_diabetes(return_X_y=True)
    model = ensemble.RandomForestRegressor(3, random_state=0).fit(x, y)
    victim = adapter.adopt(model)
    assert victim.access == "scores"
    assert "answers are predict" in victim.notes
    np.testing.assert_allclose(victim(torch.tensor(x)).numpy(), model.predict(x.astype(np.float32)), rtol=1e-6)
