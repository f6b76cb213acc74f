"""A substitute: a student learns the labels that the model gives, and what fools the student is fed to the model.

Papernot, McDaniel, Goodfellow, Jha, Celik & Swami, "Practical Black-Box Attacks against Machine Learning", AsiaCCS
2017, arXiv:1602.02697. The model is asked for labels alone, never for scores or gradients. What it is asked about grows
by Jacobian-based augmentation: each known image is also tried a step towards what the student thinks its label looks
like, so that every round doubles the images and queries.

Ours differs in four ways. The images under attack are themselves the first ones, where the paper collects its own; the
student sees all images in every step of Adam; the last step is projected ascent, where the paper takes one signed step
or a saliency map; and the paper's reservoir sampling and alternating step, which save queries, are left out.
"""

from typing import ClassVar, Literal, NamedTuple

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from deconfound.attacks.pgd import PGD
from deconfound.attacks.victim import Victim, attacking
from deconfound.fields import Count, Eps, Natural, Positive, hyperparameters
from deconfound.models.classifier import eval_mode, predict
from deconfound.optim import Adam
from deconfound.rng import global_seed
from deconfound.threat import Norm, ThreatModel

LEAST = 1e-2  # standard deviation of the seeds' pixels, at least, where the student divides by it


class Oracle:
    """The model as one who sees labels only; asked: images that it was asked about; classes: how many there are, known
    from the first answer on.
    """

    def __init__(self, victim: Victim) -> None:
        self._victim = victim
        self.asked = 0
        self.classes = 0

    @torch.no_grad()
    def __call__(self, x: Tensor) -> Tensor:
        """The label (n,) that the model gives each image."""
        logits = self._victim(x)
        self.asked, self.classes = self.asked + len(x), logits.shape[1]
        return logits.argmax(1)


class Known(NamedTuple):
    """Images (n, C, H, W) that the model was asked about, and the labels (n,) it gave."""

    x: Tensor
    labels: Tensor


class Learnt(NamedTuple):
    """The student, in evaluation mode; what it learnt from; and how many images the model was asked about for it."""

    student: nn.Module
    known: Known
    asked: int


class Student(nn.Module):
    """Logits (n, K) of images in [0, 1], which are centred and scaled by mean and deviation of the seeds."""

    mean: Tensor
    std: Tensor

    def __init__(self, layers: nn.Module, seeds: Tensor) -> None:
        super().__init__()
        self.layers = layers
        self.register_buffer("mean", seeds.mean())
        self.register_buffer("std", seeds.std(correction=0).clamp_min(LEAST))

    def forward(self, x: Tensor) -> Tensor:
        """Logits (n, K)."""
        logits: Tensor = self.layers((x - self.mean) / self.std)
        return logits


@hyperparameters
class Substitute:
    """eps and step_size in pixel units of `norm`; steps of projected ascent on the student's cross-entropy, from a
    random start; step_size defaults to 2.5 eps / steps.

    seeds: images of the batch, the first ones, whose labels the model is asked for at the beginning; a smaller batch is
    asked about as a whole. rounds of augmentation, each of which doubles what is known; reach: length of its step per
    pixel, in pixel units. network: `mlp`, two hidden layers, or `cnn`, two convolutions with pooling; width: units of a
    hidden layer, or channels of the first convolution (the second has twice as many). fits: steps of Adam between two
    rounds, each over all that is known; lr: of Adam. queries of the model: seeds times 2^rounds, for the whole batch.

    A student serves a whole batch: what an image becomes depends on the others, and a batch that earlier attacks have
    thinned out teaches less.
    """

    together: ClassVar[bool] = True  # images of a batch influence each other

    eps: Eps
    norm: Norm = "linf"
    steps: Count = 20
    step_size: Positive | None = None
    seeds: Count = 150
    rounds: Natural = 4
    reach: Positive = 0.1
    network: Literal["mlp", "cnn"] = "mlp"
    width: Count = 100
    fits: Count = 60
    lr: Positive = 2e-3

    @property
    def threat(self) -> ThreatModel:
        """The budget that an evaluator holds this attack to."""
        return ThreatModel(norm=self.norm, eps=self.eps)

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, *, rng: Generator) -> Tensor:
        """What ascent on the student makes of all images of x; whether it fools the model is not asked."""
        x = x.detach()
        if self.eps == 0 or not len(x):
            with attacking(model, x, y):
                return x.clone()
        student = self.learnt(model, x, y, rng=rng).student
        ascent = PGD(eps=self.eps, norm=self.norm, steps=self.steps, step_size=self.step_size)
        return ascent(student, x, y, rng=rng)

    def learnt(self, model: nn.Module, x: Tensor, y: Tensor, *, rng: Generator) -> Learnt:
        """The student of a model; of the labels y (N,) none is used but to check them."""
        x = x.detach()
        with attacking(model, x, y) as victim:
            oracle = Oracle(victim)
            known = Known(x[: self.seeds], oracle(x[: self.seeds]))
            student = self._fresh(known.x, oracle.classes, rng=rng)
            self._fit(student, known)
            for _ in range(self.rounds):
                further = augmented(student, known, self.reach)
                known = Known(torch.cat([known.x, further]), torch.cat([known.labels, oracle(further)]))
                self._fit(student, known)
        return Learnt(student.eval(), known, oracle.asked)

    def _fresh(self, seeds: Tensor, classes: int, *, rng: Generator) -> Student:
        make = dense if self.network == "mlp" else convolutional
        with global_seed(rng):
            student = Student(make(seeds[0], self.width, classes), seeds)
        return student.to(seeds.device)

    def _fit(self, student: Student, known: Known) -> None:
        """`fits` steps of Adam on the mean cross-entropy with the labels that the model gave."""
        adam = Adam(student.parameters(), lr=self.lr)
        with torch.enable_grad():
            for _ in range(self.fits):
                adam.zero_grad()
                F.cross_entropy(student(known.x), known.labels).backward()  # type: ignore[no-untyped-call]
                adam.step()


def dense(image: Tensor, width: int, classes: int) -> nn.Module:
    """Two hidden layers, for images like `image` (C, H, W)."""
    first, second = nn.Linear(image.numel(), width), nn.Linear(width, width)
    return nn.Sequential(nn.Flatten(), first, nn.ReLU(), second, nn.ReLU(), nn.Linear(width, classes))


def convolutional(image: Tensor, width: int, classes: int) -> nn.Module:
    """Two 3 x 3 convolutions, each followed by a pooling that halves the picture while there is something to halve."""
    before, rows, columns = image.shape
    layers: list[nn.Module] = []
    for channels in (width, 2 * width):
        layers += [nn.Conv2d(before, channels, 3, padding=1), nn.ReLU()]
        before = channels
        if min(rows, columns) > 1:
            layers.append(nn.MaxPool2d(2))
            rows, columns = rows // 2, columns // 2
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(before * rows * columns, classes))


def augmented(student: nn.Module, known: Known, reach: float) -> Tensor:
    """New images, one per known one, inside [0, 1]: x + reach * sign of the gradient of the student's probability of
    the model's label; of its logarithm, which has the same sign and does not vanish where the probability is tiny.
    """
    with eval_mode(student), torch.enable_grad():
        z = known.x.detach().requires_grad_(True)
        asked = student(z).log_softmax(1).gather(1, known.labels[:, None]).sum()
        (slope,) = torch.autograd.grad(asked, z)
    return (known.x + reach * slope.sign()).clamp(0.0, 1.0)


def agreement(model: nn.Module, student: nn.Module, x: Tensor) -> Tensor:
    """(N,) bool on the CPU: do model and student give an image of x (N, C, H, W) in [0, 1] the same label?"""
    return predict(model, x).argmax(1) == predict(student, x).argmax(1)
