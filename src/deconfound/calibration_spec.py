"""What an experiment says of the calibration of estimates of information; the calibration itself is `calibration`."""

from typing import Annotated

from pydantic import Field

from deconfound.fields import Count, Natural, NonNegative, OpenFraction, Positive, hyperparameters


@hyperparameters
class Calibration:
    """dimension: D of each Gaussian. levels: true information, nats, increasing. batch_size: N (at least 2), when
    training and when reading. steps of Adam from learning rate lr, which decays to zero along half a cosine; each has
    fresh draws. hidden: width of the two hidden layers of f and of g. seeds: trainings per bound and level (at least
    2). batches: fresh ones that a trained critic is read on. seed: of all draws. tolerance: an estimate is usable where
    its whole interval over seeds lies within this fraction of the truth (or within 0.05 nats).
    """

    dimension: Count = 2
    levels: tuple[NonNegative, ...] = Field(default=(0.0, 0.5, 1.0, 2.0, 3.0, 4.0, 6.0), min_length=2)
    batch_size: Annotated[Count, Field(ge=2)] = 64
    steps: Count = 600
    hidden: Count = 32
    lr: Positive = 0.01
    seeds: Annotated[Count, Field(ge=2)] = 4
    batches: Annotated[Count, Field(ge=2)] = 100
    seed: Natural = 0
    tolerance: OpenFraction = 0.1

    def __post_init__(self) -> None:
        if any(b <= a for a, b in zip(self.levels, self.levels[1:], strict=False)):
            raise ValueError(f"levels: expected increasing values, got {list(self.levels)}")
