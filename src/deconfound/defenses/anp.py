"""ANP: find the units that a small change of their batch norm turns against the network, and silence them.

Wu and Wang, "Adversarial Neuron Pruning Purifies Backdoored Deep Models", NeurIPS 2021, arXiv:2110.14430. Scale and
shift of every channel are perturbed to the worst, and a mask per channel learns to do without those that matter most
then. Unlike the released code: the perturbation is projected to its radius after the step (`project`), and the
threshold is chosen on held-out clean images, not by looking at the test set. It needs redundancy: with some hundred
channels accuracy goes before the backdoor does, and that is a result about the network, not a fault.
"""

from typing import ClassVar

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrize

from deconfound.defenses.batch_norms import batch_norms, silence
from deconfound.defenses.repair import accuracy, clean_images, curve, gently, halves, suspect
from deconfound.defenses.workbench import GRADIENT, Adaptive, Defended, Workbench
from deconfound.errors import UserError
from deconfound.fields import Count, Fraction01, NonNegative, OpenFraction, Positive, hyperparameters
from deconfound.models.classifier import Classifier
from deconfound.optimisers import batches
from deconfound.types import Images


@hyperparameters
class ANP:
    """eps: largest perturbation of a scale or shift, relative to it; steps: signed steps of size eps / steps, from a
    uniform start; project: keep it within eps (the released code lets it reach 2 eps). clean: weight of the
    cross-entropy without perturbation, the rest is that with it. iterations: steps of the masks, SGD of rate lr and
    momentum 0.9, on one half of the clean images in batches of the run's recipe.

    step, highest: thresholds from 0 to `highest`; channels with a mask up to the threshold lose their scale.
    tolerance: fall of accuracy on the other half, relative to that of the start, before which the threshold stays.
    """

    needs: ClassVar[tuple[str, ...]] = ("starts_from",)
    adaptive: ClassVar[Adaptive] = Adaptive(
        "it looks for single channels that turn the network by themselves: a trigger that many channels share with"
        " clean images has none; and the result is a network without further parts",
        attacks=GRADIENT,
        poisons=("adap_blend", "blend", "input_aware", "badnets"),
    )

    eps: NonNegative = 0.4
    steps: Count = 1
    project: bool = True
    clean: Fraction01 = 0.2
    iterations: Count = 2000
    lr: Positive = 0.2
    step: OpenFraction = 0.05
    highest: Fraction01 = 0.9
    tolerance: Fraction01 = 0.1

    def __call__(self, bench: Workbench) -> Defended:
        """Learn masks on a copy of the network, then silence channels of another."""
        fitted, held = halves(bench)
        masked = gated(suspect(bench))
        per_epoch = len(batches(len(fitted.y), bench.recipe.batch_size))
        epochs = -(-self.iterations // per_epoch)
        recipe = gently(bench.recipe, epochs=epochs, lr=self.lr, weight_decay=0.0, schedule="constant")
        bench.fit(
            masked,
            NeuronPerturbation(self),
            phase="masks",
            recipe=recipe,
            data=fitted,
            watch=lambda step, model: True,  # asked once, after the last iteration
            every=self.iterations,
        )
        return self._pruned(bench, masks(masked), held)

    def _pruned(self, bench: Workbench, found: dict[str, Tensor], held: Images) -> Defended:
        """The start without the channels below the highest threshold that accuracy allows."""
        kept, threshold, pruned = suspect(bench), "none", 0
        points = [(-1.0, accuracy(kept, held))]
        for place in range(int(self.highest / self.step + 1e-9) + 1):
            tried = suspect(bench)
            count = cut(tried, found, place * self.step)
            points.append((place * self.step, accuracy(tried, held)))
            if points[-1][1] < (1 - self.tolerance) * points[0][1] - 1e-9:
                break
            kept, threshold, pruned = tried, f"{place * self.step:g}", count
        notes: dict[str, float | str] = {
            "clean_images": len(clean_images(bench).y),
            "held_out_images": len(held.y),
            "units": sum(len(mask) for mask in found.values()),
            "units_pruned": pruned,
            "threshold": threshold,
            "held_accuracy_before": points[0][1],
            "held_accuracy_curve": curve(points[1:]),
        }
        return Defended(kept, notes=notes)


class Gate(nn.Module):
    """Values (C,) of a batch norm times mask plus noise; a scale has a mask that learns, a shift keeps 1."""

    mask: Tensor
    noise: Tensor

    def __init__(self, values: Tensor, *, learns: bool) -> None:
        super().__init__()
        ones = torch.ones_like(values.detach())
        self.mask = nn.Parameter(ones, requires_grad=learns)
        self.register_buffer("noise", torch.zeros_like(ones), persistent=False)

    def forward(self, values: Tensor) -> Tensor:
        """The values as the network sees them."""
        return values * (self.mask + self.noise)


def gated(model: Classifier) -> Classifier:
    """The model itself, frozen but for a mask of ones on every channel of its batch norms; UserError without any."""
    model.requires_grad_(False)
    norms = batch_norms(model)
    if not norms:
        raise UserError(
            "anp: expected a network with batch norms, whose channels it perturbs, got one without"
        )
    for norm in norms.values():
        for name, learns in (("weight", True), ("bias", False)):
            parametrize.register_parametrization(norm, name, Gate(getattr(norm, name), learns=learns))
    return model


def gates(model: nn.Module) -> list[Gate]:
    """Gates of a gated model, scale and shift of each batch norm in turn."""
    return [module for module in model.modules() if isinstance(module, Gate)]


def masks(model: nn.Module) -> dict[str, Tensor]:
    """Masks (C,) of a gated model by name of their batch norm."""
    return {
        name: norm.parametrizations["weight"][0].mask.detach().clone()  # type: ignore[index, union-attr]
        for name, norm in batch_norms(model).items()
    }


def cut(model: nn.Module, found: dict[str, Tensor], threshold: float) -> int:
    """Set the scale of channels whose mask is at most the threshold to zero, in place; how many there are."""
    chosen = {name: (mask <= threshold + 1e-9).nonzero().squeeze(1) for name, mask in found.items()}
    for name, channels in chosen.items():
        silence(model.get_submodule(name), channels, shift=False)
    return sum(len(channels) for channels in chosen.values())


class NeuronPerturbation:
    """The loss of the masks: cross-entropy as it is and under the worst perturbation, weighed."""

    def __init__(self, spec: ANP) -> None:
        self.spec = spec

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, *, rng: Generator) -> Tensor:
        """clean * CE + (1 - clean) * CE under the perturbation; leaves the noise for `after_step` to clear."""
        clean = F.cross_entropy(model(x), y)
        self.perturb(model, x, y, rng=rng)
        return self.spec.clean * clean + (1 - self.spec.clean) * F.cross_entropy(model(x), y)

    def perturb(self, model: nn.Module, x: Tensor, y: Tensor, *, rng: Generator) -> None:
        """Signed ascent of the cross-entropy in the noise of all gates, from a uniform start."""
        spec, found = self.spec, gates(model)
        for gate in found:
            start = 2 * torch.rand(gate.noise.shape, generator=rng) - 1
            gate.noise = (spec.eps * start).to(gate.noise)
        for _ in range(spec.steps):
            for gate in found:
                gate.noise = gate.noise.detach().requires_grad_()
            loss = F.cross_entropy(model(x), y)
            slopes = torch.autograd.grad(loss, [gate.noise for gate in found])
            for gate, slope in zip(found, slopes, strict=True):
                moved = gate.noise.detach() + spec.eps / spec.steps * slope.sign()
                gate.noise = moved.clamp(-spec.eps, spec.eps) if spec.project else moved

    @torch.no_grad()
    def after_step(self, model: nn.Module) -> None:
        """Masks back into [0, 1], noise gone."""
        for gate in gates(model):
            gate.mask.clamp_(0, 1)
            gate.noise = torch.zeros_like(gate.noise)
