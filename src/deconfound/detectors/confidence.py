"""Confidence: one minus the largest probability. A baseline that every other detector has to beat.

Hendrycks and Gimpel, "A Baseline for Detecting Misclassified and Out-of-Distribution Examples in Neural Networks",
ICLR 2017, arXiv:1610.02136. It finds what stops at the decision boundary and misses what goes far beyond it.
"""

from collections.abc import Callable

from torch import Tensor

from deconfound.detectors.evidence import Evidence
from deconfound.detectors.learning import by_batches
from deconfound.fields import Positive, hyperparameters
from deconfound.models.classifier import eval_mode


@hyperparameters
class Confidence:
    """temperature: by which the logits are divided first; 1 leaves them as they are."""

    temperature: Positive = 1.0

    def suspicion(self, evidence: Evidence) -> Callable[[Tensor], Tensor]:
        """1 - max p, in [0, 1 - 1 / K], as the sum of the others, which keeps its digits where p rounds to 1."""
        return by_batches(evidence.model, self.score_of(evidence))

    def score_of(self, evidence: Evidence) -> Callable[[Tensor], Tensor]:
        """The same with a gradient."""

        def score(x: Tensor) -> Tensor:
            with eval_mode(evidence.model):
                logits = evidence.model(x).double() / self.temperature
            p: Tensor = logits.softmax(1).sort(dim=1, descending=True).values
            return p[:, 1:].sum(1)

        return score
