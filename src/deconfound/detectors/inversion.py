"""Trigger inversion: the smallest patch that sends every image to one class, sought for each class.

Wang et al., "Neural Cleanse: Identifying and Mitigating Backdoor Attacks in Neural Networks", IEEE S&P 2019.
A trigger of a class is a mask m (1, H, W) and a pattern q (C, H, W), both in [0, 1]; stamped images
are (1 - m) x + m q. It minimises the mean cross-entropy towards the class plus k |m|_1, with a k that follows the
success. All classes climb side by side in the one ascent loop, as rows (1 + C, H, W) of mask and pattern that do
not influence each other. Settings of the released ports: Adam in tanh space with decays 0.5 and 0.9, k doubled
while the trigger works and divided by 2^1.5 while it does not.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, NamedTuple

import torch
from pydantic import Field
from torch import Generator, Tensor
from torch.nn import functional as F

from deconfound.attacks.ascent import Point, climb
from deconfound.attacks.cw_l2 import from_tanh, to_tanh
from deconfound.detectors.scoring import cheaper
from deconfound.detectors.tabor import Logits, Tabor
from deconfound.fields import Count, Fraction01, Positive, hyperparameters
from deconfound.models.classifier import Classifier, eval_mode, to_unit
from deconfound.optim import Adam
from deconfound.optimisers import batches

DECAYS = (0.5, 0.9)  # Adam's
GROUP = 16  # classes at a time
RATIO = 0.99  # a mask that is not smaller than this part of the best one is no progress


class Inverted(NamedTuple):
    """A trigger per class: mask (K, 1, H, W) and pattern (K, C, H, W) in [0, 1], and success (K,): the share of the
    images that it sent to the class while the mask was judged; below what was asked where no mask ever reached
    that.
    """

    mask: Tensor
    pattern: Tensor
    success: Tensor

    @property
    def norms(self) -> Tensor:
        """l1 norms of the masks, (K,) pixels."""
        return self.mask.flatten(1).sum(1)


def stamp(x: Tensor, mask: Tensor, pattern: Tensor) -> Tensor:
    """(1 - mask) x + mask * pattern, of images in [0, 1]; shapes broadcast."""
    return (1 - mask) * x + mask * pattern


@hyperparameters
class Inversion:
    """passes: over the images, at most; batch_size: of a step; lr: of Adam, in tanh space.

    cost: k at the start, nats per pixel of mask. success: share of the images of a pass that must go to the class.
    patience: consecutive passes that reach it (or do not) before k is multiplied by `factor` (or divided by
    factor^1.5). stale: passes without a smaller mask after which a class is done, once k has moved both ways. tabor:
    weights of further terms of the loss.
    """

    passes: Count = 80
    batch_size: Count = 32
    lr: Positive = 0.1
    cost: Positive = 1e-3
    success: Annotated[Fraction01, Field(gt=0)] = 0.98
    patience: Count = 5
    factor: Annotated[Positive, Field(gt=1)] = 2.0
    stale: Count = 25
    tabor: Tabor = Tabor()

    def __call__(
        self, model: Classifier, x: Tensor, y: Tensor | None = None, *, rng: Callable[[str], Generator]
    ) -> Inverted:
        """The smallest triggers that worked, on the CPU; the last ones of a class where none did. x: clean images
        (N, C, H, W), at least one; y: their labels (N,), which only `tabor.restored` needs; rng(purpose): a generator.
        """
        clean = to_unit(x.to(next(model.parameters()).device))
        labels = None if y is None else y.to(clean.device)
        found = []
        with eval_mode(model):
            logits = cheaper(model, clean[:4])
            for classes in torch.arange(model.head.out_features).split(GROUP):  # type: ignore[no-untyped-call]
                found.append(self._group(logits, clean, labels, classes.to(clean.device), rng=rng))
        best, success = (torch.cat(parts).cpu() for parts in zip(*found, strict=True))
        return Inverted(best[:, :1], best[:, 1:], success)

    def _group(
        self,
        logits: Logits,
        x: Tensor,
        y: Tensor | None,
        classes: Tensor,
        *,
        rng: Callable[[str], Generator],
    ) -> tuple[Tensor, Tensor]:
        """Rows (n, 1 + C, H, W) and success (n,) of some classes. All start from draws of their own, and see the
        same batches.
        """
        channels, height, width = x.shape[1:]
        shape = (1 + channels, height, width)
        drawn = [
            torch.rand(shape, generator=rng(f"inversion of class {label}")) for label in classes.tolist()
        ]
        start = torch.stack(drawn).to(x)
        look = Look(self, logits, x, y, classes, start, rng("inversion batches"))
        steps = self.passes * len(look.parts)
        climb(look, start, start, Descent(start, self.lr), steps=steps, early_stop=True)
        return look.best, look.success


class Descent:
    """The rule: a step of Adam down the loss -at.value, in the w of z = (tanh w + 1) / 2."""

    looks_back = False

    def __init__(self, start: Tensor, lr: float) -> None:
        self.w = to_tanh(start)
        self.optimizer = Adam([self.w], lr=lr, betas=DECAYS)

    def __call__(self, step: int, at: Point) -> Tensor:
        """The next iterate, of the rows that are left."""
        self.w.grad = torch.zeros_like(self.w)
        self.w.grad[at.rows] = -at.gradient * 2 * at.z * (1 - at.z)
        self.optimizer.step()
        return from_tanh(self.w[at.rows])

    def result(self, at: Point) -> Tensor:
        """The last iterate."""
        return at.z


@dataclass
class Streak:
    """length (n,): consecutive passes that reached the success, or did not; moved (n,): has k ever moved that way?"""

    length: Tensor
    moved: Tensor


class Look:
    """What the ascent sees: minus the loss of each class's trigger on the next batch. Keeps k and the best ones."""

    def __init__(
        self,
        spec: Inversion,
        logits: Logits,
        x: Tensor,
        y: Tensor | None,
        classes: Tensor,
        start: Tensor,
        rng: Generator,
    ) -> None:
        self.spec, self.logits, self.x, self.y, self.classes, self.rng = spec, logits, x, y, classes, rng
        self.parts = batches(len(x), spec.batch_size)
        self.looks = 0
        self.order = torch.zeros(0, dtype=torch.int64)
        zeros = torch.zeros(len(classes), device=x.device)
        self.cost = torch.full_like(zeros, spec.cost)
        self.hits, self.stale = zeros.clone(), zeros.clone()
        self.works, self.fails = (Streak(zeros.clone(), zeros.clone().bool()) for _ in range(2))
        self.smallest = torch.full_like(zeros, torch.inf)
        self.best, self.success = start.clone(), zeros.clone()

    def __call__(self, z: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Values and whether a class is done, (n,)."""
        place = self.looks % len(self.parts)
        if place == 0:
            self.order = torch.randperm(len(self.x), generator=self.rng).to(self.x.device)
            self.hits.zero_()
        self.looks += 1
        shown = self.order[self.parts[place]]
        x, wanted = self.x[shown], self.classes[rows]
        stamped = stamp(x, z[:, None, :1], z[:, None, 1:])
        logits = self.logits(stamped.flatten(0, 1)).view(len(rows), len(x), -1)
        loss = F.cross_entropy(logits.transpose(1, 2), wanted[:, None].expand(-1, len(x)), reduction="none")
        norm = z[:, 0].flatten(1).sum(1)
        self.hits[rows] += (logits.detach().argmax(2) == wanted[:, None]).sum(1)
        y = None if self.y is None else self.y[shown]
        further = self.spec.tabor(self.logits, x, y, z[:, :1], z[:, 1:], wanted)
        value = -(loss.mean(1) + self.cost[rows] * norm + further)
        done = torch.zeros_like(rows, dtype=torch.bool)
        return value, self._judge(z.detach(), rows, norm.detach()) if place == len(self.parts) - 1 else done

    def _judge(self, z: Tensor, rows: Tensor, norm: Tensor) -> Tensor:
        """At the end of a pass: keep smaller masks that work, move k, say who is done (n,)."""
        spec = self.spec
        share = self.hits[rows] / len(self.x)
        reached = share >= spec.success
        self.stale[rows] = torch.where(
            reached & (norm < RATIO * self.smallest[rows]), 0, self.stale[rows] + 1
        )
        better = (reached & (norm < self.smallest[rows])) | self.smallest[rows].isinf()
        self.best[rows[better]], self.success[rows[better]] = z[better], share[better]
        self.smallest[rows] = torch.where(reached, norm.minimum(self.smallest[rows]), self.smallest[rows])
        for streak, holds, factor in (
            (self.works, reached, spec.factor),
            (self.fails, ~reached, spec.factor**-1.5),
        ):
            streak.length[rows] = torch.where(holds, streak.length[rows] + 1, 0)
            due = streak.length[rows] >= spec.patience
            self.cost[rows] = torch.where(due, self.cost[rows] * factor, self.cost[rows])
            streak.length[rows] = torch.where(due, 0, streak.length[rows])
            streak.moved[rows] |= due
        return (self.stale[rows] >= spec.stale) & self.works.moved[rows] & self.fails.moved[rows]
