"""Feature adversary: an image whose representation is that of an image of another class.

Sabour, Cao, Faghri & Fleet, "Adversarial Manipulation of Deep Representations", ICLR 2016, arXiv:1511.05122. The guide
is theirs to choose; here projected ascent approaches the nearest image of another class in the batch, or the nearest
mean of another class. The representation is the input of the last linear layer.
"""

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Generator, Tensor, nn

from deconfound.attacks.ascent import Look, Move, Point, Steepest, climb
from deconfound.attacks.victim import Victim, attacking
from deconfound.errors import AttackError
from deconfound.fields import Count, Eps, Positive, hyperparameters
from deconfound.threat import Norm, ThreatModel, per_image

Guide = Literal["nearest", "class_mean"]


def guides(features: Tensor, y: Tensor, guide: Guide) -> tuple[Tensor, Tensor]:
    """Per image of a batch the features (N, D) to approach, and whether the batch has another class at all, (N,) bool.

    features (N, D), y (N,) true labels. The nearest in l2; the first of equally near ones.
    """
    labels = y
    options = features
    if guide == "class_mean":
        labels = torch.unique(y)
        options = torch.stack([features[y == label].mean(0) for label in labels])
    apart = torch.cdist(features, options, compute_mode="donot_use_mm_for_euclid_dist")
    apart = apart.masked_fill(y[:, None] == labels[None], torch.inf)
    return options[apart.argmin(1)], apart.isfinite().any(1)


@dataclass(frozen=True)
class Highest:
    """A rule that returns the iterate with the largest score instead of the last one."""

    move: Move
    looks_back: bool = True

    def __call__(self, step: int, at: Point) -> Tensor:
        """The rule's step."""
        self._keep(at)
        return self.move(step, at)

    def result(self, at: Point) -> Tensor:
        """The best iterate."""
        self._keep(at)
        return at.memory["best"]

    @staticmethod
    def _keep(at: Point) -> None:
        best, most = at.memory.get("best", at.z), at.memory.get("most", at.value)
        higher = at.value > most
        at.memory |= {
            "best": torch.where(per_image(higher, at.z), at.z, best),
            "most": torch.maximum(at.value, most),
        }


@hyperparameters
class FeatureAdversary:
    """eps and step_size in pixel units of `norm`; step_size defaults to 2.5 eps / steps. guide: `nearest` for the
    features of the nearest image of another class in the batch, `class_mean` for the nearest mean of another class of
    the batch. restarts: the first starts at the image, the others in the ball; each image keeps the iterate nearest to
    its guide. early_stop: leave an image as soon as the model errs on it, however far its guide is.

    Guides come from the batch, so images of a batch influence each other; without a second class nothing moves. To
    come near a guide is the goal, and an error its usual consequence only: a guide may itself be misclassified.
    """

    together: ClassVar[bool] = True  # images of a batch influence each other

    eps: Eps
    norm: Norm = "linf"
    steps: Count = 100
    step_size: Positive | None = None
    guide: Guide = "nearest"
    restarts: Count = 1
    early_stop: bool = False

    @property
    def threat(self) -> ThreatModel:
        """The budget that an evaluator holds this attack to."""
        return ThreatModel(norm=self.norm, eps=self.eps)

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, *, rng: Generator) -> Tensor:
        """Per image the iterate nearest to its guide, like x; the model has `both`, as a Classifier does."""
        x = x.detach()
        with attacking(model, x, y) as victim:
            if self.eps == 0 or not len(x):
                return x.clone()
            look, exists = self._aimed(model, victim, x)
            move = Highest(Steepest(self.threat, self.step_size or 2.5 * self.eps / self.steps))
            best, rows = x.clone(), exists.nonzero().flatten()
            nearest, _ = _seen(look, x, torch.arange(len(x), device=x.device))
            for number in range(self.restarts):
                if not len(rows):
                    break
                start = self.threat.random_start(x[rows], rng=rng) if number else x[rows]
                z = climb(
                    _part(look, rows), x[rows], start, move, steps=self.steps, early_stop=self.early_stop
                )
                score, wrong = _seen(look, z, rows)
                done = wrong & self.early_stop
                better = done | (score > nearest[rows])
                best[rows] = torch.where(per_image(better, z), z, best[rows])
                nearest[rows] = torch.where(better, score, nearest[rows])
                rows = rows[~done]
            return best

    def _aimed(self, model: Any, victim: Victim, x: Tensor) -> tuple[Look, Tensor]:
        """Minus the squared distance to the guide, and which images have one."""
        if not hasattr(model, "both"):
            raise AttackError("model: expected features and logits by `both`, as a Classifier gives them")
        with torch.no_grad():
            features, logits = model.both(x)
        victim.checked(logits, x)
        goal, exists = guides(features, victim.y, self.guide)

        def look(z: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
            features, logits = model.both(z)
            distance = (features - goal[rows]).square().sum(1)
            return -distance, victim.errs(victim.checked(logits, z), rows)

        return look, exists


def _part(look: Look, rows: Tensor) -> Look:
    """The look at images whose places in the batch are rows (n,)."""
    return lambda z, places: look(z, rows[places])


@torch.no_grad()
def _seen(look: Look, z: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
    """Scores (n,) of iterates, and where the model errs, (n,) bool."""
    score, wrong = look(z, rows)
    assert wrong is not None
    return score, wrong
