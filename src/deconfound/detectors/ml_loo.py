"""ML-LOO: leaving out one part of the picture after the other changes an adversarial example more unevenly.

Yang et al., "ML-LOO: Detecting Adversarial Examples with Feature Attribution", AAAI 2020, arXiv:1906.03499. The
effect of a part on a scalar g is g(x) - g(x without the part); the score is the dispersion of the effects.
`LeaveOneOut` looks at the probability of the predicted class and learns nothing; `MLLOO` looks at that and at the
units of several layers, and learns a logistic regression over their dispersions, with noisy images among the
negatives. Differences: parts are blocks of pixels (single pixels there), and what is left out becomes the mean colour
of the picture by default (zero there): on a black background leaving out by zero changes nothing, and whatever is not
exactly black stands out.
"""

from collections.abc import Callable
from typing import ClassVar, Literal

import torch
from torch import Tensor

from deconfound.detectors.evidence import Evidence
from deconfound.detectors.layers import activations, places
from deconfound.detectors.learning import by_batches, taught
from deconfound.fields import Count, Positive, hyperparameters

PASSES = 512  # masked images at a time
IMAGES = 8  # images at a time

Spread = Literal["iqr", "std", "mad"]
Reference = Literal["mean", "zero", "half"]


@hyperparameters
class LeaveOneOut:
    """block: side of the part that is left out, pixels; what it becomes, the `reference`: the `mean` of the picture per
    channel, `zero` (black) or `half` (grey). spread: how dispersion is measured, the interquartile range, the standard
    deviation, or the median absolute deviation.
    """

    block: Count = 2
    reference: Reference = "mean"
    spread: Spread = "iqr"

    def suspicion(self, evidence: Evidence) -> Callable[[Tensor], Tensor]:
        """Dispersion of the effects on the probability of the predicted class."""
        return by_batches(evidence.model, self.score_of(evidence), IMAGES)

    def score_of(self, evidence: Evidence) -> Callable[[Tensor], Tensor]:
        """The same with a gradient, which holds all masked images in memory."""

        def look(z: Tensor) -> Tensor:
            return activations(evidence.model, (), z)[1].double().softmax(1)

        def score(x: Tensor) -> Tensor:
            found = effects(look, x, blocks(x, self.block), without(x, self.reference))
            return dispersion(of_class(found, look(x)), self.spread).squeeze(1)

        return score


@hyperparameters
class MLLOO:
    """block: side of the part that is left out, pixels; what it becomes, the `reference`: the `mean` of the picture per
    channel, `zero` (black) or `half` (grey). spread: how dispersion is measured, the interquartile range, the standard
    deviation, or the median absolute deviation. layers: how many of the last blocks are looked at, besides the
    probability of the predicted class.

    attacks: names of crafted examples to learn from, all where empty. c: inverse strength of the l2 penalty of the
    logistic regression.
    """

    needs: ClassVar[tuple[str, ...]] = ("crafted",)

    block: Count = 2
    reference: Reference = "mean"
    spread: Spread = "iqr"
    layers: Count = 2
    attacks: tuple[str, ...] = ()
    c: Positive = 1.0

    def suspicion(self, evidence: Evidence) -> Callable[[Tensor], Tensor]:
        """Log-odds of the logistic regression."""
        return by_batches(evidence.model, self.score_of(evidence), IMAGES)

    def score_of(self, evidence: Evidence) -> Callable[[Tensor], Tensor]:
        """The same with a gradient, which holds all masked images in memory."""
        names = places(evidence.model, evidence.data.x[:2])[-self.layers :]
        classes = evidence.classes

        def look(z: Tensor) -> Tensor:
            units, logits = activations(evidence.model, names, z)
            return torch.cat([logits.double().softmax(1), *(h.double() for h in units)], 1)

        def features(x: Tensor) -> Tensor:
            found = effects(look, x, blocks(x, self.block), without(x, self.reference))
            own = of_class(found[..., :classes], look(x)[:, :classes])
            return dispersion(torch.cat([own, found[..., classes:]], 2), self.spread)

        return taught(evidence, features, attacks=self.attacks, c=self.c, size=IMAGES)


def blocks(x: Tensor, side: int) -> Tensor:
    """Masks (M, 1, H, W) bool, one per block of side x side pixels of images like x (n, C, H, W); the last blocks of
    a row or column are smaller where the side does not divide the picture.
    """
    height, width = x.shape[2:]
    across = -(-width // side)
    rows, columns = (torch.arange(length, device=x.device) // side for length in (height, width))
    number = rows[:, None] * across + columns[None]
    count = int(number.max()) + 1
    return (number[None] == torch.arange(count, device=x.device)[:, None, None])[:, None]


def without(x: Tensor, reference: Reference) -> Tensor:
    """What is left out becomes this, (n, C, 1, 1)."""
    if reference == "mean":
        return x.mean((2, 3), keepdim=True)
    return torch.full_like(x[:, :, :1, :1], 0.0 if reference == "zero" else 0.5)


def effects(look: Callable[[Tensor], Tensor], x: Tensor, masks: Tensor, reference: Tensor) -> Tensor:
    """look(x) - look(x with a part replaced), (n, M, F), of images x (n, C, H, W), masks (M, 1, H, W) and the reference
    (n, C, 1, 1); exactly 0 where the part is the reference already.
    """
    plain = look(x)
    group = max(1, PASSES // max(1, len(x)))
    found = []
    for some in masks.split(group):  # type: ignore[no-untyped-call]
        masked = torch.where(some[None], reference[:, None], x[:, None])
        values = look(masked.flatten(0, 1)).view(len(x), len(some), -1)
        same = (masked == x[:, None]).flatten(2).all(2)
        found.append((plain[:, None] - values).masked_fill(same[..., None], 0.0))
    return torch.cat(found, 1)


def of_class(effects: Tensor, plain: Tensor) -> Tensor:
    """Of effects (n, M, K) on the classes, those on the class that is largest in plain (n, K): (n, M, 1)."""
    own = plain.argmax(1).view(-1, 1, 1).expand(-1, effects.shape[1], 1)
    return effects.gather(2, own)


def dispersion(effects: Tensor, spread: Spread) -> Tensor:
    """(n, F), over the parts, of effects (n, M, F)."""
    if spread == "std":
        return effects.std(1, correction=0)
    if spread == "mad":
        return (effects - effects.quantile(0.5, dim=1, keepdim=True)).abs().quantile(0.5, dim=1)
    return effects.quantile(0.75, dim=1) - effects.quantile(0.25, dim=1)
