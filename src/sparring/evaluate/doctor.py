"""The doctor: is the set-up sound? Runs in seconds, before any attack.

Every look is a question and a function of the patient that answers it. A failed one makes the verdict `invalid` where
no number could be believed, `suspect` where a number is an upper bound at best.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from sparring.attacks import pgd_cosine
from sparring.domains.images.patches import side_of
from sparring.errors import BadInput, line
from sparring.evaluate.adaptive import SURVEYED
from sparring.evaluate.checks import Look, Question, asks
from sparring.evaluate.given import with_gradients
from sparring.evaluate.identity import copies
from sparring.evaluate.patient import Patient
from sparring.evaluate.result import Check
from sparring.evaluate.routes import HALF, choices, rivals
from sparring.evaluate.run import answering, asked, home
from sparring.evaluate.statistics import clopper_pearson, spread
from sparring.explain.stability import cosine
from sparring.functions import called
from sparring.goals import Untargeted
from sparring.losses import cross_entropy, dlr, margin
from sparring.mending import STOPS, obstacles
from sparring.models.victim import Victim, are_probabilities, as_written, frozen, inference
from sparring.norms import rows
from sparring.steepness import steep
from sparring.streams import Streams
from sparring.tasks import Classification, of
from sparring.threats import Ball
from sparring.types import Data
from sparring.views import Counted

SAMPLE = 64
"""Examples that the doctor looks at, evenly spread over the data set."""

MODE_DEPENDENT = (
    nn.modules.batchnorm._BatchNorm,
    nn.modules.dropout._DropoutNd,
    nn.modules.instancenorm._InstanceNorm,
)

TINY = torch.finfo(torch.float32).tiny
"""What divides in place of 0, whatever the scale of the outputs."""

UNWATCHED = (BadInput, RuntimeError, TypeError, BufferError, NotImplementedError)
"""What models raise that cannot be watched while they run."""

FRAMEWORKS = frozenset({"jax", "tensorflow"})
"""What models run in that no function of torch is called for."""

UNSEEN = "attack the parts without gradient by BPDA; rest on black-box attacks"

FITTED = "the audit fits attacks to them; what those break is said by `adaptive`"

LEAST = 1e-30
"""How far scores must be apart: float32 has no digits to spare for changes of much smaller ones."""

BISECTIONS = 7
"""Of the way from one example to another: the border lies within its 128th part then."""

COPIED = 2**30
"""Bytes of weights up to which a model is copied into double precision."""


@asks("finite-inputs", "any input has one", threshold="none", serious="invalid", remedy="clean the data")
def inputs_are_finite(patient: Patient, question: Question) -> Check:
    """Are there NaN or infinite inputs?"""
    bad = int((~patient.x.isfinite()).flatten(1).any(1).sum())
    if bad == 0:
        return question.passed(f"all {len(patient.x)} sampled inputs are finite")
    return question.failed(f"{bad} of {len(patient.x)} sampled inputs hold NaN or infinity")


@asks(
    "input-range",
    "some lie outside of the bounds, or all within a twentieth of the range",
    threshold="the bounds, and a twentieth of them",
    serious="invalid",
    remedy="divide the inputs by 255, or give --bounds 0 255 and eps in that unit",
)
def inputs_are_in_the_box(patient: Patient, question: Question) -> Check:
    """Do the inputs fill the declared bounds, and stay inside?"""
    low, high = patient.threat.low, patient.threat.high
    question = question.at(f"inside {low:g} to {high:g}")
    x = patient.x[patient.x.isfinite()]
    if not len(x):
        return question.skipped("no finite input")
    least, most = float(x.min()), float(x.max())
    if least < low - 1e-6 or most > high + 1e-6:
        evidence = f"inputs reach from {least:.4g} to {most:.4g}, outside of the bounds {low:g} to {high:g}"
        if least < low:
            remedy = "hand over inputs as they are stored and put the normalisation into the model, or give --bounds"
            return question.failed(evidence, remedy=remedy)
        if most > 255:
            return question.failed(evidence, remedy="scale the inputs, or give --bounds LOW HIGH that hold them all")
        return question.failed(evidence)
    if most - least < 0.05 * (high - low):
        return question.at("at least a twentieth of the range").failed(
            f"inputs use only {least:.4g} to {most:.4g} of the bounds {low:g} to {high:g}",
            remedy="scale the inputs as the model expects them, or give the true --bounds",
        )
    return question.passed(f"inputs reach from {least:.4g} to {most:.4g}")


@asks(
    "eps-unit",
    "it is 0, under half a step of 8 bits (Linf, images), or less than a pixel (patches); half of the range warns",
    threshold="half a step of 8 bits, or more",
    serious="invalid",
    remedy="give eps in the unit of the inputs: for bounds of 0 to 255, 8 and not 8/255",
)
def eps_has_the_unit_of_the_data(patient: Patient, question: Question) -> Check:
    """Is eps in the unit of the inputs?"""
    threat, share = patient.threat, patient.reach / patient.span
    if threat.discrete:
        return _has_words(patient, question)
    if threat.norm.name == "patch":
        return _has_pixels(patient, question)
    evidence = f"{threat} is {share:.3g} of the range"
    if threat.eps == 0:
        return question.failed("eps is 0: nothing may change", remedy="give an eps above 0")
    if threat.norm.name == "linf":
        evidence += f", {255 * share:.3g} steps of an 8-bit input" if patient.eight_bits else ""
        if patient.eight_bits and share * 255 < 0.5:
            evidence += ": less than 8 bits can store"
            return question.failed(evidence) if patient.on_grid else question.warned(evidence)
        if share >= 0.5:
            return question.warned(
                evidence + ": every input can be made the same grey", remedy="no model can be robust to that much"
            )
    return question.passed(evidence)


def _has_words(patient: Patient, question: Question) -> Check:
    """Are there words that may be replaced?"""
    count = float((patient.x != 0).sum(1).float().median())
    evidence, question = (
        f"{patient.threat} replaces up to {patient.threat.eps:g} of {count:g} words",
        question.at("a word"),
    )
    if patient.threat.eps < 1:
        return question.failed(evidence, remedy="let one word change, or more")
    return question.passed(evidence)


def _has_pixels(patient: Patient, question: Question) -> Check:
    """Is the square of a patch a pixel long or more?"""
    side, question = side_of(patient.threat.eps, patient.x), question.at("a pixel")
    evidence = f"{patient.threat} is a square of {side} by {side} pixels"
    if not side:
        return question.failed(evidence, remedy="give a larger share of the image")
    return question.passed(evidence)


@asks(
    "duplicates",
    "more than 5 % occur twice",
    threshold="5 %",
    serious="warning",
    remedy="audit each example once: copies make intervals look narrower than they are",
)
def examples_are_different(patient: Patient, question: Question) -> Check:
    """Does the data set hold the same input again and again?"""
    found, count = copies(patient.data)
    return question.answered(f"{found} of {count} inputs are copies of others", bad=found > 0.05 * count)


@asks(
    "outputs-and-labels",
    "they are no finite `(B, K)`, or labels are not 0 to K - 1",
    threshold="finite (B, K), labels 0 to K - 1",
    serious="invalid",
    remedy="let the model return one finite score a class; for one logit s, return the pair (-s, s)",
)
def labels_fit_the_outputs(patient: Patient, question: Question) -> Check:
    """Do the outputs have a finite score for every class, and the labels name classes?"""
    outputs, y = patient.outputs, patient.y
    if not isinstance(patient.task, Classification):
        return _fits_the_task(patient, question)
    if outputs.dim() != 2 or outputs.shape[0] != len(y):
        return question.failed(f"outputs have shape {tuple(outputs.shape)} for {len(y)} inputs, not (B, K)")
    if outputs.shape[1] < 2:
        return question.failed("the model has a single output, which is no class of its own")
    reach = f"labels reach from {int(y.min())} to {int(y.max())}"
    if int(y.min()) < 0 or int(y.max()) >= outputs.shape[1]:
        return question.failed(f"{reach}, and the model has {outputs.shape[1]} classes")
    if not bool(outputs.isfinite().all()):
        return question.failed(f"{int((~outputs.isfinite()).any(1).sum())} of {len(y)} outputs hold NaN or infinity")
    apart_by = float((outputs.amax(1) - outputs.amin(1)).median())
    if 0 < apart_by < LEAST:
        evidence = f"scores are {apart_by:.1g} apart, too little for float32"
        return question.failed(evidence, remedy="scale the outputs up")
    return question.passed(f"{outputs.shape[1]} finite scores, {reach}")


def _fits_the_task(patient: Patient, question: Question) -> Check:
    """Are outputs and labels such as the task wants them?"""
    task, question = patient.task, question.at(patient.task.needs)
    if misfit := task.misfit(patient.outputs, patient.y):
        return question.failed(misfit, remedy=f"{task} asks for {task.needs}; choose another task, or wrap the model")
    return question.passed(
        f"outputs {tuple(patient.outputs.shape[1:])} and labels {tuple(patient.y.shape[1:])} of {task}"
    )


@asks(
    "class-balance",
    "the commonest class has more than 1/2 + 1/(2 K)",
    threshold="1/2 + 1/(2 K) of the sample",
    serious="warning",
    remedy="look at the accuracy of each class: the average is mostly that of one",
)
def classes_are_balanced(patient: Patient, question: Question) -> Check:
    """Is nearly every example of the same class?"""
    classes = patient.outputs.shape[1]
    most = float(torch.bincount(patient.y).max()) / len(patient.y)
    return question.answered(f"the commonest of {classes} classes is {most:.0%}", bad=most > 0.5 + 0.5 / classes)


@asks(
    "logits",
    "outputs are at least 0 and sum to 1",
    threshold="logits",
    remedy="leave the softmax out of the model; meanwhile attacks climb the logarithms",
)
def outputs_are_logits(patient: Patient, question: Question) -> Check:
    """Does the model return probabilities in place of logits, whose gradients vanish where it is sure?"""
    outputs = patient.outputs
    if patient.victim.access != "gradients":
        return question.skipped("scores are compared here, and never differentiated")
    if patient.victim.probabilities or are_probabilities(outputs):
        return question.failed("the outputs are probabilities: between 0 and 1, with a sum of 1")
    if bool((outputs.logsumexp(1).abs() < 1e-4).all()):
        return question.passed("log-probabilities, which serve as logits")
    return question.passed(f"scores between {float(outputs.min()):.3g} and {float(outputs.max()):.3g}")


@asks(
    "mode",
    "any is in train mode",
    threshold="none that train mode changes",
    serious="invalid",
    remedy="call model.eval() before the audit",
)
def model_is_in_inference_mode(patient: Patient, question: Question) -> Check:
    """Was a part handed over in train mode that behaves differently there: dropout, batch normalisation?"""
    module = patient.victim.module
    if module is None:
        return question.skipped("no torch module to look at")
    kinds = [_kind(part) for part in module.modules() if getattr(part, "training", False)]  # frozen TorchScript: none
    parts = [kind.__name__ for kind in kinds if issubclass(kind, MODE_DEPENDENT)]
    if parts:
        return question.failed(f"{len(parts)} parts were handed over in train mode ({', '.join(sorted(set(parts)))})")
    return question.passed("no part is in train mode that behaves differently there")


def _kind(part: nn.Module) -> type[nn.Module]:
    """The class of a part, or that of torch which it had before it became TorchScript."""
    return getattr(nn, part.original_name, nn.Module) if isinstance(part, torch.jit.ScriptModule) else type(part)


@asks(
    "randomness",
    "outputs change by more than 1e-4 of the best class's lead",
    threshold="1e-4",
    remedy="attacks average over several draws (EOT); judge a random defence by many",
)
def answers_are_the_same_each_time(patient: Patient, question: Question) -> Check:
    """Do five calls on the same inputs agree?"""
    if patient.steady:
        return question.passed(f"five calls agree to {patient.change:.1g}")
    said, *again = (patient.task.told(one, patient.y)[1] for one in (patient.outputs, *patient.again))
    flips = float((torch.stack(again) != said).float().mean())
    evidence = f"outputs change by {patient.change:.2g} of {patient.lead} between calls"
    return question.failed(f"{evidence}, and {flips:.1%} of decisions")


@asks(
    "batch-independence",
    "outputs differ by more than 1e-3 of the best class's lead",
    threshold="1e-3",
    remedy="put batch normalisation into inference mode; take batch statistics out of the model",
)
def rows_do_not_see_each_other(patient: Patient, question: Question) -> Check:
    """Do inputs get the same answers alone and together?"""
    if not patient.steady:
        return question.skipped("outputs change by themselves")
    alone = []
    with torch.no_grad():
        for row in patient.x[:4]:  # by itself indeed: `patient.model` would repeat it
            alone.append(patient.task.view(answering(patient.victim))(row.unsqueeze(0)))
            patient.model.forward += 1
    if any(outputs.shape != patient.outputs[:1].shape for outputs in alone):
        return question.failed(f"outputs have shape {tuple(alone[0].shape)} when an input comes alone")
    change = float(patient.apart(torch.cat([*alone, patient.outputs[4:]])).max())
    if change > 1e-3:
        return question.failed(f"outputs differ by {change:.2g} of {patient.lead} when inputs come alone")
    return question.passed(f"alone or together, outputs agree to {change:.1g}")


@asks(
    "state",
    "any does; it warns where no answer changes",
    threshold="none",
    remedy="take what learns or counts out of the forward pass: results depend on the order of the calls",
)
def calls_leave_no_trace(patient: Patient, question: Question) -> Check:
    """Does calling the model change its parameters or buffers?"""
    module = patient.victim.module
    if module is None:
        return question.skipped("no torch module to look at")
    state = {name: value for name, value in module.state_dict().items() if isinstance(value, Tensor)}
    before = {name: value.clone() for name, value in state.items()}
    with torch.no_grad():
        now = patient.model(patient.x)
        changed = [name for name, value in state.items() if not torch.equal(value, before[name])]
        for name in changed:
            state[name].copy_(before[name])
    if not changed:
        return question.passed(f"{len(state)} tensors are what they were before")
    evidence = f"a call in inference mode changed {', '.join(changed[:3])}"
    if torch.equal(now, patient.again[0]):  # many calls lie between these
        return question.warned(f"{evidence}, and no answer")
    return question.failed(evidence)


@asks(
    "inference-time-optimisation",
    "a forward pass runs a backward pass",
    threshold="none",
    remedy="attack the whole: differentiate through the loop, or by BPDA around it, and by black-box attacks",
)
def answers_take_no_optimisation(patient: Patient, question: Question) -> Check:
    """Does the model run a backward pass of its own to answer: purification, test-time training?"""
    with torch.no_grad(), _backward_calls() as calls:
        patient.model(patient.x[:4])
    if calls:
        return question.failed(f"a forward pass called {calls[0]} {len(calls)} times")
    return question.passed("no backward pass inside of a forward pass")


@contextmanager
def _backward_calls() -> Iterator[list[str]]:
    """The names of the calls of torch's automatic differentiation meanwhile."""
    calls: list[str] = []

    class Listen(TorchFunctionMode):
        def __torch_function__(
            self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
        ) -> Any:
            if func in (torch.autograd.grad, torch.autograd.backward, Tensor.backward):
                calls.append(called(func))
            return func(*args, **(kwargs or {}))

    with Listen():
        yield calls


@asks(
    "quantised-inputs",
    "more than 5 % get the same outputs to the last bit; it warns of quantised networks, whose rounding gradients pass",
    threshold="5 %",
    remedy="attack the rounding by BPDA (the view `mended`), and by black-box attacks",
)
def small_changes_are_seen(patient: Patient, question: Question) -> Check:
    """Does the model overlook changes of a ten-thousandth of the range?"""
    if not patient.steady:
        return question.skipped("outputs change by themselves")
    noise, shape = patient.rng.at("speck"), patient.x.shape[1:]
    size = 1 + noise.at("size").uniform(*shape, device=patient.x.device)  # equal ones may cancel in a sum of few
    specks = 1e-4 * (noise.sign(*shape, device=patient.x.device) * size).to(patient.x)
    near = (patient.x + patient.span * specks).clamp(patient.threat.low, patient.threat.high)
    with torch.no_grad():  # beside calls that nobody listened to: some modules take a faster way then
        same = float((patient.model(near) == patient.again[-1]).reshape(len(near), -1).all(1).float().mean())
    evidence = (
        f"{same:.0%} of the sample keep their outputs to the last bit when every coordinate changes by 1e-4 or more"
    )
    if same > 0.05 and patient.victim.rounds:
        return question.warned(
            f"{evidence}; gradients go straight through the rounding", remedy="none is needed: attacks are fitted to it"
        )
    return question.answered(evidence, bad=same > 0.05)


@asks(
    "labels",
    "the sample is right no more often than chance",
    threshold="above chance",
    serious="invalid",
    remedy="check that data, model and weights belong together, and the preprocessing",
)
def labels_belong_to_the_inputs(patient: Patient, question: Question) -> Check:
    """Does the model know the labels better than chance, or are they shifted or shuffled?"""
    if not patient.classes:
        return _own_labels_fit_best(patient, question)
    predicted, y, classes = patient.outputs.argmax(1), patient.y, patient.outputs.shape[1]
    accuracy = float((predicted == y).float().mean())
    chance = float(torch.bincount(y, minlength=classes).max()) / len(y)
    if clopper_pearson(int((predicted == y).sum()), len(y)).low > chance:
        return question.passed(f"{accuracy:.0%} of the sample is right")
    if clopper_pearson(len(y), len(y)).low <= chance:
        return question.skipped(
            f"{accuracy:.0%} of {len(y)} examples is right; chance is {chance:.0%}, and so few cannot beat it"
        )
    from scipy.optimize import linear_sum_assignment

    confusion = torch.zeros(classes, classes)
    confusion.index_put_((y, predicted), torch.ones(len(y)), accumulate=True)
    rows, columns = linear_sum_assignment(confusion.numpy(), maximize=True)
    renamed = float(confusion[rows, columns].sum()) / len(y)
    evidence = f"only {accuracy:.0%} of the sample is right, where chance is {chance:.0%}"
    if accuracy > chance - 0.1:  # of nearly one class, always naming that is hard to beat: are the others known?
        for more in MORE:
            known, others, luck = _others_known(patient, more)
            if luck < BY_LUCK:
                return question.warned(
                    f"{accuracy:.0%} of the sample is right, where always naming one class would be for {chance:.0%}; "
                    f"{known} of {others} examples of other classes are",
                    remedy="look at the accuracy of each class",
                )
    if renamed <= max(0.5, accuracy + 0.3):
        return question.failed(evidence)
    shifts = {int((c - r) % classes) for r, c in zip(rows, columns, strict=True) if confusion[r, c] > 0}
    kind = f"shifted by {shifts.pop()}" if len(shifts) == 1 else "renamed"
    return question.failed(
        f"{evidence}; with the labels {kind}, {renamed:.0%} would be",
        remedy="give labels in the order of the model's outputs, counted from 0",
    )


def _own_labels_fit_best(patient: Patient, question: Question) -> Check:
    """Is the sample right more often with its own labels than with those of other examples?"""
    count, right = len(patient.y), int(patient.right(patient.outputs).sum())
    chance = float(patient.exchanged.float().mean())
    evidence = f"{right / count:.0%} of the sample is right, and with labels of other examples {chance:.0%}"
    if clopper_pearson(count, count).low <= chance and right:
        return question.skipped(f"{evidence}; so few cannot beat that")
    return question.answered(evidence, bad=clopper_pearson(right, count).low <= chance)


MORE = 512, 4096
"""Examples that are asked for their classes where those of the sample do not tell: few first, as they mostly do."""

BY_LUCK = 5e-4
"""The chance that answers without regard to the inputs find as many, below which they do regard them: at each look."""


def _others_known(patient: Patient, count: int) -> tuple[int, int, float]:
    """Of examples of other classes than the commonest: how many are right, and are, and how likely that is by luck.

    As likely as to draw so many of them, or more, with as many draws as there are answers other than the commonest: a
    hypergeometric tail (Fisher, 1934). Costs a forward pass on at most `count` examples.
    """
    from scipy.stats import hypergeom

    places = spread(len(patient.data), count)
    y, predicted = [], []
    for start in range(0, len(places), SAMPLE):
        x, labels = patient.data.take(places[start : start + SAMPLE])
        with torch.no_grad():
            predicted.append(patient.model(x.to(patient.x)).argmax(1).cpu())
        y.append(labels.cpu())
    labels, answers = torch.cat(y), torch.cat(predicted)
    commonest = int(labels.bincount().argmax())
    others, named = int((labels != commonest).sum()), int((answers != commonest).sum())
    known = int(((labels != commonest) & (answers == labels)).sum())
    return known, others, float(hypergeom.sf(known - 1, len(labels), others, named))


@asks(
    "scaling",
    "another scale is better by 20 points, and surely by 10",
    threshold="20 points",
    serious="invalid",
    remedy="put the normalisation that the model was trained with into the model, once",
)
def scaling_is_right(patient: Patient, question: Question) -> Check:
    """Would the model do much better on the same inputs at another scale: normalised twice, or never?"""
    calls = (patient.outputs, *([] if patient.steady else patient.again))  # of random ones the best, as of the others
    accuracy, others = max(float(patient.right(one).float().mean()) for one in calls), patient.scaled
    best = max(others, key=lambda name: others[name])
    gain, count = others[best] - accuracy, len(patient.y)
    if gain > 0.2 and clopper_pearson(round(gain * count), count).low > 0.1:  # of a few examples that may be luck
        return question.failed(f"{accuracy:.0%} of the sample is right as it is, {others[best]:.0%} {best}")
    return question.passed(f"no other scale does better than {max(others[best], accuracy):.0%}")


@asks(
    "gradients",
    "it is missing, or zero or NaN on more than 5 %",
    threshold="5 %",
    remedy=UNSEEN,
)
def gradients_are_there(patient: Patient, question: Question) -> Check:
    """Is the gradient of the margin missing, zero or NaN, where attacks stand still, and report robustness?"""
    gradient = patient.margin_gradient
    if gradient is None:
        evidence = "the outputs do not depend on the inputs by a path with gradients (detach, numpy, no_grad?)"
        return question.failed(evidence + _where(patient))
    flat = gradient.flatten(1)
    broken, zero = (~flat.isfinite()).any(1), (flat == 0).all(1)
    share = float((broken | zero).float().mean())
    evidence = f"{int(zero.sum())} zero and {int(broken.sum())} NaN gradients of the margin in {len(flat)} examples"
    return question.failed(evidence + _where(patient)) if share > 0.05 else question.passed(evidence)


@asks(
    "hidden-paths",
    "Python or an index chooses, and otherwise within the threat; the others warn",
    threshold="none",
    remedy=FITTED,
)
def gradients_see_the_whole_model(patient: Patient, question: Question) -> Check:
    """Do outputs depend on the inputs by comparisons, casts, rounding or cuts, past what gradients see?

    What a model does beside its outputs, or to its weights, is its own affair.
    """
    outputs, reading = patient.heard
    if reading.noted and patient.steady:
        for others in (patient.within, *([] if patient.margin_gradient is None else [patient.climb.end])):
            if chosen := choices(patient.model, patient.x, outputs, reading, others):
                return question.failed(f"gradients pass over {', '.join(chosen)}", remedy=UNSEEN)
    met: dict[str, None] = {}
    try:
        if elsewhere := _elsewhere(patient, question):
            return elsewhere
        met |= dict.fromkeys(name for name in patient.unwatched if name in STOPS)
        with frozen(patient.victim):
            for x in (patient.x, patient.within):
                met |= dict.fromkeys(obstacles(patient.model, x))
    except UNWATCHED as error:
        return question.skipped(f"it cannot be watched while it runs ({line(error)[:80]})")
    if not met:
        return question.passed("no function of torch stops a gradient, on the sample and within the threat")
    return question.warned(f"gradients pass over {', '.join(met)}")


@asks(
    "steep-units",
    "half of a tensor's and more, above and below its middle, where a smaller scale would open them",
    threshold="half",
    serious="warning",
    remedy=FITTED,
)
def units_pass_gradients_on(patient: Patient, question: Question) -> Check:
    """Are units inside so steep that most pass on no gradient, whatever function makes them so?"""
    try:
        if elsewhere := _elsewhere(patient, question):
            return elsewhere
        if patient.unwatched:
            return question.skipped(f"{', '.join(patient.unwatched[:3])} run where they cannot be watched")
        with frozen(patient.victim):
            found = steep(patient.model, torch.cat([patient.x[:SURVEYED], patient.within[:SURVEYED]]))
    except UNWATCHED as error:
        return question.skipped(f"it cannot be watched while it runs ({line(error)[:80]})")
    if not found:
        return question.passed("no scale inside of the model would let more gradients through")
    names = ", ".join(dict.fromkeys(one.name for one in found))
    return question.warned(f"most units pass on no gradient after {names}")


def _elsewhere(patient: Patient, question: Question) -> Check | None:
    """What is answered where another framework runs the model, past every function of torch."""
    for framework in sorted(FRAMEWORKS & set(patient.unwatched)):
        return question.skipped(f"what runs in {framework} cannot be watched")
    return None


def _where(patient: Patient) -> str:
    """Which functions of torch stop the gradient."""
    try:
        found = obstacles(patient.model, patient.x[:4])
    except UNWATCHED:
        return ""
    return f"; it stops at {', '.join(found)}" if found else ""


@asks(
    "saturation",
    "zero on more than 50 %, where the margin has one; more than 10 % warns",
    threshold="10 %, 50 %",
    remedy="the suites climb the margin too, which does not saturate; divide the logits by a constant",
)
def losses_are_not_saturated(patient: Patient, question: Question) -> Check:
    """Are logits so far apart that the cross-entropy has no gradient in float32?"""
    gradient = patient.gradient(cross_entropy, patient.sloped)
    if gradient is None:
        return question.skipped("gradients come and go")
    zero = (gradient.flatten(1) == 0).all(1) & (patient.slope.flatten(1) != 0).any(1)
    share = float(zero.float().mean())
    evidence = f"the cross-entropy has no gradient on {share:.0%} of the sample, where the margin has one"
    if share > 0.1:
        return question.failed(evidence) if share > 0.5 else question.warned(evidence)
    return question.passed(evidence)


@asks(
    "finite-differences",
    "they differ by more than 30 % in the middle, or surely by half on more than 3 %",
    threshold="30 %",
    remedy="a part hands out the gradient of another function: attack it by BPDA, or by black-box attacks",
)
def gradients_are_slopes(patient: Patient, question: Question) -> Check:
    """Does autograd agree with central differences, or is there rounding, or a backward pass of another function?

    Beside the inputs and within the threat: on a flat background units and windows are at their kinks all at once,
    where autograd takes one of two slopes, and central differences take the middle. And at borders between decisions,
    where those are seen to jump that a gradient goes past.
    """
    if patient.steady and float(patient.apart(patient.differentiated).max()) > 1e-3:
        return question.failed("the model gives other answers where a gradient is asked for")
    if patient.victim.rounds:
        return question.skipped("gradients go straight through the rounding: they are no slopes of its steps")
    near = patient.x + patient.step(patient.specks(patient.rng.at("beside")))
    errors = torch.stack([_slope_errors(patient, point) for point in (near, patient.within)])
    error, some, count = float(errors.median(1).values.max()), int((errors > 0.5).sum(1).max()), len(patient.x)
    evidence = f"autograd and finite differences differ by {error:.1%} (median of {count}), on {some} by more than half"
    if error > 0.3 or clopper_pearson(some, count).low > 0.03:
        return question.failed(evidence)
    decisions = len(set(patient.outputs.argmax(1).tolist())) if patient.classes else 0
    jumps = float(_border_errors(patient).median()) if decisions > 1 else 0.0
    if jumps > 0.3:
        return question.failed(f"autograd and finite differences differ by {jumps:.1%} at borders between decisions")
    return question.passed(evidence)


def _slope_errors(patient: Patient, x: Tensor) -> Tensor:
    """By how much of its size a slope at `x` differs from what its gradient says, at the better of two steps."""
    loss, goal = patient.probe, patient.goal
    gradient = patient.gradient(loss, x)
    if gradient is None:
        return torch.ones(len(x))
    direction = gradient.nan_to_num().sign() + 0.1 * patient.rng.at("slope").sign(*x.shape[1:]).to(gradient)
    errors = []
    with torch.no_grad():
        for h in (1e-3 * patient.span * patient.grain, 1e-2 * patient.span * patient.grain):
            up, down = (patient.step(x + side * h * direction - patient.x) for side in (1, -1))
            rise = loss(patient.model(patient.x + up), goal) - loss(patient.model(patient.x + down), goal)
            errors.append(_off((gradient * (up - down)).flatten(1).sum(1), rise))
    return torch.minimum(*errors)


def _border_errors(patient: Patient) -> Tensor:
    """The same where the model changes its decision, on the way from each example to the next of another one."""
    decided = patient.outputs.argmax(1)
    said, count, goal = decided.tolist(), len(decided), Untargeted(decided)
    others = [next(j % count for j in range(i, i + count) if said[j % count] != one) for i, one in enumerate(said)]
    way = patient.x[others] - patient.x
    low, high = torch.zeros(count).to(way), torch.ones(count).to(way)

    def at(share: Tensor) -> Tensor:
        return patient.x + rows(share, way) * way

    with torch.no_grad():
        for _ in range(BISECTIONS):
            middle = (low + high) / 2
            beyond = goal.reached(patient.model(at(middle)))
            low, high = torch.where(beyond, low, middle), torch.where(beyond, middle, high)
        rise = margin(patient.model(at(high)), goal) - margin(patient.model(at(low)), goal)
    gradient = patient.gradient(margin, at((low + high) / 2), goal)
    if gradient is None:
        return torch.ones(count)
    return _off((gradient * rows(high - low, way) * way).flatten(1).sum(1), rise)


def _off(slope: Tensor, rise: Tensor) -> Tensor:
    """How far a slope is from a rise, as a share of the larger one."""
    return ((slope - rise).abs() / torch.maximum(slope.abs(), rise.abs()).clamp(min=TINY)).nan_to_num(1.0)


@asks(
    "shattered-gradients",
    "the median cosine is under 0.3",
    threshold="0.3",
    remedy="smooth the gradient (EOT over noise), or rest on black-box attacks",
)
def gradients_hold_nearby(patient: Patient, question: Question) -> Check:
    """Do gradients point the same way a hundredth of eps further on?"""
    near = patient.threat.times(0.01)
    other = patient.gradient(margin, near.sample(patient.sloped, patient.rng.at("near")))
    middle = 0.0 if other is None else float(cosine(patient.slope, other).nan_to_num().median())
    evidence = f"gradients at points eps / 100 apart have a cosine of {middle:.2f} (median of {len(patient.x)})"
    return question.answered(evidence, bad=middle < 0.3)


@asks(
    "coarse-scores",
    "more than 85 % stay as they are to the last bit, where under half of the sample have scores of their own; or those"
    " of a decision are all the same",
    threshold="85 %, and half",
    remedy="let the model say how sure it is: a search by scores goes blindly",
)
def scores_follow_words(patient: Patient, question: Question) -> Check | None:
    """Do scores change when a word of a text does, or do they say little more than the decision?"""
    if not patient.threat.discrete:
        return None
    if not patient.steady:
        return question.skipped("outputs change by themselves")
    one, rng = patient.threat.at(1), patient.rng.at("a word")
    same: list[Tensor] = []
    for i in range(4):
        z = one.sample(patient.x, rng.at(i))
        moved = (z != patient.x).any(1)
        with torch.no_grad():
            same.append((patient.model(z) == patient.outputs).all(1)[moved])
    kept, count = float(torch.cat(same).float().mean()), len(patient.x)
    own, decisions = len(set(map(tuple, patient.outputs.tolist()))), len(set(patient.outputs.argmax(1).tolist()))
    evidence = f"{kept:.0%} of scores stay as they are when a word is rewritten; {count} texts have {own} of them"
    return question.answered(evidence, bad=own <= min(decisions, count - 1) or (kept > 0.85 and own < 0.5 * count))


@asks(
    "loss-noise",
    "it changes by more than 10 % of its size, beyond what its gradient says",
    threshold="10 %",
    remedy="smooth the loss: EOT over noise, or over the model's own randomness",
)
def losses_are_smooth(patient: Patient, question: Question) -> Check:
    """Does noise of 4/255, or of eps if that is less, change the margin as its gradient does not foretell?

    The gradient half way, which foretells a bend too, and a kink in the background. After indicator I2 of Pintor et
    al. (2022), which takes all of the change: that of a steep plane too.
    """
    goal, noise = patient.goal, patient.rng.at("noise")
    loss, blind = margin(patient.outputs, goal).detach(), patient.margin_gradient is None
    moved = []
    for k in range(10):
        u = patient.step(patient.specks(noise.at(k)))
        slope = None if blind else patient.gradient(margin, patient.x + u / 2)
        foretold = 0.0 if slope is None else (slope * u).flatten(1).sum(1).nan_to_num()
        with torch.no_grad():
            rise = margin(patient.model(patient.x + u), goal) - loss
        moved.append((rise - foretold).abs() / loss.abs().clamp(min=TINY))
    change = float(torch.stack(moved).nan_to_num(1.0).clamp(max=1).mean())
    evidence = f"under noise the margin changes by {change:.1%} of its size beyond what its gradient says"
    return question.answered(evidence, bad=change > 0.1)


@asks(
    "silent-success",
    "more than 5 % do",
    threshold="5 %",
    serious="warning",
    remedy="return the best point seen, as the attacks here do; take smaller steps",
)
def success_is_not_lost(patient: Patient, question: Question) -> Check:
    """Do climbs pass through success and end outside of it (indicator I3 of Pintor et al., 2022)?"""
    margins = patient.climb.of(margin)
    lost = float(((margins[1:] > 0).any(0) & (margins[-1] <= 0)).float().mean())
    return question.answered(f"{lost:.0%} of 30-step climbs pass through success and lose it", bad=lost > 0.05)


@asks(
    "optimisation",
    "more than half rise by over 5 % of their climb in the last third",
    threshold="5 %, in half",
    serious="warning",
    remedy="give attacks more steps, or smooth the gradient; `convergence` says whether it mattered",
)
def climbs_level_off(patient: Patient, question: Question) -> Check:
    """Do 30-step climbs still rise at their end (indicator I4 of Pintor et al., 2022)?"""
    best = patient.climb.of(margin).cummax(0).values
    rise = (best[-1] - best[-11]) / (best[-1] - best[0]).clamp(min=TINY)
    share = float((rise > 0.05).float().mean())
    return question.answered(f"{share:.0%} of 30-step climbs still rise in their last ten steps", bad=share > 0.5)


@asks(
    "scale",
    "more than 10 % keep half of their lead as a share of all scores, and of its size less than a third of that, of "
    "which DLR breaks more than 10 %",
    threshold="10 %",
    remedy="climb a loss that no scale changes (DLR), or attack by decisions",
)
def climbs_change_more_than_the_scale(patient: Patient, question: Question) -> Check:
    """Do 30-step climbs shrink all scores at once, where they should change the decision?"""
    if patient.classes < 3:
        return question.skipped("fewer than three classes")
    leads = patient.climb.of(margin)
    size, share = (one[-1] / one[0] for one in (leads, patient.climb.of(dlr)))
    alike = (leads.amax(0) < 0) & (share > 0.5) & (size < share / 3)
    evidence = f"{float(alike.float().mean()):.0%} of 30-step climbs shrink all scores alike, and stand"
    if alike.float().mean() <= 0.1:
        return question.passed(evidence)
    goal = patient.goal
    z = pgd_cosine(patient.threat, steps=30, loss=dlr)(patient.model, patient.x, goal, patient.rng.at("scale"))
    with torch.no_grad():
        fell = int((alike & goal.reached(patient.model(z))).sum())
    evidence += f"; a climb of DLR breaks {fell} of these {int(alike.sum())}"
    return question.answered(evidence, bad=fell > 0.1 * int(alike.sum()))


@asks(
    "precision",
    "half precision",
    threshold="float32",
    serious="warning",
    remedy="audit the model in float32 as well",
)
def outputs_have_enough_digits(patient: Patient, question: Question) -> Check:
    """Does the model compute in half precision, in which small changes of the input are lost?"""
    dtype, inside = (str(kind).removeprefix("torch.") for kind in (patient.outputs.dtype, patient.half))
    if patient.half not in (None, patient.outputs.dtype):
        return question.answered(f"outputs are {dtype}, computed in {inside}", bad=True)
    return question.answered(f"outputs are {dtype}", bad=patient.outputs.dtype in HALF)


@asks(
    "double-precision",
    "outputs change by more than 1e-3 of the best class's lead",
    threshold="1e-3",
    remedy="sums cancel inside of the model: mend the arithmetic, and attack it in double precision as well",
)
def more_digits_change_nothing(patient: Patient, question: Question) -> Check:
    """Does the model say the same in double precision?"""
    module = patient.victim.module
    if module is None or not patient.steady:
        return question.skipped("no torch module to copy" if module is None else "outputs change by themselves")
    if patient.half:
        return question.skipped("the model computes in half precision")
    if sum(part.nbytes for part in module.state_dict().values() if isinstance(part, Tensor)) > COPIED:
        return question.skipped("the model is too large to copy")
    try:
        with torch.no_grad(), as_written():
            outputs = patient.task.view(copy.deepcopy(module).double())(patient.x.double())
    except Exception as error:  # whatever it raises: it may say which type it takes
        return question.skipped(f"it does not run there ({line(error)[:80]})")
    change = float(patient.apart(outputs).max())
    evidence = f"in double precision outputs change by {change:.1g} of {patient.lead}"
    return question.answered(evidence, bad=change > 1e-3)


INPUTS = (
    inputs_are_finite,
    inputs_are_in_the_box,
    eps_has_the_unit_of_the_data,
    examples_are_different,
)
OUTPUTS = (labels_fit_the_outputs,)
BEHAVIOUR = (
    outputs_are_logits,
    outputs_have_enough_digits,
    more_digits_change_nothing,
    labels_belong_to_the_inputs,
    classes_are_balanced,
    scaling_is_right,
    answers_are_the_same_each_time,
    rows_do_not_see_each_other,
    calls_leave_no_trace,
    answers_take_no_optimisation,
    small_changes_are_seen,
    losses_are_smooth,
    scores_follow_words,
)
GRADIENTS = (
    gradients_are_there,
    gradients_see_the_whole_model,
    units_pass_gradients_on,
)
SLOPES = (
    losses_are_not_saturated,
    gradients_are_slopes,
    gradients_hold_nearby,
    success_is_not_lost,
    climbs_level_off,
    climbs_change_more_than_the_scale,
)
LOOKS: tuple[Look[Patient], ...] = (model_is_in_inference_mode, *INPUTS, *OUTPUTS, *BEHAVIOUR, *GRADIENTS, *SLOPES)
"""All that the doctor looks at, in its order."""


OF_AMOUNTS = (
    inputs_are_in_the_box,
    scaling_is_right,
    small_changes_are_seen,
    losses_are_smooth,
    more_digits_change_nothing,
)
"""Looks at inputs as amounts, which the numbers of words are not."""

OF_SENSE = (labels_belong_to_the_inputs, scaling_is_right)
"""Looks for a better answer to other inputs, or with other labels."""

OF_CLASSES = (outputs_are_logits, classes_are_balanced, climbs_change_more_than_the_scale)
"""Looks at outputs as a score for every class."""


@dataclass(frozen=True)
class Diagnosis:
    """What the doctor found, and what it cost.

    `winners` are the classes that are labels of the sample, or decisions on a climb, where there was one. `rivals` says
    whether networks inside of the model decide otherwise than it does, `unmoved` how much of the sample none of the
    others makes wrong, where answers are no classes.
    """

    checks: tuple[Check, ...]
    classes: int
    differentiable: bool
    winners: tuple[int, ...]
    rivals: bool
    unmoved: float
    forward: int
    backward: int

    def failed(self, name: str) -> bool:
        """Whether this check failed."""
        return self._ended(name, "fail")

    def warned(self, name: str) -> bool:
        """Whether this check warned."""
        return self._ended(name, "warn")

    def _ended(self, name: str, outcome: str) -> bool:
        return any(check.name == name and check.outcome == outcome for check in self.checks)

    @property
    def invalid(self) -> bool:
        """Whether a failure leaves no number to be believed."""
        return any(check.fatal for check in self.checks)


@with_gradients()
def examine(victim: Victim, data: Data, threat: Ball, *, seed: int = 0) -> Diagnosis:
    """Look over the set-up: model, data and threat together.

    Costs about 100 forward and 55 backward passes on each of at most 64 examples.
    """
    places = spread(len(data), SAMPLE)
    x, y = data.take(places)
    x, y = x.to(home(victim)), y.to(home(victim))
    model, rng = of(data).view(asked(victim)), Streams.of(seed, places).at("doctor")
    patient = Patient(Counted(model), victim, data, threat, x, y, rng)
    checks = _seen((model_is_in_inference_mode,), patient)  # as it came; the rest is asked as it is attacked
    climbs = victim.access == "gradients" and not threat.discrete  # slopes of words are asked for by other means
    with inference(victim):
        for group in (INPUTS, OUTPUTS, BEHAVIOUR, *((GRADIENTS, SLOPES) if climbs else ())):
            if group is SLOPES and patient.margin_gradient is None:
                found = [look.question.skipped("no gradients") for look in SLOPES]
            else:
                found = _seen(group, patient)
            checks += found
            if any(check.fatal for check in found):
                break  # the groups after it could not even run, or would only repeat it
        seen, unsound = vars(patient), any(check.fatal for check in checks)
        climbed = "climb" in seen
        rival = climbed and bool(patient.classes) and patient.steady and _rivals(patient)
    return Diagnosis(
        checks=tuple(checks),
        classes=patient.classes if "outputs" in seen else 0,
        differentiable=victim.access == "gradients" and seen.get("margin_gradient", x) is not None,  # or not asked
        winners=_winners(patient) if climbed and patient.classes else (),
        rivals=rival,
        unmoved=0.0 if unsound or patient.classes else float(patient.exchanged.all(0).float().mean()),
        forward=patient.model.forward,
        backward=patient.model.backward,
    )


def _winners(patient: Patient) -> tuple[int, ...]:
    """The classes that are labels of the sample, or decisions on the climb."""
    return tuple(sorted({*patient.y.tolist(), *patient.climb.outputs.argmax(2).flatten().tolist()}))


def _rivals(patient: Patient) -> bool:
    """Whether they decide otherwise of the sample, within the threat, or at the end of a climb."""
    try:
        return any(rivals(patient.model, x) for x in (patient.x, patient.within, patient.climb.end))
    except BadInput:  # it cannot be listened to
        return False


def _seen(looks: Sequence[Look[Patient]], patient: Patient) -> list[Check]:
    idle: dict[Look[Patient], str] = {}
    if patient.threat.discrete:
        idle |= dict.fromkeys(OF_AMOUNTS, "inputs are words, no amounts")
    if not isinstance(patient.task, Classification):
        idle |= dict.fromkeys(OF_CLASSES, "answers are no classes")
    if patient.task.silence:
        idle |= dict.fromkeys(OF_SENSE, "a model that says nothing is right")
    asked = (look.question.skipped(idle[look]) if look in idle else look(patient) for look in looks)
    return [check for check in asked if check is not None]
