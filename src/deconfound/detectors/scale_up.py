"""SCALE-UP: a triggered image keeps its prediction when its pixels are multiplied.

Guo et al., "SCALE-UP: An Efficient Black-box Input-level Backdoor Detection via Analyzing Scaled Prediction
Consistency", ICLR 2023, arXiv:2302.03251. Pixels are scaled before normalisation and clipped at 1. With held-out
images the paper standardises the score by those of the predicted class; a release takes one mean and deviation for
all classes. That release scores only images whose prediction is their label (of triggered ones, the successful
attacks); here all are scored. On pictures that are nearly black and white, scaling changes little and the score
says little.
"""

from collections.abc import Callable
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from deconfound.detectors.evidence import Evidence, Flagged
from deconfound.detectors.scoring import held_out
from deconfound.fields import Positive, Real, hyperparameters
from deconfound.models.classifier import predict, to_unit

NARROWEST = 0.1  # a deviation below it is taken for this: few images of a class often agree altogether


@hyperparameters
class ScaleUp:
    """multipliers: factors of the pixels; the score is the share of them that leave the predicted class as it is.

    standardise: subtract the mean of the held-out images and divide by their standard deviation; `none`, over `all`
    of them, or over those of the predicted `class`. threshold: from this score on, a training image is flagged; a
    share with `none`, standard deviations otherwise.
    """

    multipliers: Annotated[tuple[Positive, ...], Field(min_length=1)] = (3.0, 5.0, 7.0, 9.0, 11.0)
    standardise: Literal["none", "all", "class"] = "none"
    threshold: Real = 0.5

    def suspicion(self, evidence: Evidence) -> Callable[[Tensor], Tensor]:
        """Scaled prediction consistency, in [0, 1] or standardised."""
        if self.standardise == "none":
            return lambda x: self._consistency(evidence, x)[0]
        clean, predicted = self._consistency(evidence, held_out(evidence).x)
        centre, width = _moments(clean)
        means, widths = (part.repeat(evidence.classes) for part in (centre, width))
        for label in sorted(set(predicted.tolist())) if self.standardise == "class" else ():
            means[label], widths[label] = _moments(clean[predicted == label])

        def score(x: Tensor) -> Tensor:
            consistency, label = self._consistency(evidence, x)
            return (consistency - means[label]) / widths[label]

        return score

    def examine(self, evidence: Evidence) -> Flagged:
        """The same scores of the training images."""
        scores = self.suspicion(evidence)(evidence.data.x)
        return Flagged(scores, scores >= self.threshold)

    def _consistency(self, evidence: Evidence, x: Tensor) -> tuple[Tensor, Tensor]:
        """Share of multipliers (n,) that leave the predicted label (n,) as it is."""
        if not len(x):
            return torch.zeros(0), torch.zeros(0, dtype=torch.int64)
        predicted = predict(evidence.model, x).argmax(1)
        same = torch.zeros(len(x))
        for factor in self.multipliers:
            same += predict(evidence.model, (to_unit(x) * factor).clamp_max(1)).argmax(1) == predicted
        return same / len(self.multipliers), predicted


def _moments(scores: Tensor) -> tuple[Tensor, Tensor]:
    return scores.mean(), scores.std(correction=0).clamp_min(NARROWEST)
