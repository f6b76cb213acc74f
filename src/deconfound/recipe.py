"""How long and with what optimiser a network is trained: a named recipe of an experiment."""

import math
from typing import Annotated, Literal

from pydantic import Field

from deconfound.fields import Count, Fraction01, Natural, NonNegative, Positive, hyperparameters


@hyperparameters
class Recipe:
    """epochs over the training set in batches of batch_size; lr, momentum and weight_decay of the optimiser.

    schedule: `constant`; `steps` multiplies lr by 0.1 at each of `milestones` (fractions of all steps);
    `cosine` decays to zero; `cyclic` rises linearly to lr over the first fifth and falls to zero.
    crop: pixels of zero padding for random crops; flip: random horizontal flips. Both after stamping.
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

    def lr_at(self, progress: float) -> float:
        """Learning rate at a fraction of all steps in [0, 1)."""
        if self.schedule == "steps":
            return self.lr * 0.1 ** sum(progress >= milestone for milestone in self.milestones)
        if self.schedule == "cosine":
            return self.lr * 0.5 * (1 + math.cos(math.pi * progress))
        if self.schedule == "cyclic":
            return self.lr * (progress / 0.2 if progress < 0.2 else (1 - progress) / 0.8)
        return self.lr
