"""Lowest loss: what a network has learnt best is what was easy, and poison is meant to be easy.

A sanity baseline without a paper of its own: it says whether a finer detector is needed at all. The idea is that of
the isolation stage of Li et al., "Anti-Backdoor Learning: Training Clean Models on Poisoned Data", NeurIPS 2021,
arXiv:2110.11571, without its training. It works on a network that was trained for a few steps only.
"""

from torch.nn import functional as F

from deconfound.detectors.evidence import Evidence, Flagged
from deconfound.detectors.scoring import largest
from deconfound.fields import OpenFraction, hyperparameters
from deconfound.models.classifier import predict


@hyperparameters
class LowestLoss:
    """fraction: of the training images that is flagged, those with the lowest loss (cross-entropy, given label)."""

    fraction: OpenFraction = 0.1

    def examine(self, evidence: Evidence) -> Flagged:
        """The score is minus the loss, nats."""
        logits, y = predict(evidence.model, evidence.data.x), evidence.data.y.cpu()
        scores = -F.cross_entropy(logits, y, reduction="none") if len(y) else logits.flatten()
        return Flagged(scores, largest(scores, int(self.fraction * len(scores) + 1e-9)))
