"""Adversarial training: minimise the cross-entropy at the worst point of the ball that PGD finds.

Madry et al., "Towards Deep Learning Models Resistant to Adversarial Attacks", ICLR 2018, equation 2.1.
"""

from typing import Annotated, ClassVar

from pydantic import Field
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from deconfound.attacks.ascent import Ascent
from deconfound.attacks.scores import cross_entropy
from deconfound.defenses.robustly import train_robustly
from deconfound.defenses.workbench import PLAIN, Adaptive, Defended, Validation, Workbench
from deconfound.fields import Fraction01, hyperparameters
from deconfound.models.classifier import eval_mode
from deconfound.threat import ThreatModel

CIFAR = Ascent(threat=ThreatModel(eps=8 / 255), step_size=2 / 255, steps=10)


@hyperparameters
class AdversarialTraining:
    """ascent: the inner maximisation, in evaluation mode. clean: weight of the clean cross-entropy beside it.
    validation: robust accuracy on `val` after each epoch is left out (`none`), recorded (`track`), or chooses the
    epoch whose weights are kept (`best`).
    """

    adaptive: ClassVar[Adaptive] = PLAIN

    ascent: Ascent = CIFAR
    clean: Annotated[Fraction01, Field(lt=1)] = 0.0
    validation: Validation = "none"

    def __call__(self, bench: Workbench) -> Defended:
        """Train on adversarial images."""
        return train_robustly(bench, bench.begin(), self.objective, self.ascent, self.validation)

    def objective(self, model: nn.Module, x: Tensor, y: Tensor, *, rng: Generator) -> Tensor:
        """(1 - clean) CE(model(x_adv), y) + clean CE(model(x), y), mean over the batch."""
        with eval_mode(model):
            x_adv = self.ascent(lambda z: cross_entropy(model(z), y), x, rng=rng)
        loss = F.cross_entropy(model(x_adv), y)
        if self.clean:
            loss = (1 - self.clean) * loss + self.clean * F.cross_entropy(model(x), y)
        return loss
