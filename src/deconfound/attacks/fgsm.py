"""FGSM: one signed gradient step.

Goodfellow et al., "Explaining and Harnessing Adversarial Examples", ICLR 2015, section 4. In another norm than linf the
step is that norm's steepest one.
"""

from torch import Generator, Tensor, nn

from deconfound.attacks.pgd import PGD
from deconfound.fields import Count, Eps, hyperparameters
from deconfound.threat import Norm, ThreatModel


@hyperparameters
class FGSM:
    """One step of size eps (pixel units of `norm`) from the image itself, without a random start. samples: evaluations
    whose mean gradient is taken, for models that draw.
    """

    eps: Eps
    norm: Norm = "linf"
    samples: Count = 1

    @property
    def threat(self) -> ThreatModel:
        """The budget that an evaluator holds this attack to."""
        return ThreatModel(norm=self.norm, eps=self.eps)

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, *, rng: Generator) -> Tensor:
        """x plus eps times the steepest direction of the cross-entropy, clipped to the box."""
        step = PGD(
            eps=self.eps,
            norm=self.norm,
            steps=1,
            step_size=self.eps or None,
            random_start=False,
            samples=self.samples,
        )
        return step(model, x, y, rng=rng)
