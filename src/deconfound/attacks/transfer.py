"""Transfer: images crafted on another model, fed to this one. A black-box attack from a stored adversarial
set.

Papernot et al., "Transferability in Machine Learning", 2016, arXiv:1605.07277.
"""

from typing import Any

from torch import Generator, Tensor, nn

from deconfound.fields import hyperparameters


@hyperparameters
class Transfer:
    """attack: the attack that crafted the images; defense, model: of the run it crafted them on (the same
    data, poison and seed). model None: the same architecture. crafted_by: the block of that attack, filled in
    by the plan.
    """

    attack: str
    defense: str = "standard"
    model: str | None = None
    crafted_by: dict[str, Any] | None = None

    def source(self, run: Any) -> Any:
        """The run whose stored images are used."""
        return run.with_(defense=self.defense, model=self.model or run.model)

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, *, rng: Generator) -> Tensor:
        """Refuses: the images come from a file, which the evaluation reads."""
        raise TypeError("a transfer has no images of its own; the evaluation takes them from the stored set")
