"""Defensive distillation: a second network learns the softened answers of a first. A negative control.

Papernot, McDaniel, Wu, Jha and Swami, "Distillation as a Defense to Adversarial Perturbations against Deep Neural
Networks", S&P 2016, arXiv:1511.04508. Used at temperature 1, the student's logits are so far apart that gradients of
the cross-entropy vanish in floating point; attacks on the logits break it (Carlini and Wagner, "Towards Evaluating the
Robustness of Neural Networks", S&P 2017, arXiv:1608.04644). It stands here for what an evaluation has to notice: robust
against ascent on the cross-entropy, not against ascent on the margin.

The teacher answers for the very view (crop, flip) that the student sees. Unlike in the paper, the loss is multiplied by
the square of the temperature (`scaled`), as in Hinton, Vinyals and Dean, "Distilling the Knowledge in a Neural
Network", 2015, arXiv:1503.02531: without it a recipe that suits standard training leaves both networks half trained.
"""

from dataclasses import replace
from typing import ClassVar

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from deconfound.defenses.input_gradient import UNSATURATED
from deconfound.defenses.repair import accuracy
from deconfound.defenses.workbench import Adaptive, Defended, Workbench
from deconfound.fields import Count, Positive, hyperparameters
from deconfound.models.classifier import Classifier


@hyperparameters
class Distillation:
    """temperature: by which the logits of teacher and student are divided in training; 1 is distillation that hides
    nothing. scaled: multiply the losses by its square, so that gradients are of the usual size; Adam does not care.
    teacher_epochs: of the teacher, by default those of the run's recipe. The student is a fresh network of the
    same architecture, used without the temperature. With `val`, the notes have the teacher's accuracy there.
    """

    adaptive: ClassVar[Adaptive] = Adaptive(
        "gradients of the cross-entropy vanish at temperature 1 while the boundary is where it was: scores that are"
        " differences or ratios of logits, or an attack that needs no gradient",
        attacks=UNSATURATED,
    )

    temperature: Positive = 20.0
    scaled: bool = True
    teacher_epochs: Count | None = None

    def __call__(self, bench: Workbench) -> Defended:
        """Train the teacher, then the student on its answers."""
        teacher = bench.network("teacher")
        recipe = replace(bench.recipe, epochs=self.teacher_epochs or bench.recipe.epochs)
        bench.fit(teacher, self.taught, phase="teacher", recipe=recipe)
        notes = {"teacher_accuracy": accuracy(teacher, bench.val)} if len(bench.val.y) else {}
        model = bench.begin()
        bench.fit(model, Imitation(teacher, self.temperature, self.factor))
        return Defended(model, notes=notes)

    @property
    def factor(self) -> float:
        """What both losses are multiplied by."""
        return self.temperature**2 if self.scaled else 1.0

    def taught(self, model: nn.Module, x: Tensor, y: Tensor, *, rng: Generator) -> Tensor:
        """Mean cross-entropy of the labels at the temperature, times the factor."""
        return self.factor * F.cross_entropy(model(x) / self.temperature, y)


class Imitation:
    """Cross-entropy of the teacher's answers, both networks at the temperature; the teacher is frozen."""

    def __init__(self, teacher: Classifier, temperature: float, factor: float = 1.0) -> None:
        self.teacher = teacher.eval().requires_grad_(False)
        self.temperature, self.factor = temperature, factor

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, *, rng: Generator) -> Tensor:
        """Mean over the batch, times the factor; the labels are not looked at."""
        with torch.no_grad():
            answers = (self.teacher(x) / self.temperature).softmax(1)
        return self.factor * F.cross_entropy(model(x) / self.temperature, answers)
