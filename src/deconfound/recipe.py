"""How long and with what optimiser a network is trained: a named recipe of an experiment."""

import math
from typing import Annotated, Literal

from pydantic import Field

from deconfound.fields import Count, Fraction01, Natural, NonNegative, OpenFraction, Positive, hyperparameters


@hyperparameters
class Recipe:
    """epochs over the training set in batches of batch_size; lr, momentum and weight_decay of the optimiser.

    schedule: `constant`; `steps` multiplies lr by 0.1 at each of `milestones` (fractions of all steps);
    `cosine` decays to zero; `cyclic` rises linearly to lr over the fraction `peak` of all steps and falls to zero;
    cycle_momentum: with `cyclic`, momentum falls to this at the peak and rises again (as torch's CyclicLR does).
    crop: pixels of zero padding for random crops; flip: random horizontal flips. Both after stamping.
    drop_last: leave out the last batch of an epoch when it is smaller. average: decay of an exponential moving average
    of the weights, taken after every step, which is what remains after the training; 0 for none.
    """

    epochs: Count = 10
    batch_size: Annotated[Natural, Field(ge=2)] = 64
    optimizer: Literal["sgd", "adam", "adamw"] = "sgd"
    lr: Positive = 0.05
    momentum: Annotated[NonNegative, Field(lt=1)] = 0.9
    nesterov: bool = True
    weight_decay: NonNegative = 1e-4
    schedule: Literal["constant", "steps", "cosine", "cyclic"] = "steps"
    milestones: tuple[Fraction01, ...] = (0.5, 0.8)
    crop: Natural = 0
    flip: bool = False
    peak: OpenFraction = 0.2
    cycle_momentum: Annotated[NonNegative, Field(lt=1)] | None = None
    drop_last: bool = False
    average: Annotated[NonNegative, Field(lt=1)] = 0.0

    def lr_at(self, progress: float) -> float:
        """Learning rate at a fraction of all steps in [0, 1)."""
        if self.schedule == "steps":
            return self.lr * 0.1 ** sum(progress >= milestone for milestone in self.milestones)
        if self.schedule == "cosine":
            return self.lr * 0.5 * (1 + math.cos(math.pi * progress))
        if self.schedule == "cyclic":
            return self.lr * self._rise(progress)
        return self.lr

    def momentum_at(self, progress: float) -> float:
        """Momentum at a fraction of all steps in [0, 1)."""
        if self.schedule != "cyclic" or self.cycle_momentum is None:
            return self.momentum
        return self.momentum - (self.momentum - self.cycle_momentum) * self._rise(progress)

    def _rise(self, progress: float) -> float:
        return progress / self.peak if progress < self.peak else (1 - progress) / (1 - self.peak)
