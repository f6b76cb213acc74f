"""NAD: fine-tune under the eyes of a fine-tuned copy, so that both attend to the same places.

Li, Lyu, Koren, Lyu, Li and Ma, "Neural Attention Distillation: Erasing Backdoor Triggers from Deep Neural Networks",
ICLR 2021, arXiv:2101.05930. The teacher is the suspicious network after fine-tuning on the clean images, the student
the network as it was. Unlike the released code there is no cut-out; crops and flips are those of the run's recipe. A
teacher that has kept the backdoor teaches it: with few images its rate decides.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import groupby
from typing import ClassVar

import torch
from pydantic import Field
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from deconfound.defenses.repair import accuracy, clean_images, gently, suspect
from deconfound.defenses.standard import cross_entropy
from deconfound.defenses.workbench import GRADIENT, Adaptive, Defended, Workbench
from deconfound.fields import Count, Fraction01, NonNegative, Positive, hyperparameters
from deconfound.models.classifier import Classifier, eval_mode


@hyperparameters
class NAD:
    """teacher_epochs, teacher_lr: fine-tuning of the teacher on the clean images, all of `val`; cosine. epochs, lr,
    weight_decay: of the student, whose rate falls to a tenth after the fraction `fall` of all steps. weights: of the
    squared difference of attention maps, from shallow to deep groups of layers; the last ones where there are fewer
    groups, and the last groups where there are more. power: p of the attention map, the sum over channels of |F|^p.
    """

    needs: ClassVar[tuple[str, ...]] = ("starts_from",)
    adaptive: ClassVar[Adaptive] = Adaptive(
        "its teacher is a fine-tuned copy: a trigger that fine-tuning does not move (spread over the picture, or met"
        " without its label in cover images) is handed on; and the result is a network without further parts",
        attacks=GRADIENT,
        poisons=("sig", "adap_blend", "blend", "badnets"),
    )

    teacher_epochs: Count = 10
    teacher_lr: Positive = 0.01
    epochs: Count = 20
    lr: Positive = 0.1
    fall: Fraction01 = 0.1
    weight_decay: NonNegative = 1e-4
    weights: tuple[NonNegative, ...] = Field(default=(500.0, 1000.0, 1000.0), min_length=1)
    power: Positive = 2.0

    def __call__(self, bench: Workbench) -> Defended:
        """Train the teacher, then the student."""
        images = clean_images(bench)
        teacher, model = suspect(bench), suspect(bench)
        taught = gently(
            bench.recipe, epochs=self.teacher_epochs, lr=self.teacher_lr, weight_decay=self.weight_decay
        )
        bench.fit(teacher, cross_entropy, phase="teacher", recipe=taught, data=images)
        places = groups(model, torch.zeros(2, *images.x.shape[1:], device=next(model.parameters()).device))
        recipe = gently(
            bench.recipe,
            epochs=self.epochs,
            lr=self.lr,
            weight_decay=self.weight_decay,
            schedule="steps",
            milestones=(self.fall,),
        )
        objective = Distillation(self, teacher, places)
        notes = {"clean_images": len(images.y), "accuracy_before": accuracy(model, images)}
        notes |= {"teacher_accuracy": accuracy(teacher, images), "groups": len(objective.weights)}
        bench.fit(model, objective, recipe=recipe, data=images)
        return Defended(model, notes=notes)


class Distillation:
    """Cross-entropy plus the distances of the student's attention maps from the teacher's, which is frozen."""

    def __init__(self, spec: NAD, teacher: Classifier, places: Sequence[str]) -> None:
        self.power = spec.power
        self.teacher = teacher.eval().requires_grad_(False)
        count = min(len(spec.weights), len(places))
        self.weights, self.places = spec.weights[-count:], places[-count:]

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, *, rng: Generator) -> Tensor:
        """CE + sum of weight * MSE of attention maps, the mean over images and positions."""
        with torch.no_grad(), recorded(self.teacher, self.places) as wanted:
            self.teacher(x)
        with recorded(model, self.places) as seen:
            loss = F.cross_entropy(model(x), y)
        for weight, place in zip(self.weights, self.places, strict=True):
            target = attention(wanted[place], self.power)
            loss = loss + weight * F.mse_loss(attention(seen[place], self.power), target)
        return loss


def attention(features: Tensor, power: float) -> Tensor:
    """Attention maps (N, P) of unit norm: the sum over channels of |features|^power at each of P positions.

    features: (N, C, H, W) with P = H * W, or (N, P) without channels.
    """
    energy = features.abs().pow(power)
    energy = energy.sum(1).flatten(1) if features.dim() == 4 else energy
    found: Tensor = energy / (energy.norm(dim=1, keepdim=True) + 1e-6)
    return found


@contextmanager
def recorded(model: nn.Module, places: Sequence[str]) -> Iterator[dict[str, Tensor]]:
    """Outputs by name of the layers called inside."""
    found: dict[str, Tensor] = {}

    def keep(name: str, output: Tensor) -> None:
        found[name] = output

    handles = [
        model.get_submodule(name).register_forward_hook(lambda _, __, output, name=name: keep(name, output))
        for name in places
    ]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


def groups(model: Classifier, probe: Tensor) -> list[str]:
    """Names of the last layer of each group of feature maps with the same number of channels, from shallow to deep.

    SmallCNN: the pooling (or ReLU) at the end of each block; a ResNet of timm: its stages. A network without maps of
    more than one position has one group, its features (N, D). probe: images (N, C, H, W) of the right shape.
    """
    names = list(stations(model.body))
    with eval_mode(model), torch.no_grad(), recorded(model, names) as outputs:
        model(probe)
    maps = {
        name: output.shape[1]
        for name, output in outputs.items()
        if isinstance(output, Tensor) and output.dim() == 4 and output[0, 0].numel() > 1
    }
    runs = groupby(maps, key=lambda name: maps[name])
    return [list(run)[-1] for _, run in runs] or ["body"]


def stations(body: nn.Module) -> Iterator[str]:
    """Names of the layers that a picture passes in turn: wrappers of one module and sequences are opened."""
    name, module = "body", body
    while len(children := list(module.named_children())) == 1:
        name, module = f"{name}.{children[0][0]}", children[0][1]
    if not children:
        yield name
    for child, inner in children:
        yield from _opened(f"{name}.{child}", inner)


def _opened(name: str, module: nn.Module) -> Iterator[str]:
    if isinstance(module, nn.Sequential):
        for child, inner in module.named_children():
            yield from _opened(f"{name}.{child}", inner)
    else:
        yield name
