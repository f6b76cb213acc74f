"""Spectral signatures: poison sticks out along the first singular direction of the representations of its class.

Tran, Li and Madry, "Spectral Signatures in Backdoor Attacks", NeurIPS 2018, arXiv:1811.00636. The
released code projects representations that are not centred on the direction that it found in the centred ones. Both
are here: once poison is half of a class, the centred scores of poison and of clean images are the same by symmetry,
and what is found without centring is found by the position of the class in the space, not by the argument of the
paper.
"""

from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from deconfound.detectors.evidence import Evidence, Flagged
from deconfound.detectors.scoring import largest, representations
from deconfound.fields import OpenFraction, Positive, Real, hyperparameters


@hyperparameters
class SpectralSignatures:
    """centred: score ((R - mean) v)^2 as published, or (R v)^2 as released (which takes the absolute value: the
    same order).

    rule: what is thrown out of every class. `fraction`: the excess * poisoned part with the largest scores, where
    `poisoned` is the share of poison in a class that is reckoned with; `percentile`: what scores above that
    `percentile` of the class, as released.
    """

    centred: bool = True
    rule: Literal["fraction", "percentile"] = "fraction"
    poisoned: OpenFraction = 0.1
    excess: Positive = 1.5
    percentile: Annotated[Real, Field(gt=0, lt=100)] = 85.0

    def examine(self, evidence: Evidence) -> Flagged:
        """Scores are squared lengths along the direction of an image's own class."""
        y, z = evidence.data.y.cpu(), representations(evidence.model, evidence.data.x)
        scores, flags = torch.zeros(len(y)), torch.zeros(len(y), dtype=torch.bool)
        for label in range(evidence.classes):
            members = (y == label).nonzero().squeeze(1)
            if len(members):
                own = spectral_scores(z[members], centred=self.centred)
                scores[members], flags[members] = own.float(), self._outliers(own)
        return Flagged(scores, flags)

    def _outliers(self, scores: Tensor) -> Tensor:
        if self.rule == "percentile":
            return scores > scores.quantile(self.percentile / 100)
        return largest(scores, int(min(1.0, self.excess * self.poisoned) * len(scores) + 1e-9))


def spectral_scores(rows: Tensor, *, centred: bool) -> Tensor:
    """(n,): squared projection of rows (n, D), or of their deviations from the mean, on the first right singular
    vector of the deviations.
    """
    deviations = rows - rows.mean(0)
    direction = torch.linalg.svd(deviations, full_matrices=False).Vh[0]
    projected: Tensor = (deviations if centred else rows) @ direction
    return projected.square()
