"""BIM, the basic iterative method: small signed steps from the image itself.

Kurakin et al., "Adversarial Examples in the Physical World", ICLR 2017 workshop, section 2.2.
"""

from torch import Generator, Tensor, nn

from deconfound.attacks.pgd import PGD
from deconfound.attacks.scores import ScoreName
from deconfound.fields import Count, Eps, Positive, hyperparameters
from deconfound.threat import Norm, ThreatModel


@hyperparameters
class BIM:
    """PGD without a random start. eps and step_size in pixel units of `norm`; step_size defaults to eps / steps, so
    that the last step can just reach the edge. steps, score, samples and early_stop are those of PGD.
    """

    eps: Eps
    norm: Norm = "linf"
    steps: Count = 10
    step_size: Positive | None = None
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
            score=self.score,
            random_start=False,
            samples=self.samples,
            early_stop=self.early_stop,
        )
        return steps(model, x, y, rng=rng)
