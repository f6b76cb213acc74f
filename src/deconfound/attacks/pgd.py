"""FGSM and PGD, in every norm of the threat model.

FGSM: Goodfellow et al., "Explaining and Harnessing Adversarial Examples", ICLR 2015, one signed gradient
step. PGD: Madry et al., "Towards Deep Learning Models Resistant to Adversarial Attacks", ICLR 2018, section
2.1.
"""

import torch
from torch import Generator, Tensor, nn

from deconfound.attacks.ascent import Ascent
from deconfound.attacks.scores import SCORES, ScoreName, margin
from deconfound.fields import Count, Eps, Positive, hyperparameters
from deconfound.models.classifier import eval_mode
from deconfound.threat import Norm, ThreatModel


@hyperparameters
class PGD:
    """Projected gradient ascent on a score. eps and step_size in pixel units of `norm`; steps from a
    random_start (or from the image itself); restarts are independent random starts.

    step_size defaults to 2.5 eps / steps, the choice of Madry et al. for their l2 and MNIST experiments.
    """

    eps: Eps
    norm: Norm = "linf"
    steps: Count = 20
    step_size: Positive | None = None
    restarts: Count = 1
    score: ScoreName = "cross_entropy"
    random_start: bool = True

    @property
    def threat(self) -> ThreatModel:
        """The budget that an evaluator holds this attack to."""
        return ThreatModel(norm=self.norm, eps=self.eps)

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, *, rng: Generator) -> Tensor:
        """Per image the restart with the largest margin; x (N, C, H, W) in [0, 1], y (N,) true labels."""
        step = self.step_size or max(2.5 * self.eps / self.steps, 1e-12)
        ascent = Ascent(threat=self.threat, step_size=step, steps=self.steps, random_start=self.random_start)
        score = SCORES[self.score]
        with eval_mode(model):
            best = ascent(lambda z: score(model(z), y), x, rng=rng)
            if self.restarts == 1 or len(x) == 0:
                return best
            with torch.no_grad():
                worst = margin(model(best), y)
            for _ in range(self.restarts - 1):
                z = ascent(lambda z: score(model(z), y), x, rng=rng)
                with torch.no_grad():
                    found = margin(model(z), y)
                better = found > worst
                best = torch.where(better.view(-1, *[1] * (x.dim() - 1)), z, best)
                worst = torch.where(better, found, worst)
        return best


@hyperparameters
class FGSM:
    """One step of size eps (pixel units of `norm`) from the image itself, without a random start."""

    eps: Eps
    norm: Norm = "linf"

    @property
    def threat(self) -> ThreatModel:
        """The budget that an evaluator holds this attack to."""
        return ThreatModel(norm=self.norm, eps=self.eps)

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, *, rng: Generator) -> Tensor:
        """x plus eps times the steepest direction of the cross-entropy, clipped to the box."""
        ascent = Ascent(threat=self.threat, step_size=max(self.eps, 1e-12), steps=1, random_start=False)
        score = SCORES["cross_entropy"]
        with eval_mode(model):
            return ascent(lambda z: score(model(z), y), x, rng=rng)
