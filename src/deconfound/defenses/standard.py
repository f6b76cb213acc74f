"""Standard training: empirical risk minimisation with the cross-entropy. The base of every other run."""

from typing import ClassVar

from torch import Generator, Tensor, nn
from torch.nn import functional as F

from deconfound.defenses.workbench import PLAIN, Adaptive, Defended, Workbench
from deconfound.fields import hyperparameters


@hyperparameters
class Standard:
    """No hyper-parameters beyond the recipe."""

    adaptive: ClassVar[Adaptive] = PLAIN

    def __call__(self, bench: Workbench) -> Defended:
        """Train on the labels as given."""
        model = bench.begin()
        bench.fit(model, cross_entropy)
        return Defended(model)


def cross_entropy(model: nn.Module, x: Tensor, y: Tensor, *, rng: Generator) -> Tensor:
    """Mean cross-entropy of a batch, nats."""
    return F.cross_entropy(model(x), y)
