"""I-BAU: unlearn whatever one perturbation of all images can do, by an implicit hyper-gradient.

Zeng, Chen, Park, Mao, Jin and Jia, "Adversarial Unlearning of Backdoors via Implicit Hypergradient", ICLR 2022,
arXiv:2110.03735: min over weights of the loss at the perturbation that is worst for them. Each round finds the
perturbation d anew; the gradient of the weights then goes through d as well, by a fixed-point iteration of the map d
-> d - rate * gradient. The network stays in evaluation mode. Unlike the released code: at least one image of a batch
carries d (one per cent of fewer than a hundred is none, and the gradient through d is zero); the map looks at the
batch at hand, not always at the first; and the clean images are no test images. As there, d knows no bound but its
penalty, unless `radius` sets the one of the paper, and images with it are not clipped to [0, 1].
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import ClassVar

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from deconfound.defenses.repair import accuracy, clean_images, gently, suspect
from deconfound.defenses.workbench import GRADIENT, Adaptive, Defended, Pace, Workbench
from deconfound.fields import Count, NonNegative, OpenFraction, Positive, hyperparameters
from deconfound.models.classifier import eval_mode, to_unit
from deconfound.optimisers import batches
from deconfound.types import Images


@hyperparameters
class IBAU:
    """rounds: each finds d, then takes one pass of the weights over the clean images, all of `val`; lr: of Adam.

    passes, inner_lr: gradient steps of d over the clean images in batches, against the network's own answers;
    penalty: weight of the squared norm of d there; radius: largest norm (l2, pixel units) of d, projected after each
    step, or none. terms: of the fixed-point iteration; map_rate: step of its map.
    portion: fraction of a batch that carries d, one image at least. simplified: all images carry d, and no gradient
    goes through it (plain adversarial unlearning).
    """

    needs: ClassVar[tuple[str, ...]] = ("starts_from",)
    adaptive: ClassVar[Adaptive] = Adaptive(
        "it unlearns one perturbation that is the same for all images: a trigger of each image's own, or a warp, is"
        " none; and the result is a network without further parts",
        attacks=GRADIENT,
        poisons=("input_aware", "wanet", "bpp", "badnets"),
    )

    rounds: Count = 5
    lr: Positive = 1e-3
    passes: Count = 1
    inner_lr: Positive = 10.0
    penalty: NonNegative = 1e-3
    radius: Positive | None = None
    terms: Count = 5
    map_rate: Positive = 0.1
    portion: OpenFraction = 0.01
    simplified: bool = False

    def __call__(self, bench: Workbench) -> Defended:
        """Unlearn on a copy of the network."""
        model, images = suspect(bench), clean_images(bench)
        before = accuracy(model, images)
        gentle = gently(bench.recipe, epochs=self.rounds, lr=self.lr, weight_decay=0.0, schedule="constant")
        recipe = replace(gentle, optimizer="adam", crop=0, flip=False)
        objective = Unlearning(self, images, recipe.batch_size)
        bench.fit(model, objective, recipe=recipe, data=images)
        notes: dict[str, float | str] = {"clean_images": len(images.y), "accuracy_before": before}
        if objective.delta is not None:
            notes["perturbation_norm"] = float(objective.delta.norm())
        return Defended(model, notes=notes)


class Unlearning:
    """The outer loss; holds the perturbation d (1, C, H, W) of the round."""

    def __init__(self, spec: IBAU, images: Images, batch_size: int) -> None:
        self.spec, self.images, self.batch_size = spec, images, batch_size
        self.round = -1
        self.delta: Tensor | None = None

    def pace(self, at: Pace) -> None:
        """A round is an epoch: its perturbation is found before its first batch."""
        if at.epoch != self.round:
            self.round, self.delta = at.epoch, None

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, *, rng: Generator) -> Tensor:
        """Cross-entropy of a batch in which some images carry d, with the gradient that goes through d."""
        spec = self.spec
        model.eval()  # the loop sets the mode again before every step
        if self.delta is None:
            self.delta = universal(model, self.images, spec, self.batch_size)
        if spec.simplified:
            return F.cross_entropy(model(x + self.delta), y)
        carries = torch.zeros(len(x), 1, 1, 1)
        carries[torch.randperm(len(x), generator=rng)[: max(1, int(spec.portion * len(x)))]] = 1
        carries = carries.to(x)

        def outer(delta: Tensor) -> Tensor:
            return F.cross_entropy(model(x + carries * delta), y)

        def inner(delta: Tensor) -> Tensor:
            return spec.penalty * delta.square().sum() - F.cross_entropy(model(x + delta), y)

        with sdpa_kernel(SDPBackend.MATH):  # the other kernels of attention cannot be differentiated twice
            return through(outer, inner, self.delta, rate=spec.map_rate, terms=spec.terms)

    def state(self) -> dict[str, Tensor]:
        """The perturbation of the last round, for the record: the next round finds its own."""
        return {} if self.delta is None else {"delta": self.delta}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """The inverse of `state`."""
        self.delta = state.get("delta")


def through(
    outer: Callable[[Tensor], Tensor],
    inner: Callable[[Tensor], Tensor],
    delta: Tensor,
    *,
    rate: float,
    terms: int,
) -> Tensor:
    """outer(delta), whose gradient by the weights goes through delta = argmin inner as well.

    With the map M(d) = d - rate * inner'(d): the direct gradient of outer, plus M's derivative by the weights applied
    to v, the sum over k < terms of (dM/dd)^k outer'(d), which replaces (1 - dM/dd)^-1 outer'(d).
    """
    delta = delta.detach().requires_grad_()
    value = outer(delta)
    (slope,) = torch.autograd.grad(value, delta, retain_graph=True)
    (pull,) = torch.autograd.grad(inner(delta), delta, create_graph=True)
    mapped = delta - rate * pull
    v = slope
    for _ in range(terms - 1):
        (carried,) = torch.autograd.grad(mapped, delta, grad_outputs=v, retain_graph=True)
        v = carried + slope
    indirect = (mapped * v).sum()
    return value + indirect - indirect.detach()


def universal(model: nn.Module, images: Images, spec: IBAU, batch_size: int) -> Tensor:
    """The perturbation (1, C, H, W) of a round: gradient steps from zero away from the network's own answers."""
    device = next(model.parameters()).device
    delta = torch.zeros(1, *images.x.shape[1:], device=device)
    with eval_mode(model):
        for part in batches(len(images.y), batch_size) * spec.passes:
            x = to_unit(images.x[part].to(device))
            delta.requires_grad_()
            loss = spec.penalty * delta.square().sum() - F.cross_entropy(model(x + delta), model(x).argmax(1))
            (slope,) = torch.autograd.grad(loss, delta)
            delta = (delta - spec.inner_lr * slope).detach()
            if spec.radius is not None:
                delta *= min(1.0, spec.radius / (float(delta.norm()) + 1e-12))
    return delta
