"""MART: adversarial training that weighs its divergence by how wrong the network is on the clean image.

Wang et al., "Improving Adversarial Robustness Requires Revisiting Misclassified Examples", ICLR 2020. Defaults: the
baseline in the experiments of ADML (arXiv:2307.07250), whose weight of the divergence is 2.
"""

from typing import ClassVar

from torch import Generator, Tensor, nn

from deconfound.attacks.ascent import Ascent
from deconfound.defenses.losses import CIFAR, craft, mart
from deconfound.defenses.robustly import train_robustly
from deconfound.defenses.workbench import PLAIN, Adaptive, Defended, Validation, Workbench
from deconfound.fields import NonNegative, hyperparameters


@hyperparameters
class MART:
    """ascent: the inner maximisation, of the cross-entropy. weight of the divergence; 0 leaves the boosted
    cross-entropy. validation: robust accuracy on `val` after each epoch is left out (`none`), recorded (`track`), or
    chooses the epoch whose weights are kept (`best`).
    """

    adaptive: ClassVar[Adaptive] = PLAIN

    ascent: Ascent = CIFAR
    weight: NonNegative = 2.0
    validation: Validation = "none"

    def __call__(self, bench: Workbench) -> Defended:
        """Train on the composed loss."""
        return train_robustly(bench, bench.begin(), self.objective, self.ascent, self.validation)

    def objective(self, model: nn.Module, x: Tensor, y: Tensor, *, rng: Generator) -> Tensor:
        """The loss of MART on a batch (`losses.mart`); scalar, nats."""
        adversarial = model(craft(self.ascent, model, x, y, rng=rng))
        return mart(model(x), adversarial, y, self.weight)
