"""The doctor: is the set-up sound? Runs in seconds, before any attack.

Every examination is a function of the patient that returns a `Check`. A failed one makes the verdict `invalid` where
no number could be believed, `suspect` where a number is an upper bound at best.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor, nn

from sparring.evaluate.result import Check
from sparring.evaluate.run import asked, home
from sparring.evaluate.statistics import clopper_pearson
from sparring.goals import Untargeted
from sparring.losses import cross_entropy, margin
from sparring.models.victim import Victim, inference
from sparring.streams import Streams
from sparring.threats import Ball
from sparring.types import Data, Loss
from sparring.views import Counted

SAMPLE = 64
"""Examples that the doctor looks at, evenly spread over the data set."""

MODE_DEPENDENT = (
    nn.modules.batchnorm._BatchNorm,
    nn.modules.dropout._DropoutNd,
    nn.modules.instancenorm._InstanceNorm,
)


@dataclass(frozen=True)
class Patient:
    """A model with a sample of its data, and what is asked of it."""

    model: Counted
    victim: Victim
    threat: Ball
    x: Tensor
    y: Tensor
    rng: Streams

    @cached_property
    def outputs(self) -> Tensor:
        """What the model says of the sample."""
        with torch.no_grad():
            return self.model(self.x)

    def gradient(self, loss: Loss, x: Tensor | None = None) -> Tensor | None:
        """The loss's gradient at the sample, or nothing where the model hands none out."""
        point = (self.x if x is None else x).detach().clone().requires_grad_()
        outputs = self.model(point)
        if not outputs.requires_grad:
            return None
        (gradient,) = torch.autograd.grad(loss(outputs, Untargeted(self.y)).sum(), point, allow_unused=True)
        return gradient

    @cached_property
    def margin_gradient(self) -> Tensor | None:
        """The gradient of the margin, on which several examinations look."""
        return self.gradient(margin)


Examination = Callable[[Patient], Check]


def passed(name: str, evidence: str, threshold: str = "") -> Check:
    """Nothing found."""
    return Check(name=name, outcome="pass", evidence=evidence, threshold=threshold)


def inputs_are_finite(patient: Patient) -> Check:
    """NaN or infinite inputs."""
    bad = int((~patient.x.isfinite()).flatten(1).any(1).sum())
    if bad == 0:
        return passed("finite-inputs", f"all {len(patient.x)} sampled inputs are finite")
    return Check(
        name="finite-inputs",
        outcome="fail",
        serious="invalid",
        evidence=f"{bad} of {len(patient.x)} sampled inputs hold NaN or infinity",
        threshold="none",
        remedy="clean the data: an attack cannot move a NaN",
    )


def inputs_are_in_the_box(patient: Patient) -> Check:
    """Inputs outside of the declared bounds: 0-255 data, or data that were normalised outside of the model."""
    name, low, high = "input-range", patient.threat.low, patient.threat.high
    x = patient.x[patient.x.isfinite()]
    if not len(x):
        return Check(name=name, outcome="skipped", evidence="no finite input")
    least, most = float(x.min()), float(x.max())
    threshold = f"inside {low:g} to {high:g}"
    if least < low - 1e-6 or most > high + 1e-6:
        remedy = "divide the inputs by 255, or give --bounds 0 255 and eps in that unit"
        if least < low:
            remedy = "hand over inputs as they are stored and put the normalisation into the model, or give --bounds"
        return Check(
            name=name,
            outcome="fail",
            serious="invalid",
            evidence=f"inputs reach from {least:.4g} to {most:.4g}, outside of the bounds {low:g} to {high:g}",
            threshold=threshold,
            remedy=remedy,
        )
    if most - least < 0.05 * (high - low):
        return Check(
            name=name,
            outcome="fail",
            serious="invalid",
            evidence=f"inputs use only {least:.4g} to {most:.4g} of the bounds {low:g} to {high:g}",
            threshold="at least a twentieth of the range",
            remedy="scale the inputs as the model expects them, or give the true --bounds",
        )
    return passed(name, f"inputs reach from {least:.4g} to {most:.4g}", threshold)


def eps_has_the_unit_of_the_data(patient: Patient) -> Check:
    """An eps that is below what 8 bits can store, zero, or as large as the box."""
    threat = patient.threat
    span, in_255 = threat.high - threat.low, threat.eps / (threat.high - threat.low) * 255
    evidence = f"{threat} is {threat.eps / span:.3g} of the range"
    if threat.norm.name == "linf":
        evidence += f", {in_255:.3g} steps of an 8-bit input"
        if 0 < in_255 < 0.5:
            return Check(
                name="eps-unit",
                outcome="fail",
                serious="invalid",
                evidence=evidence + ": less than 8 bits can store",
                threshold="half a step or more",
                remedy="give eps in the unit of the inputs: for bounds of 0 to 255, 8 and not 8/255",
            )
    if threat.eps == 0:
        return Check(
            name="eps-unit",
            outcome="fail",
            serious="invalid",
            evidence="eps is 0: nothing may change",
            remedy="give an eps above 0",
        )
    return passed("eps-unit", evidence, "half a step of 8 bits, or more")


def labels_fit_the_outputs(patient: Patient) -> Check:
    """Outputs that are not (B, K) or not finite, and labels that are not classes."""
    outputs, y = patient.outputs, patient.y
    problem = ""
    if outputs.dim() != 2 or outputs.shape[0] != len(y):
        problem = f"outputs have shape {tuple(outputs.shape)} for {len(y)} inputs, not (B, K)"
    elif outputs.shape[1] < 2:
        problem = "the model has a single output, which is no class of its own"
    elif int(y.min()) < 0 or int(y.max()) >= outputs.shape[1]:
        problem = f"labels reach from {int(y.min())} to {int(y.max())}, and the model has {outputs.shape[1]} classes"
    elif not bool(outputs.isfinite().all()):
        problem = f"{int((~outputs.isfinite()).any(1).sum())} of {len(y)} outputs hold NaN or infinity"
    if problem:
        return Check(
            name="outputs-and-labels",
            outcome="fail",
            serious="invalid",
            evidence=problem,
            threshold="finite (B, K), labels 0 to K - 1",
            remedy="let the model return one finite score a class; for one logit s, return the pair (-s, s)",
        )
    return passed("outputs-and-labels", f"{outputs.shape[1]} finite scores, labels {int(y.min())} to {int(y.max())}")


def outputs_are_logits(patient: Patient) -> Check:
    """Probabilities in place of logits: their gradients vanish where the model is sure."""
    outputs = patient.outputs
    if patient.victim.access != "gradients":
        return Check(name="logits", outcome="skipped", evidence="scores are compared here, and never differentiated")
    sums_to_one = bool(((outputs.sum(1) - 1).abs() < 1e-3).all()) and bool((outputs >= 0).all())
    if patient.victim.probabilities or sums_to_one:
        return Check(
            name="logits",
            outcome="fail",
            evidence="the outputs are probabilities: between 0 and 1, with a sum of 1",
            threshold="logits",
            remedy="leave the softmax out of the model; meanwhile attacks climb the logarithms",
        )
    if bool((outputs.logsumexp(1).abs() < 1e-4).all()):
        return passed("logits", "log-probabilities, which serve as logits")
    return passed("logits", f"scores between {float(outputs.min()):.3g} and {float(outputs.max()):.3g}")


def model_is_in_inference_mode(patient: Patient) -> Check:
    """Parts left in train mode that behave differently there. Looks at the modes as the model was handed over."""
    module = patient.victim.module
    if module is None:
        return Check(name="mode", outcome="skipped", evidence="no torch module to look at")
    parts = [part for part in module.modules() if isinstance(part, MODE_DEPENDENT) and part.training]
    if parts:
        kinds = ", ".join(sorted({type(part).__name__ for part in parts}))
        return Check(
            name="mode",
            outcome="fail",
            serious="invalid",
            evidence=f"{len(parts)} parts were handed over in train mode ({kinds})",
            threshold="none that train mode changes",
            remedy="call model.eval() before the audit",
        )
    return passed("mode", "no part is in train mode that behaves differently there")


def answers_are_the_same_each_time(patient: Patient) -> Check:
    """Randomness: five calls on the same inputs."""
    with torch.no_grad():
        again = torch.stack([patient.model(patient.x) for _ in range(4)])
    change = float((again - patient.outputs).abs().max() / patient.outputs.abs().max().clamp(min=1e-12))
    if change > 1e-4:
        flips = float((again.argmax(2) != patient.outputs.argmax(1)).float().mean())
        return Check(
            name="randomness",
            outcome="fail",
            evidence=f"outputs change by {change:.2g} of their size between calls, and {flips:.1%} of the decisions",
            threshold="1e-4",
            remedy="attacks average over several draws (EOT); judge a random defence by many",
        )
    return passed("randomness", f"five calls agree to {change:.1g}", "1e-4")


def rows_do_not_see_each_other(patient: Patient) -> Check:
    """Answers that depend on what else is in the batch."""
    few = patient.x[:4]
    with torch.no_grad():
        alone = torch.cat([patient.model(row.unsqueeze(0)) for row in few])
    change = float((alone - patient.outputs[:4]).abs().max() / patient.outputs.abs().max().clamp(min=1e-12))
    if change > 1e-3:
        return Check(
            name="batch-independence",
            outcome="fail",
            evidence=f"outputs differ by {change:.2g} of their size when inputs come alone",
            threshold="1e-3",
            remedy="put batch normalisation into inference mode; take batch statistics out of the model",
        )
    return passed("batch-independence", f"alone or together, outputs agree to {change:.1g}", "1e-3")


def labels_belong_to_the_inputs(patient: Patient) -> Check:
    """Labels that were shifted or shuffled, or a model that knows nothing."""
    predicted, y, classes = patient.outputs.argmax(1), patient.y, patient.outputs.shape[1]
    accuracy = float((predicted == y).float().mean())
    chance = float(torch.bincount(y, minlength=classes).max()) / len(y)
    if clopper_pearson(int((predicted == y).sum()), len(y)).low > chance:
        return passed("labels", f"{accuracy:.0%} of the sample is right", "above chance")
    if clopper_pearson(len(y), len(y)).low <= chance:
        evidence = f"{accuracy:.0%} of {len(y)} examples is right; chance is {chance:.0%}, and so few cannot beat it"
        return Check(name="labels", outcome="skipped", evidence=evidence)
    from scipy.optimize import linear_sum_assignment

    confusion = torch.zeros(classes, classes)
    confusion.index_put_((y, predicted), torch.ones(len(y)), accumulate=True)
    rows, columns = linear_sum_assignment(confusion.numpy(), maximize=True)
    renamed = float(confusion[rows, columns].sum()) / len(y)
    evidence = f"only {accuracy:.0%} of the sample is right, where chance is {chance:.0%}"
    remedy = "check that data and model belong together, and the preprocessing"
    if renamed > max(0.5, accuracy + 0.3):
        shifts = {int((c - r) % classes) for r, c in zip(rows, columns, strict=True) if confusion[r, c] > 0}
        kind = f"shifted by {shifts.pop()}" if len(shifts) == 1 else "renamed"
        evidence += f"; with the labels {kind}, {renamed:.0%} would be"
        remedy = "give labels in the order of the model's outputs, counted from 0"
    return Check(
        name="labels",
        outcome="fail",
        serious="invalid",
        evidence=evidence,
        threshold="above chance",
        remedy=remedy,
    )


def scaling_is_right(patient: Patient) -> Check:
    """Normalisation twice or never: would the model do much better on the same inputs at another scale?"""
    x, y = patient.x, patient.y
    mean, std = x.mean(), x.std().clamp(min=1e-6)
    scales = {"times 255": 255 * x, "divided by 255": x / 255, "as 2x - 1": 2 * x - 1, "standardised": (x - mean) / std}
    accuracy = float((patient.outputs.argmax(1) == y).float().mean())
    with torch.no_grad():
        others = {name: float((patient.model(z).argmax(1) == y).float().mean()) for name, z in scales.items()}
    best = max(others, key=lambda name: others[name])
    if others[best] > accuracy + 0.2:
        return Check(
            name="scaling",
            outcome="fail",
            serious="invalid",
            evidence=f"{accuracy:.0%} of the sample is right as it is, {others[best]:.0%} {best}",
            threshold="no scale better by 20 points",
            remedy="put the normalisation that the model was trained with into the model",
        )
    return passed("scaling", f"no other scale does better than {max(others[best], accuracy):.0%}", "20 points")


def gradients_are_there(patient: Patient) -> Check:
    """Gradients that are missing, zero, NaN: attacks that climb them stand still, and report robustness."""
    gradient, remedy = patient.margin_gradient, "attack the parts without gradient by BPDA; rest on black-box attacks"
    if gradient is None:
        return Check(
            name="gradients",
            outcome="fail",
            evidence="the outputs do not depend on the inputs by a path with gradients (detach, numpy, no_grad?)",
            remedy=remedy,
        )
    flat = gradient.flatten(1)
    broken, zero = (~flat.isfinite()).any(1), (flat == 0).all(1)
    share = float((broken | zero).float().mean())
    evidence = f"{int(zero.sum())} zero and {int(broken.sum())} NaN gradients of the margin in {len(flat)} examples"
    if share > 0.05:
        return Check(name="gradients", outcome="fail", evidence=evidence, threshold="5 %", remedy=remedy)
    return passed("gradients", evidence, "5 %")


def losses_are_not_saturated(patient: Patient) -> Check:
    """Logits so far apart that the cross-entropy has no gradient in float32."""
    gradient = patient.gradient(cross_entropy)
    if gradient is None or patient.margin_gradient is None:
        return Check(name="saturation", outcome="skipped", evidence="no gradients")
    zero = (gradient.flatten(1) == 0).all(1) & (patient.margin_gradient.flatten(1) != 0).any(1)
    share = float(zero.float().mean())
    evidence = f"the cross-entropy has no gradient on {share:.0%} of the sample, where the margin has one"
    if share > 0.1:
        return Check(
            name="saturation",
            outcome="warn",
            evidence=evidence,
            threshold="10 %",
            remedy="the suites climb the margin too, which does not saturate",
        )
    return passed("saturation", evidence, "10 %")


def gradients_are_slopes(patient: Patient) -> Check:
    """Autograd against central differences: finds rounding, detached paths and backward passes of another function."""
    gradient = patient.margin_gradient
    if gradient is None:
        return Check(name="finite-differences", outcome="skipped", evidence="no gradients")
    span, goal = patient.threat.high - patient.threat.low, Untargeted(patient.y)
    direction = gradient.nan_to_num().sign() + 0.1 * patient.rng.at("slope").sign(*patient.x.shape[1:]).to(gradient)
    errors = []
    with torch.no_grad():
        for h in (1e-3 * span, 1e-2 * span):
            rise = margin(patient.model(patient.x + h * direction), goal) - margin(
                patient.model(patient.x - h * direction), goal
            )
            slope = (gradient * direction).flatten(1).sum(1)
            size = torch.maximum(slope.abs(), (rise / (2 * h)).abs())
            errors.append((slope - rise / (2 * h)).abs() / size.clamp(min=1e-12))
    error = float(torch.minimum(*errors).nan_to_num(1.0).median())
    evidence = f"autograd and finite differences differ by {error:.1%} (median of {len(patient.x)})"
    if error > 0.3:
        return Check(
            name="finite-differences",
            outcome="fail",
            evidence=evidence,
            threshold="30 %",
            remedy="a part hands out the gradient of another function: attack it by BPDA, or by black-box attacks",
        )
    return passed("finite-differences", evidence, "30 %")


def gradients_hold_nearby(patient: Patient) -> Check:
    """Shattered gradients: do they point the same way a hundredth of eps further on?"""
    gradient = patient.margin_gradient
    if gradient is None:
        return Check(name="shattered-gradients", outcome="skipped", evidence="no gradients")
    near = patient.threat.at(patient.threat.eps / 100)
    other = patient.gradient(margin, near.sample(patient.x, patient.rng.at("near")))
    assert other is not None
    cosine = torch.nn.functional.cosine_similarity(gradient.flatten(1), other.flatten(1)).nan_to_num()
    middle = float(cosine.median())
    evidence = f"gradients at points eps / 100 apart have a cosine of {middle:.2f} (median of {len(patient.x)})"
    if middle < 0.3:
        return Check(
            name="shattered-gradients",
            outcome="fail",
            evidence=evidence,
            threshold="0.3",
            remedy="smooth the gradient (EOT over noise), or rest on black-box attacks",
        )
    return passed("shattered-gradients", evidence, "0.3")


def outputs_have_enough_digits(patient: Patient) -> Check:
    """Half precision, in which small changes of the input are lost."""
    if patient.outputs.dtype in (torch.float16, torch.bfloat16):
        return Check(
            name="precision",
            outcome="warn",
            evidence=f"outputs are {patient.outputs.dtype}".replace("torch.", ""),
            threshold="float32",
            remedy="audit the model in float32 as well",
        )
    return passed("precision", f"outputs are {patient.outputs.dtype}".replace("torch.", ""), "float32")


INPUTS: tuple[Examination, ...] = (inputs_are_finite, inputs_are_in_the_box, eps_has_the_unit_of_the_data)
OUTPUTS: tuple[Examination, ...] = (labels_fit_the_outputs,)
BEHAVIOUR: tuple[Examination, ...] = (
    outputs_are_logits,
    outputs_have_enough_digits,
    labels_belong_to_the_inputs,
    scaling_is_right,
    answers_are_the_same_each_time,
    rows_do_not_see_each_other,
)

GRADIENTS: tuple[Examination, ...] = (
    gradients_are_there,
    losses_are_not_saturated,
    gradients_are_slopes,
    gradients_hold_nearby,
)


@dataclass(frozen=True)
class Diagnosis:
    """What the doctor found, and what it cost."""

    checks: tuple[Check, ...]
    classes: int
    differentiable: bool
    forward: int
    backward: int

    def failed(self, name: str) -> bool:
        """Whether this check failed."""
        return any(check.name == name and check.outcome == "fail" for check in self.checks)

    @property
    def invalid(self) -> bool:
        """Whether a failure leaves no number to be believed."""
        return any(check.outcome == "fail" and check.serious == "invalid" for check in self.checks)


def spread(count: int, most: int) -> Sequence[int]:
    """At most `most` positions out of `count`, evenly spread."""
    most = min(count, most)
    return sorted({round(i * (count - 1) / max(most - 1, 1)) for i in range(most)})


def examine(victim: Victim, data: Data, threat: Ball, *, seed: int = 0) -> Diagnosis:
    """Look over the set-up: model, data and threat together.

    Costs about 25 forward and 4 backward passes on each of at most 64 examples.
    """
    places = spread(len(data), SAMPLE)
    x, y = data.take(places)
    x, y = x.to(home(victim)), y.to(home(victim))
    patient = Patient(Counted(asked(victim)), victim, threat, x, y, Streams.of(seed, places).at("doctor"))
    checks = [model_is_in_inference_mode(patient)]  # as it came; the rest is asked of the model as it is attacked
    with inference(victim):
        for group in (INPUTS, OUTPUTS, BEHAVIOUR, GRADIENTS if victim.access == "gradients" else ()):
            found = [look(patient) for look in group]
            checks += found
            if any(check.outcome == "fail" and check.serious == "invalid" for check in found):
                break  # the groups after it could not even run, or would only repeat it
    known = "outputs" in vars(patient)
    return Diagnosis(
        checks=tuple(checks),
        classes=patient.outputs.shape[1] if known and patient.outputs.dim() == 2 else 0,
        differentiable=vars(patient).get("margin_gradient") is not None,
        forward=patient.model.forward,
        backward=patient.model.backward,
    )
