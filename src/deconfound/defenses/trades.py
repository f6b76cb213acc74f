"""TRADES: pay for robustness with a divergence instead of with the label.

Zhang et al., "Theoretically Principled Trade-off between Robustness and Accuracy", ICML 2019,
arXiv:1901.08573, multi-class objective. Defaults: its CIFAR-10 setting (eps 0.031 as 8/255, beta = 1/lambda).
"""

from typing import ClassVar

from torch import Generator, Tensor, nn
from torch.nn import functional as F

from deconfound.attacks.ascent import Ascent
from deconfound.attacks.scores import kl
from deconfound.defenses.robustly import train_robustly
from deconfound.defenses.workbench import PLAIN, Adaptive, Defended, Validation, Workbench
from deconfound.fields import NonNegative, hyperparameters
from deconfound.models.classifier import eval_mode
from deconfound.threat import ThreatModel

CIFAR = Ascent(threat=ThreatModel(eps=8 / 255), step_size=0.007, steps=10, start="gaussian")


@hyperparameters
class TRADES:
    """ascent: the inner maximisation. beta weighs the divergence against the clean cross-entropy; 0 is standard
    training. validation: robust accuracy on `val` after each epoch is left out (`none`), recorded (`track`), or chooses
    the epoch whose weights are kept (`best`).
    """

    adaptive: ClassVar[Adaptive] = PLAIN

    ascent: Ascent = CIFAR
    beta: NonNegative = 6.0
    validation: Validation = "none"

    def __call__(self, bench: Workbench) -> Defended:
        """Train on the composed loss."""
        return train_robustly(bench, bench.begin(), self.objective, self.ascent, self.validation)

    def objective(self, model: nn.Module, x: Tensor, y: Tensor, *, rng: Generator) -> Tensor:
        """Mean of CE(model(x), y) + beta KL(model(x) || model(x_adv)); scalar, nats."""
        if not self.beta:
            return F.cross_entropy(model(x), y)
        with eval_mode(model):
            clean = model(x).detach()
            # The divergence is flat at x itself: the random start of the ascent matters.
            x_adv = self.ascent(lambda z: kl(clean, model(z)), x, rng=rng)
        logits = model(x)
        return F.cross_entropy(logits, y) + self.beta * kl(logits, model(x_adv)).mean()
