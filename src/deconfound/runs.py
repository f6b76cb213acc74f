"""What one trained model is called: the key of every table and the path of every file."""

from dataclasses import asdict, dataclass
from typing import Any

CLEAN = "clean"  # the name of no poison


@dataclass(frozen=True, order=True)
class Run:
    """One trained model."""

    dataset: str
    poison: str
    model: str
    defense: str
    seed: int

    def __str__(self) -> str:
        return f"{self.dataset}/{self.poison}/{self.model}/{self.defense}/seed{self.seed}"

    def with_(self, **changes: Any) -> "Run":
        """The same run with other parts."""
        return Run(**(asdict(self) | changes))
