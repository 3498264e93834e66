"""What Sparring can do with a model of each framework; each line is proved by the test that it names."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Capability:
    """One kind of model: how it is handed over, what an attacker gets of it, which extras it needs, what proves it.

    `loaded` names the command line's MODEL or the object in Python. `access` is "gradients", "scores", "labels" or
    "scores or labels". `extra` goes into `pip install 'sparring[...]'`; `test` is `file::name` in `tests/models`.
    """

    framework: str
    loaded: str
    access: str
    extra: str
    test: str

    @property
    def gradients(self) -> bool:
        """Whether white-box attacks can be run."""
        return self.access == "gradients"


CAPABILITIES: tuple[Capability, ...] = (
    Capability(
        framework="PyTorch",
        loaded="`nn.Module`, `models.torch.function(f)`, `module:factory` with `--weights` (`.pt`, `.pth`, "
        "`.safetensors` with the extra `safetensors`); a whole pickled module with `--trust`",
        access="gradients",
        extra="",
        test="test_torch_files.py::test_state_dicts_come_in_every_usual_wrapping",
    ),
    Capability(
        framework="torch.export",
        loaded="`ExportedProgram`; `.pt2` with `--trust`",
        access="gradients",
        extra="",
        test="test_torch_files.py::test_an_exported_program_serves_any_number_of_rows_and_has_gradients",
    ),
    Capability(
        framework="TorchScript",
        loaded="`ScriptModule`; `.ts` with `--trust`",
        access="gradients",
        extra="",
        test="test_torch_files.py::test_a_scripted_module_in_hand_has_gradients",
    ),
    Capability(
        framework="PyTorch, quantised by `torch.ao`",
        loaded="`nn.Module`, `module:factory`",
        access="gradients",
        extra="",
        test="test_torch_rounding.py::test_gradients_are_those_of_the_network_before",
    ),
    Capability(
        framework="Hugging Face transformers",
        loaded="a model with `.logits`, its folder with `config.json` and safetensors",
        access="gradients",
        extra="transformers",
        test="test_torch_files.py::test_a_hugging_face_model_gives_its_logits_in_hand_and_from_a_folder",
    ),
    Capability(
        framework="Keras 3 on torch",
        loaded="`keras.Model`, `.keras`",
        access="gradients",
        extra="keras",
        test="test_keras.py::test_on_the_torch_backend_outputs_and_gradients_are_those_of_keras",
    ),
    Capability(
        framework="Keras 3 on JAX",
        loaded="`keras.Model`, `.keras`",
        access="gradients",
        extra="keras,jax",
        test="test_keras.py::test_the_same_weights_agree_with_the_torch_backend_and_break_on_the_same_examples",
    ),
    Capability(
        framework="Keras 3 on TensorFlow",
        loaded="`keras.Model`, `.keras`",
        access="gradients",
        extra="keras,tensorflow",
        test="test_keras.py::test_the_same_weights_agree_with_the_torch_backend_and_break_on_the_same_examples",
    ),
    Capability(
        framework="TensorFlow",
        loaded="SavedModel folder",
        access="gradients",
        extra="tensorflow",
        test="test_tensorflow.py::test_a_savedmodel_is_loaded_by_its_signature",
    ),
    Capability(
        framework="TensorFlow",
        loaded="`tf.function`, `tf.Module`, `models.tensorflow.function(f)`",
        access="gradients",
        extra="tensorflow",
        test="test_tensorflow.py::test_a_tf_function_agrees_with_torch_in_outputs_and_gradients",
    ),
    Capability(
        framework="JAX",
        loaded="`jax.jit(f)`, `models.jax.function(f)`",
        access="gradients",
        extra="jax",
        test="test_jax.py::test_outputs_and_gradients_agree_with_torch",
    ),
    Capability(
        framework="Flax",
        loaded="an NNX module, a bound Linen module (flax installed)",
        access="gradients",
        extra="jax",
        test="test_jax.py::test_a_flax_nnx_module_is_used_in_eval_mode_and_not_changed",
    ),
    Capability(
        framework="scikit-learn: linear models, SVM, MLP, pipelines of them with scalers",
        loaded="fitted estimator, `.skops`; `.joblib`, `.pkl`, `.pickle` with `--trust`",
        access="gradients",
        extra="sklearn",
        test="test_sklearn.py::test_gradients_agree_with_finite_differences",
    ),
    Capability(
        framework="scikit-learn: every other classifier",
        loaded="the same files; trees and forests in `.skops` with `--trust` too",
        access="scores or labels",
        extra="sklearn",
        test="test_sklearn.py::test_everything_else_gives_what_it_has_and_says_so",
    ),
    Capability(
        framework="scikit-learn: regressors, for `--task regression:TOLERANCE`",
        loaded="the same files; linear ones and MLP, in pipelines too, with gradients",
        access="gradients or scores",
        extra="sklearn",
        test="test_sklearn.py::test_regressors_predict_the_same_with_gradients",
    ),
    Capability(
        framework="XGBoost",
        loaded="classifier, regressor or classifier's `Booster`, `.json`, `.ubj`",
        access="scores",
        extra="xgboost",
        test="test_boosted.py::test_xgboost_classifiers_boosters_and_files_give_the_same_margins",
    ),
    Capability(
        framework="LightGBM",
        loaded="classifier, regressor or classifier's `Booster`, `.txt`",
        access="scores",
        extra="lightgbm",
        test="test_boosted.py::test_lightgbm_classifiers_boosters_and_files_give_the_same_margins",
    ),
    Capability(
        framework="ONNX, operators that the importer has",
        loaded="`ModelProto`, `.onnx`",
        access="gradients",
        extra="onnx",
        test="test_onnx.py::test_an_operator_agrees_with_onnxruntime",
    ),
    Capability(
        framework="ONNX, quantised: levels and zero points, set beforehand or for each row",
        loaded="`ModelProto`, `.onnx`",
        access="gradients",
        extra="onnx",
        test="test_onnx_rounding.py::test_an_operator_of_levels_is_within_a_level",
    ),
    Capability(
        framework="ONNX, any other operator",
        loaded="`ModelProto`, `InferenceSession`, `.onnx`",
        access="scores",
        extra="onnx",
        test="test_onnx.py::test_a_missing_operator_is_named_and_leaves_scores",
    ),
    Capability(
        framework="HTTP endpoint",
        loaded="`https://...`, its description in `.toml` or `.json`",
        access="scores or labels",
        extra="http",
        test="test_endpoint.py::test_batches_go_out_and_scores_come_back",
    ),
    Capability(
        framework="any Python callable",
        loaded="a function of NumPy arrays, `models.function.scores(f)`",
        access="scores",
        extra="",
        test="test_function.py::test_a_numpy_function_gives_float32_scores",
    ),
    Capability(
        framework="any Python callable that only decides",
        loaded="`models.function.labels(f, classes=k)`",
        access="labels",
        extra="",
        test="test_function.py::test_labels_become_one_hot_rows",
    ),
)


def markdown() -> str:
    """The table for the documentation."""
    rows = [
        "| model | handed over as | attacker gets | gradients | extra |",
        "|---|---|---|---|---|",
        *(
            f"| {row.framework} | {row.loaded} | {row.access} | {'yes' if row.gradients else 'no'} "
            f"| {f'`{row.extra}`' if row.extra else ''} |"
            for row in CAPABILITIES
        ),
    ]
    return "\n".join(rows) + "\n"
