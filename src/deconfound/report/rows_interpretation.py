"""Row of the CSV table of interpretations, as it stands in the file."""

from dataclasses import dataclass

from deconfound.report.rows import Cell


@dataclass(frozen=True, kw_only=True)
class Interpretation(Cell):
    """A row of interpretation.csv: a reading's mean with its 95 % interval over seeds and images; total: how many test
    images it rests on, 0 for a number of the run. interpretation: name of its block; kind: its method.
    """

    interpretation: str
    kind: str
    subject: str
    condition: str
    metric: str
    value: float
    low: float
    high: float
    total: int
    seeds: int

    @property
    def reading(self) -> str:
        """By which a ledger asks for it."""
        return f"{self.interpretation}.{self.subject}.{self.condition}.{self.metric}"
