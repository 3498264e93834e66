"""Networks broken on purpose: each wraps an honest network, and looks more robust than it is.

Every class here is a fault that was published as a defence, or that a user made. None is meant to be hard to see
through; all are meant to be seen.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from sparring.networks import wong_cnn
from sparring.threats import linf
from sparring.zoo.honest import adversarially_trained_cnn, convolutional, fresh, relu, trained, untrained_convolutional
from sparring.zoo.specimens import specimen


class Before(nn.Module):
    """A network behind a change of its inputs."""

    def __init__(self, change: nn.Module, network: nn.Module) -> None:
        super().__init__()
        self.change, self.network = change, network
        self.train(network.training)

    def forward(self, x: Tensor) -> Tensor:
        """Logits of `x`, changed."""
        logits: Tensor = self.network(self.change(x))
        return logits


class Rounding(nn.Module):
    """Inputs on 8 levels (Xu et al., 2018, feature squeezing)."""

    def __init__(self, levels: int = 8) -> None:
        super().__init__()
        self.steps = levels - 1

    def forward(self, x: Tensor) -> Tensor:
        """`x` on the nearest level."""
        return (x * self.steps).round() / self.steps


class Detach(nn.Module):
    """The same values, cut off from the graph."""

    def forward(self, x: Tensor) -> Tensor:
        """`x`, without its past."""
        return x.detach()


class Noise(nn.Module):
    """Gaussian noise at inference (Liu et al., 2018, random self-ensemble)."""

    def __init__(self, sigma: float = 0.1) -> None:
        super().__init__()
        self.sigma = sigma

    def forward(self, x: Tensor) -> Tensor:
        """`x` and noise."""
        return x + self.sigma * torch.randn_like(x)


class ResizeAndPad(nn.Module):
    """A random size and a random place, once a call (Xie et al., 2018)."""

    def __init__(self, smallest: int = 20) -> None:
        super().__init__()
        self.smallest = smallest

    def forward(self, x: Tensor) -> Tensor:
        """`x` `(B, C, H, W)`, smaller, on black."""
        full = x.shape[2]
        size = int(torch.randint(self.smallest, full + 1, ()))
        top, left = (int(torch.randint(0, full - size + 1, ())) for _ in range(2))
        small = functional.interpolate(x, size=(size, size), mode="bilinear", align_corners=False)
        return functional.pad(small, (left, full - size - left, top, full - size - top))


class Thermometer(nn.Module):
    """Each pixel as the levels that it is above (Buckman et al., 2018)."""

    def __init__(self, levels: int = 8) -> None:
        super().__init__()
        self.register_buffer("levels", (torch.arange(levels) + 0.5) / levels)

    def forward(self, x: Tensor) -> Tensor:
        """`(B, C, H, W)` to `(B, C * levels, H, W)`, zeros and ones."""
        above = x.unsqueeze(2) > self.get_buffer("levels").view(-1, 1, 1)
        return above.flatten(1, 2).float()


class BlockRounding(nn.Module):
    """The cosine coefficients of blocks of 4 by 4, on a grid: JPEG's loss without its file (Das et al., 2018)."""

    def __init__(self, step: float = 0.5) -> None:
        super().__init__()
        k, n = torch.arange(4)[:, None], torch.arange(4)[None]
        cosines = torch.cos(math.pi * (2 * n + 1) * k / 8) * torch.where(k == 0, 0.5, math.sqrt(0.5))
        self.register_buffer("cosines", cosines)
        self.step = step

    def forward(self, x: Tensor) -> Tensor:
        """`x` `(B, C, H, W)` after the loss; height and width in fours."""
        cosines = self.get_buffer("cosines")
        blocks = x.unfold(2, 4, 4).unfold(3, 4, 4)
        coefficients = ((cosines @ blocks @ cosines.T) / self.step).round() * self.step
        back = (cosines.T @ coefficients @ cosines).transpose(3, 4)
        return back.reshape(x.shape)


class Crumple(nn.Module):
    """A wave too fine to matter and too steep to climb."""

    def __init__(self, height: float = 0.002, frequency: float = 1e4) -> None:
        super().__init__()
        self.height, self.frequency = height, frequency

    def forward(self, x: Tensor) -> Tensor:
        """`x` and the wave."""
        return x + self.height * torch.sin(self.frequency * x)


class Absorb(nn.Module):
    """A large number added and taken away again: float32 keeps sixteenths."""

    def forward(self, x: Tensor) -> Tensor:
        """`x`, less its last digits, with the gradient of `x`."""
        return (x + 2.0**19) - 2.0**19


class Residue(nn.Module):
    """What 8 bits cannot store, fifty times as large."""

    def forward(self, x: Tensor) -> Tensor:
        """`x`, where it is a multiple of 1/255."""
        return x + 50 * (x - (255 * x).round() / 255)


class _Contrary(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return -gradients[0]


class Contrary(nn.Module):
    """The identity, whose backward pass is another function's."""

    def forward(self, x: Tensor) -> Tensor:
        """`x`, with the gradient turned round."""
        turned: Tensor = _Contrary.apply(x)  # type: ignore[no-untyped-call]
        return turned


class Root(nn.Module):
    """`sqrt(x^2)`: the identity for inputs above zero, with a gradient of 0 / 0 at zero."""

    def forward(self, x: Tensor) -> Tensor:
        """`x`, or what it would be if it could be negative."""
        return x.square().sqrt()


class FewWin(nn.Module):
    """Only the largest tenth of the units passes (k-WTA; Xiao et al., 2020)."""

    def __init__(self, share: float = 0.1) -> None:
        super().__init__()
        self.share = share

    def forward(self, x: Tensor) -> Tensor:
        """`x` `(B, *shape)`, with zeros for those that lose."""
        flat = x.flatten(1)
        least = flat.topk(max(1, int(self.share * flat.shape[1])), dim=1).values[:, -1:]
        return (flat * (flat >= least)).view_as(x)


class Sign(nn.Module):
    """Binary activations: trained straight through (Bengio et al., 2013), attacked without."""

    def forward(self, x: Tensor) -> Tensor:
        """-1, 0 or 1."""
        return x + (x.sign() - x).detach() if self.training else x.sign()


class BatchMean(nn.Module):
    """Logits less half of their mean over the batch."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.train(network.training)

    def forward(self, x: Tensor) -> Tensor:
        """Logits of `x` in this company."""
        logits: Tensor = self.network(x)
        return logits - 0.5 * logits.mean(0)


class Masked(nn.Module):
    """Logits, and a class more that is out of the question, at -1e9: an action, or a task, that is not on offer."""

    def forward(self, logits: Tensor) -> Tensor:
        """`(B, K)` to `(B, K + 1)`."""
        return torch.cat([logits, torch.full_like(logits[:, :1], -1e9)], 1)


class Gate(nn.Module):
    """A robust network for inputs whose border is not white or black, an accurate one for the others."""

    def __init__(self, accurate: nn.Module, robust: nn.Module) -> None:
        super().__init__()
        self.accurate, self.robust = accurate, robust

    def forward(self, x: Tensor) -> Tensor:
        """Logits of `x` `(B, C, H, W)`, by one of the two."""
        edges = (x[..., :2, :], x[..., -2:, :], x[..., :2], x[..., -2:])
        border = torch.cat([edge.flatten(1) for edge in edges], 1)
        odd = (border > 0.02).to(x.dtype).mean(1, keepdim=True) > 0.05
        return torch.where(odd, self.robust(x), self.accurate(x))


class EarlyExit(nn.Module):
    """An accurate network for what it is sure of, a robust one for the rest (Teerapittayanon et al., 2016)."""

    def __init__(self, first: nn.Module, second: nn.Module, sure: float = 0.9) -> None:
        super().__init__()
        self.first, self.second, self.sure = first, second, sure

    def forward(self, x: Tensor) -> Tensor:
        """Logits of `x`, row by row of the first or of the second."""
        logits: Tensor = self.first(x)
        rest = logits.softmax(1).amax(1) < self.sure
        if rest.any():
            logits = logits.clone()
            logits[rest] = self.second(x[rest])
        return logits


class Dimmed(nn.Module):
    """Logits at a temperature that follows the brightness of the input: darker is less sure, and no less right."""

    def __init__(self, network: nn.Module, steepness: float = 300) -> None:
        super().__init__()
        self.network, self.steepness = network, steepness

    def forward(self, x: Tensor) -> Tensor:
        """Logits, times what no decision depends on."""
        scale = (self.steepness * (x.flatten(1).mean(1, keepdim=True) - 0.2)).exp()
        logits: Tensor = scale * self.network(x)
        return logits


class Decoys(nn.Module):
    """Three real classes that follow the best one at a distance, and sway with directions that no decision knows."""

    def __init__(self, network: nn.Module, size: int, distance: float = 0.3) -> None:
        super().__init__()
        self.network, self.distance = network, distance
        seed = torch.Generator().manual_seed(0)
        self.register_buffer("sway", torch.randn(size, 10, generator=seed) / 10)

    def forward(self, x: Tensor) -> Tensor:
        """Logits, with the three classes after the best one close behind it."""
        logits: Tensor = 3 * self.network(x)
        top, winner = logits.max(1, keepdim=True)
        after = (torch.arange(10, device=x.device) - winner) % 10
        swaying = top - self.distance * (1 - 0.45 * (x.flatten(1) @ self.get_buffer("sway")).tanh())
        return torch.where((after >= 1) & (after <= 3), torch.maximum(logits, swaying), logits)


class Steep(nn.Module):
    """The error function of large numbers: smooth, and a step to all but a few units."""

    def __init__(self, steepness: float = 1.0) -> None:
        super().__init__()
        self.steepness = steepness

    def forward(self, x: Tensor) -> Tensor:
        """Between -1 and 1."""
        return torch.erf(self.steepness * x)


class LiveStatistics(nn.BatchNorm2d):
    """Batch normalisation that uses and updates the batch's statistics in every mode."""

    def forward(self, x: Tensor) -> Tensor:
        """`x`, normalised by what is in the batch."""
        return functional.batch_norm(
            x, self.running_mean, self.running_var, self.weight, self.bias, training=True, momentum=0.1
        )


class Purify(nn.Module):
    """A step towards what the network is sure of, by its own gradient, before it answers (Alfarra et al., 2022)."""

    def __init__(self, network: nn.Module, size: float = 0.05) -> None:
        super().__init__()
        self.network, self.size = network, size
        self.train(network.training)

    def forward(self, x: Tensor) -> Tensor:
        """Logits of `x`, purified."""
        with torch.enable_grad():
            z = x.detach().requires_grad_()
            sure = self.network(z).log_softmax(1).amax(1).sum()
            (gradient,) = torch.autograd.grad(sure, z)
        logits: Tensor = self.network((x + self.size * gradient.sign()).clamp(0, 1))
        return logits


class Dropout(nn.Module):
    """Dropout that knows no inference mode (Dhillon et al., 2018, does it to activations)."""

    def forward(self, x: Tensor) -> Tensor:
        """`x`, with a third of it gone."""
        return functional.dropout(x, 0.3, training=True)


class Lead(nn.Module):
    """A steep hard sigmoid of how far each class leads the best other."""

    def forward(self, logits: Tensor) -> Tensor:
        """Ones and zeros, nearly always."""
        top = logits.topk(2, dim=1).values
        best_other = torch.where(logits == top[:, :1], top[:, 1:], top[:, :1])
        return functional.hardsigmoid(50 * (logits - best_other))


class Affine(nn.Module):
    """`scale x + shift`."""

    def __init__(self, scale: float, shift: float = 0.0) -> None:
        super().__init__()
        self.scale, self.shift = scale, shift

    def forward(self, x: Tensor) -> Tensor:
        """The input, or the logits, at another scale."""
        return self.scale * x + self.shift


class Half(nn.Module):
    """A network in bfloat16."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network.bfloat16()

    def forward(self, x: Tensor) -> Tensor:
        """Logits with three digits."""
        logits: Tensor = self.network(x.bfloat16())
        return logits


def _stack(*sizes: int, between: Callable[[], nn.Module]) -> nn.Module:
    """Linear layers of these sizes, with something between them."""
    layers = [part for a, b in itertools.pairwise(sizes) for part in (nn.Linear(a, b), between())]
    return nn.Sequential(nn.Flatten(), *layers[:-1])


def behind(change: nn.Module) -> nn.Module:
    """The honest network behind a change of its inputs."""
    return Before(change, relu()).eval()


@specimen("input rounding", "broken", "gradients", "quantised-inputs")
def input_rounding() -> nn.Module:
    """Inputs rounded to 8 levels: no gradient."""
    return behind(Rounding())


@specimen("detach", "broken", "gradients", "access")
def detach() -> nn.Module:
    """Inputs cut off from the graph: no path for a gradient."""
    return behind(Detach())


@specimen("temperature", "broken", "saturation")
def temperature() -> nn.Module:
    """Logits times 1000: the cross-entropy underflows (Carlini and Wagner, 2016, on distillation)."""
    return nn.Sequential(relu(), Affine(1000)).eval()


@specimen("softmax outputs", "broken", "logits")
def softmax_outputs() -> nn.Module:
    """Probabilities in place of logits."""
    return nn.Sequential(relu(), nn.Softmax(1)).eval()


@specimen("saturated softmax", "broken", "logits", "gradients", "black-box", "adaptive")
def saturated_softmax() -> nn.Module:
    """Probabilities of logits times 1000: zeros and ones."""
    return nn.Sequential(relu(), Affine(1000), nn.Softmax(1)).eval()


@specimen("hard sigmoid", "broken", "gradients", "black-box", "adaptive")
def hard_sigmoid() -> nn.Module:
    """Scores that a steep hard sigmoid has cut off at 0 and 1."""
    return nn.Sequential(relu(), Lead()).eval()


@specimen("rounded scores", "broken", "gradients", "quantised-inputs")
def rounded_scores() -> nn.Module:
    """Logits rounded to whole numbers."""
    return nn.Sequential(relu(), Affine(7), Rounding(2)).eval()


@specimen("few winners", "broken", "hidden-paths", "adaptive")
def few_winners() -> nn.Module:
    """k-WTA activations: the gradient changes at every step (Xiao et al., 2020)."""
    return trained(fresh(lambda: _stack(784, 1024, 1024, 10, between=FewWin)), epochs=2, lr=1e-3)


@specimen("binary activations", "broken", "gradients")
def binary_activations() -> nn.Module:
    """Signs in place of activations."""
    return trained(fresh(lambda: _stack(784, 128, 10, between=Sign)))


@specimen("thermometer", "broken", "gradients", "quantised-inputs")
def thermometer() -> nn.Module:
    """Thermometer-coded inputs (Buckman et al., 2018)."""
    return trained(Before(Thermometer(), fresh(lambda: _stack(8 * 784, 64, 10, between=nn.ReLU))))


@specimen("block rounding", "broken", "gradients", "quantised-inputs")
def block_rounding() -> nn.Module:
    """Rounded cosine coefficients, as in JPEG (Das et al., 2018)."""
    return behind(BlockRounding())


@specimen("random resize", "broken", "randomness")
def random_resize() -> nn.Module:
    """Inputs at a random size, at a random place (Xie et al., 2018)."""
    return trained(Before(ResizeAndPad(), wong_cnn()), epochs=6, lr=3e-3)


@specimen("noise", "broken", "randomness")
def noise() -> nn.Module:
    """Gaussian noise added to the input of every call."""
    return behind(Noise())


@specimen("dropout left on", "broken", "randomness")
def dropout_left_on() -> nn.Module:
    """Dropout that is active at inference."""
    return behind(Dropout())


@specimen("train mode", "broken", "mode", verdict="invalid")
def train_mode() -> nn.Module:
    """Handed over in train mode, with batch normalisation and dropout."""
    return convolutional().train()


@specimen("live statistics", "broken", "batch-independence", "state")
def live_statistics() -> nn.Module:
    """Batch normalisation by the batch's own statistics, in inference mode too."""
    model = convolutional()
    assert isinstance(model, nn.Sequential)
    live = LiveStatistics(8)
    live.load_state_dict(model[1].state_dict())
    model[1] = live
    return model.eval()


@specimen("batch mean", "broken", "batch-independence")
def batch_mean() -> nn.Module:
    """Logits that depend on what else is in the batch."""
    return BatchMean(relu()).eval()


@specimen("batch mean, a masked class", "broken", "batch-independence")
def masked_batch_mean() -> nn.Module:
    """The same, with a class at -1e9, next to which every change looks small."""
    return BatchMean(nn.Sequential(relu(), Masked())).eval()


@specimen("gated", "broken", "hidden-paths", "adaptive")
def gated() -> nn.Module:
    """A robust network, that gradients see, where a border looks attacked; an accurate one elsewhere."""
    return Gate(relu(), adversarially_trained_cnn()).eval()


@specimen("early exit", "broken", "hidden-paths", "adaptive")
def early_exit() -> nn.Module:
    """What the accurate network is not sure of is answered by a robust one: between the two, gradients change sides."""
    return EarlyExit(relu(), adversarially_trained_cnn()).eval()


@specimen("dimmed", "broken", "scale", "adaptive")
def dimmed() -> nn.Module:
    """A temperature of its own for every input: attacks dim it, and change no decision."""
    return Dimmed(relu()).eval()


@specimen("decoys", "broken", "convergence")
def decoys() -> nn.Module:
    """Three classes always come next, and are as good as out of reach: attacks climb towards them."""
    return Decoys(relu(), 784).eval()


@specimen("ripples", "broken", "convergence")
def ripples() -> nn.Module:
    """A wave as long as the threat: gradients hold nearby, and lead nowhere."""
    return behind(Crumple(height=0.03, frequency=60))


@specimen("steep units", "broken", "steep-units", "adaptive", threat=linf(0.04))
def steep_units() -> nn.Module:
    """Smooth functions, so steep that nearly all units are far from their step, and pass on no gradient."""
    network = trained(fresh(lambda: nn.Sequential(nn.Flatten(), nn.Linear(784, 256), Steep(), nn.Linear(256, 10))))
    assert isinstance(network, nn.Sequential)
    network[2] = Steep(60.0)
    return network.eval()


@specimen("purification", "broken", "inference-time-optimisation")
def purification() -> nn.Module:
    """Optimisation at inference: the input is made surer first."""
    return Purify(relu()).eval()


@specimen("contrary gradient", "broken", "finite-differences", "silent-success")
def contrary_gradient() -> nn.Module:
    """A backward pass that belongs to another function."""
    return behind(Contrary())


@specimen("zero by zero", "broken", "gradients")
def zero_by_zero() -> nn.Module:
    """A gradient of NaN wherever a pixel is black."""
    return behind(Root())


@specimen("crumpled", "broken", "shattered-gradients", "finite-differences")
def crumpled() -> nn.Module:
    """A fine, steep wave on every input: gradients point anywhere."""
    return behind(Crumple())


@specimen("hashed noise", "broken", "shattered-gradients", "loss-noise", verdict="trusted")
def hashed_noise() -> nn.Module:
    """Noise that is a function of the input, another one next to it: nothing stands, which no doubt can change."""
    return behind(Crumple(height=0.3))


@specimen("beneath the file", "broken", "loss-noise", "noise-control", "storage", threat=linf(0.01))
def beneath_the_file() -> nn.Module:
    """A network that reacts most to what no image file can hold."""
    return behind(Residue())


@specimen("absorbed digits", "broken", "double-precision", "quantised-inputs")
def absorbed_digits() -> nn.Module:
    """A sum in which float32 loses the digits of the input: rounding, with a gradient."""
    return behind(Absorb())


@specimen("half precision", "broken", "precision", "quantised-inputs")
def half_precision() -> nn.Module:
    """A network in bfloat16."""
    return Half(relu()).eval()


def _standardised(scale: float, shift: float) -> Before:
    network = trained(Before(Affine(scale, shift), fresh(untrained_convolutional)))
    assert isinstance(network, Before)
    return network


@specimen("normalised never", "broken", "scaling", verdict="invalid")
def normalised_never() -> nn.Module:
    """Trained on standardised inputs, given them as they are."""
    return _standardised(1 / 0.225, -2).network


@specimen("normalised twice", "broken", "scaling", verdict="invalid")
def normalised_twice() -> nn.Module:
    """Trained on `2x - 1`, which is done twice."""
    return Before(Affine(2, -1), _standardised(2, -1)).eval()


@specimen("divided twice", "broken", "scaling", verdict="invalid")
def divided_twice() -> nn.Module:
    """Divides by 255 what was divided already."""
    return behind(nn.Sequential(Affine(1 / 255), Affine(3, -0.06)))


@specimen("one output", "broken", "outputs-and-labels", verdict="invalid")
def one_output() -> nn.Module:
    """A single logit."""
    return fresh(lambda: nn.Sequential(nn.Flatten(), nn.Linear(784, 1))).eval()
