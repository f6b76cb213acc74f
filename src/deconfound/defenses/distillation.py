"""Defensive distillation: a second network learns the softened answers of a first. A negative control.

Papernot, McDaniel, Wu, Jha and Swami, "Distillation as a Defense to Adversarial Perturbations against Deep Neural
Networks", S&P 2016, arXiv:1511.04508. Used at temperature 1, the student's logits are so far apart that gradients of
the cross-entropy vanish in floating point; attacks on the logits break it (Carlini and Wagner, "Towards Evaluating the
Robustness of Neural Networks", S&P 2017, arXiv:1608.04644). It stands here for what an evaluation has to notice: robust
against ascent on the cross-entropy, not against ascent on the margin.

The teacher answers for the very view (crop, flip) that the student sees. As in the paper, the loss is not multiplied by
the square of the temperature: its gradients are small, and the recipe may have to be longer.
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
    nothing. teacher_epochs: of the teacher, by default those of the run's recipe. The student is a fresh network of the
    same architecture, used without the temperature. With `val`, the notes have the teacher's accuracy there.
    """

    adaptive: ClassVar[Adaptive] = Adaptive(
        "gradients of the cross-entropy vanish at temperature 1 while the boundary is where it was: scores that are"
        " differences or ratios of logits, or an attack that needs no gradient",
        attacks=UNSATURATED,
    )

    temperature: Positive = 20.0
    teacher_epochs: Count | None = None

    def __call__(self, bench: Workbench) -> Defended:
        """Train the teacher, then the student on its answers."""
        teacher = bench.network("teacher")
        recipe = replace(bench.recipe, epochs=self.teacher_epochs or bench.recipe.epochs)
        bench.fit(teacher, self.taught, phase="teacher", recipe=recipe)
        notes = {"teacher_accuracy": accuracy(teacher, bench.val)} if len(bench.val.y) else {}
        model = bench.begin()
        bench.fit(model, Imitation(teacher, self.temperature))
        return Defended(model, notes=notes)

    def taught(self, model: nn.Module, x: Tensor, y: Tensor, *, rng: Generator) -> Tensor:
        """Mean cross-entropy of the labels at the temperature, nats."""
        return F.cross_entropy(model(x) / self.temperature, y)


class Imitation:
    """Cross-entropy of the teacher's answers, both networks at the temperature; the teacher is frozen."""

    def __init__(self, teacher: Classifier, temperature: float) -> None:
        self.teacher = teacher.eval().requires_grad_(False)
        self.temperature = temperature

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, *, rng: Generator) -> Tensor:
        """Mean over the batch, nats; the labels are not looked at."""
        with torch.no_grad():
            answers = (self.teacher(x) / self.temperature).softmax(1)
        return F.cross_entropy(model(x) / self.temperature, answers)
