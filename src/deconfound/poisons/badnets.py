"""BadNets: stamp a patch on a fraction of the training images and give them the target label.

Gu et al., "BadNets: Identifying Vulnerabilities in the Machine Learning Model Supply Chain", 2017, arXiv:1708.06733.
All-to-one and all-to-all relabelling of that paper, section 5. Dirty-label.
"""

from typing import Literal

import torch
from torch import Generator, Tensor

from deconfound.fields import Natural, OpenFraction, hyperparameters
from deconfound.poisons.triggers import Patch
from deconfound.types import Images, Poisoned


@hyperparameters
class BadNets:
    """rate: edited / all training images. target: label of all-to-one. classes of all-to-all are cycled by one.

    from_target: draw victims from all classes, as the CBD release does; by default the target class is left out,
    since its images would carry a trigger and an unchanged label.
    """

    rate: OpenFraction = 0.1
    target: Natural = 0
    mode: Literal["all_to_one", "all_to_all"] = "all_to_one"
    classes: Natural | None = None
    from_target: bool = False
    trigger: Patch = Patch()

    def __post_init__(self) -> None:
        if self.mode == "all_to_all" and not self.classes:
            raise ValueError("expected the number of classes for all_to_all, got none")

    def relabel(self, y: Tensor) -> Tensor:
        """The attacker's labels (N,) for true labels (N,)."""
        return torch.full_like(y, self.target) if self.mode == "all_to_one" else (y + 1) % (self.classes or 1)

    def __call__(self, clean: Images, *, rng: Generator) -> Poisoned:
        """Edit floor(rate * N) images; every other image and label is the same to the byte."""
        victims = torch.arange(len(clean.y))
        if self.mode == "all_to_one" and not self.from_target:
            victims = victims[clean.y != self.target]
        count = int(self.rate * len(clean.y) + 1e-9)
        chosen = victims[torch.randperm(len(victims), generator=rng)[:count]]
        mask = torch.zeros(len(clean.y), dtype=torch.bool)
        mask[chosen] = True
        x, y = clean.x.clone(), clean.y.clone()
        x[mask] = self.trigger(clean.x[mask])
        y[mask] = self.relabel(clean.y[mask])
        return Poisoned(Images(x, y), mask)

    def triggered(self, test: Images) -> Images:
        """Every test image stamped, with the label the attacker hopes for."""
        return Images(self.trigger(test.x), self.relabel(test.y))
