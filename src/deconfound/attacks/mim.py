"""MIM, the momentum iterative method: steps along an accumulated gradient, which transfers better between models.

Dong et al., "Boosting Adversarial Attacks with Momentum", CVPR 2018, algorithm 1 (also MI-FGSM).
"""

from torch import Generator, Tensor, nn

from deconfound.attacks.pgd import PGD
from deconfound.attacks.scores import ScoreName
from deconfound.fields import Count, Eps, NonNegative, Positive, hyperparameters
from deconfound.threat import Norm, ThreatModel


@hyperparameters
class MIM:
    """eps and step_size in pixel units of `norm`; step_size defaults to eps / steps. momentum: the decay mu of the
    accumulated gradient. steps, score, samples and early_stop are those of PGD.
    """

    eps: Eps
    norm: Norm = "linf"
    steps: Count = 10
    step_size: Positive | None = None
    momentum: NonNegative = 1.0
    score: ScoreName = "cross_entropy"
    samples: Count = 1
    early_stop: bool = False

    @property
    def threat(self) -> ThreatModel:
        """The budget that an evaluator holds this attack to."""
        return ThreatModel(norm=self.norm, eps=self.eps)

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, *, rng: Generator) -> Tensor:
        """The last iterate (or the first on which the model errs), like x."""
        steps = PGD(
            eps=self.eps,
            norm=self.norm,
            steps=self.steps,
            step_size=self.step_size or self.eps / self.steps or None,
            momentum=self.momentum,
            score=self.score,
            random_start=False,
            samples=self.samples,
            early_stop=self.early_stop,
        )
        return steps(model, x, y, rng=rng)
