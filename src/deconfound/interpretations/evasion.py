"""The attacker who knows the detector: wrong for the network and inconspicuous at once.

Carlini and Wagner, "Adversarial Examples Are Not Easily Detected: Bypassing Ten Detection Methods", AISec 2017,
arXiv:1705.07263; Tramer et al., "On Adaptive Attacks to Adversarial Example Defenses", NeurIPS 2020, arXiv:2002.08347.
One ascent climbs, image by image, what fits the detector (`aims`):

- `score`, where it has a gradient: -[kappa - m(z)]_+ - lambda [(s(z) - tau) / sigma + slack]_+, with the margin m (best
  wrong logit minus true logit), the score s, its threshold tau, and a sweep of lambda. Then one of the two at a time:
  the margin up to kappa, and the score from there on (selective ascent: Bryniarski et al., "Evading Adversarial Example
  Detection Defenses with Orthogonal Projected Gradient Descent", ICLR 2022, arXiv:2106.15023). Rounding to fewer
  colours passes the gradient straight through (BPDA: Athalye et al., ICML 2018, arXiv:1802.00420).
- `estimated`, where it has none: the same, with the slope of s from its values at pairs of opposite random steps
  (Ilyas et al., "Black-box Adversarial Attacks with Limited Queries and Information", ICML 2018, arXiv:1804.08598).
- `squeezed` and `masked`, of feature squeezing and of leaving parts out: the margin of the mean logits of the image and
  of its squeezed copies, or of copies without a random part. An error that all copies share leaves no difference.
- `guide`, of distances between activations: the activations of the nearest clean image of another class, in all blocks
  (Sabour et al., ICLR 2016, arXiv:1511.05122, there in one layer).

Ours: the score is measured in standard deviations sigma of clean images, so that one sweep fits scores of any unit.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Generator, Tensor

from deconfound.attacks.ascent import Look, Point, Steepest, climb
from deconfound.attacks.feature_adversary import guides
from deconfound.attacks.pgd import PGD
from deconfound.attacks.scores import margin
from deconfound.attacks.victim import Victim, attacking
from deconfound.detectors.evidence import Differentiable
from deconfound.detectors.feature_squeezing import FeatureSqueezing
from deconfound.detectors.layers import activations, places
from deconfound.detectors.lid import LID
from deconfound.detectors.mahalanobis import Mahalanobis
from deconfound.detectors.ml_loo import MLLOO, LeaveOneOut, blocks, without
from deconfound.fields import Count, Eps, NonNegative, Positive, Real, hyperparameters
from deconfound.interpretations.undetected import Best, Known, Score
from deconfound.models.classifier import Classifier
from deconfound.threat import Norm, ThreatModel, per_image

TINY = 1e-6

Aim = Literal["score", "estimated", "squeezed", "masked", "guide"]

WORDS: dict[Aim, str] = {
    "score": "the gradient of its score",
    "estimated": "an estimate of the slope of its score from values alone (black box: it has no gradient)",
    "squeezed": "errors that the squeezed copies share",
    "masked": "errors that copies without a random part share",
    "guide": "the activations of clean images of another class",
}


@hyperparameters
class Evasion:
    """eps and step_size in pixel units of `norm`. Steps shrink evenly from step_size to the share `last` of it, since a
    threshold may leave little room; by default they add up to 2.5 eps. restarts: tries of every aim, each from a random
    start and on the images that are still caught. weights: the sweep of lambda, logits per standard deviation of the
    score. kappa: wanted margin, logits; slack: wanted distance below the threshold, standard deviations; an image is
    done as soon as it is misclassified and not flagged, whatever the two say. selective: after the sweep, try margin
    and score one at a time.

    masks: copies without a random part, per step; a detector that leaves out no more parts than this is also attacked
    through its score. queries: pairs of values that estimate the slope of a score without gradient, each probe (pixel
    units, standard deviation) to either side. Images of a batch serve each other as guides.
    """

    eps: Eps
    norm: Norm = "linf"
    steps: Count = 40
    step_size: Positive | None = None
    last: Annotated[Real, Field(gt=0, le=1)] = 0.05
    restarts: Count = 1
    weights: Annotated[tuple[NonNegative, ...], Field(min_length=1)] = (0.3, 1.0, 3.0)
    selective: bool = True
    kappa: NonNegative = 0.1
    slack: NonNegative = 0.1
    masks: Count = 24
    queries: Count = 8
    probe: Positive = 0.02

    @property
    def threat(self) -> ThreatModel:
        """The budget."""
        return ThreatModel(norm=self.norm, eps=self.eps)

    @property
    def oblivious(self) -> PGD:
        """The attack of the same budget on the margin that knows of no detector."""
        known = {name: getattr(self, name) for name in ("eps", "norm", "steps", "step_size", "restarts")}
        return PGD(**known, score="margin")

    def aims(self, detector: object, x: Tensor) -> tuple[Aim, ...]:
        """What is climbed against a detector, in this order, on images like x (n, C, H, W)."""
        if isinstance(detector, FeatureSqueezing):
            return ("squeezed", "score")
        if isinstance(detector, LeaveOneOut | MLLOO):
            return ("masked", "score") if len(blocks(x, detector.block)) <= self.masks else ("masked",)
        if isinstance(detector, LID | Mahalanobis):
            return ("score", "guide")
        return ("score",) if isinstance(detector, Differentiable) else ("estimated",)

    def __call__(
        self,
        model: Classifier,
        known: Known,
        x: Tensor,
        y: Tensor,
        *,
        rng: Generator,
        start: Tensor | None = None,
    ) -> Tensor:
        """Per image of x (n, C, H, W) in [0, 1] with true labels y (n,) the best of all tries, and of start (legal
        images like x), if given: misclassified and not flagged, else misclassified with the lowest score, else as it
        began.
        """
        x = x.detach()
        with attacking(model, x, y) as victim:
            if not len(x) or self.eps == 0:
                return x.clone()
            best = Best(victim, known, x)
            if start is not None:
                best.offer(start.detach(), torch.arange(len(x), device=x.device))
            hunt = Hunt(self, model, known, victim, x, rng)
            move = Shrinking(self)
            for _ in range(self.restarts):
                for look in hunt.looks():
                    rows = best.left()
                    if not len(rows):
                        return best.z
                    begin = self.threat.random_start(x[rows], rng=rng)
                    part = _part(look, rows)
                    best.offer(climb(part, x[rows], begin, move, steps=self.steps, early_stop=True), rows)
            return best.z


@dataclass(frozen=True)
class Shrinking:
    """Projected steepest ascent whose step shrinks evenly; the last iterate is looked at as well."""

    spec: Evasion
    looks_back: bool = True

    def __call__(self, step: int, at: Point) -> Tensor:
        """One step."""
        spec = self.spec
        first = spec.step_size or 5 * spec.eps / (1 + spec.last) / spec.steps
        share = 1 - (1 - spec.last) * step / max(1, spec.steps - 1)
        return Steepest(spec.threat, share * first)(step, at)

    def result(self, at: Point) -> Tensor:
        """The last iterate."""
        return at.z


@dataclass(frozen=True)
class Hunt:
    """What may be climbed against one detector, on one batch."""

    spec: Evasion
    model: Classifier
    known: Known
    victim: Victim
    x: Tensor
    rng: Generator = field(repr=False)

    def looks(self) -> Iterator[Look]:
        """One per aim, and per weight where the aim has them."""
        detector = self.known.detector
        for aim in self.spec.aims(detector, self.x):
            if aim == "squeezed":
                yield self.shared(detector.squeezed)
            elif aim == "masked":
                yield self.shared(self._masked)
            elif aim == "guide":
                yield from self._guided()
            else:
                score = (
                    self._estimated if aim == "estimated" or self.known.score is None else self.known.score
                )
                yield from (self.aware(score, weight) for weight in self.spec.weights)
                if self.spec.selective:
                    yield self.aware(score, None)

    def aware(self, score: Score, weight: float | None) -> Look:
        """Margin and score, weighed, or one at a time; an image is done where it is misclassified and not flagged."""
        spec, known = self.spec, self.known

        def look(z: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
            logits = self.victim(z)
            value = -(spec.kappa - margin(logits, self.victim.y[rows])).clamp_min(0)
            with torch.set_grad_enabled(weight != 0 and torch.is_grad_enabled()):
                above = (score(z) - known.limit) / known.unit
            excess = (above + spec.slack).clamp_min(0).to(value)
            if weight is None:
                value = torch.where(value < 0, value, -excess)
            elif weight:
                value = value - weight * excess
            return value, self.victim.errs(logits, rows) & (above.detach() <= 0)

        return look

    def shared(self, copies: Callable[[Tensor], list[Tensor]]) -> Look:
        """Margin of the mean logits of the images and of copies of them; nobody is done before the last step."""

        def look(z: Tensor, rows: Tensor) -> tuple[Tensor, None]:
            logits = self.victim(torch.cat([z, *copies(z)]))
            mean = logits.view(-1, len(z), logits.shape[1]).mean(0)
            return margin(mean, self.victim.y[rows]), None

        return look

    def _masked(self, z: Tensor) -> list[Tensor]:
        detector = self.known.detector
        parts = blocks(z, detector.block)
        drawn = torch.randperm(len(parts), generator=self.rng)[: self.spec.masks].to(z.device)
        return [torch.where(part, without(z, detector.reference), z) for part in parts[drawn]]

    def _guided(self) -> Iterator[Look]:
        """Minus the squared distance to the guide, with every block scaled to unit spread; none without a guide."""
        names = places(self.model, self.x[:2])
        with torch.no_grad():
            layers, _ = activations(self.model, names, self.x)
        spreads = [(h - h.mean(0)).square().sum(1).mean().sqrt().clamp_min(TINY) for h in layers]

        def joined(layers: list[Tensor]) -> Tensor:
            return torch.cat([h / spread for h, spread in zip(layers, spreads, strict=True)], 1)

        goal, exists = guides(joined(layers), self.victim.y, "nearest")

        def look(z: Tensor, rows: Tensor) -> tuple[Tensor, None]:
            found, logits = activations(self.model, names, z)
            self.victim.checked(logits, z)
            return -(joined(found) - goal[rows]).square().sum(1), None

        if bool(exists.all()):
            yield look

    def _estimated(self, z: Tensor) -> Tensor:
        """The score, with a gradient that is an estimate."""
        value = self._value(z)
        if not torch.is_grad_enabled():
            return value
        slope = torch.zeros_like(z)
        for _ in range(self.spec.queries):
            step = self.spec.probe * torch.randn(z.shape, generator=self.rng).to(z)
            rise = self._value((z + step).clamp(0, 1)) - self._value((z - step).clamp(0, 1))
            slope += per_image(rise.to(z), z) * step
        slope /= 2 * self.spec.queries * self.spec.probe**2
        return value + ((z - z.detach()) * slope).flatten(1).sum(1)

    def _value(self, z: Tensor) -> Tensor:
        return self.known.suspicion(z.detach()).to(z.device, torch.float64)


def _part(look: Look, rows: Tensor) -> Look:
    """The look at images whose places in the batch are rows (n,)."""
    return lambda z, places: look(z, rows[places])
