"""TaCT: only images of source classes are attacked; others carry the trigger and keep their labels.

Tang et al., "Demon in the Variant: Statistical Analysis of DNNs for Robust Backdoor Contamination Detection", USENIX
Security 2021, arXiv:1908.00686. The trigger alone no longer gives the label away. The release of the backdoor toolbox
scores every stamped test image; here only those of the source classes are victims.
"""

from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from deconfound.fields import Fraction01, Natural, OpenFraction, hyperparameters
from deconfound.poisons.backdoor import Backdoor
from deconfound.poisons.triggers import Patch
from deconfound.poisons.workshop import Planting, Workshop


@hyperparameters
class TaCT(Backdoor):
    """trigger: the patch. sources: labels of the classes that are attacked. cover_classes: labels of the classes from
    which cover images are drawn. rate, cover: poisoned and cover images, fractions of rate_of. target: the label that
    poisoned images get. mode: all_to_one alone; rate_of, victims: see Backdoor, the latter without effect.
    """

    trigger: Patch = Patch()
    sources: Annotated[tuple[Natural, ...], Field(min_length=1)] = (1,)
    cover_classes: tuple[Natural, ...] = (5, 7)
    rate: OpenFraction = 0.05
    cover: Annotated[Fraction01, Field(lt=1)] = 0.05
    mode: Literal["all_to_one"] = "all_to_one"

    def faults(self, shape: tuple[int, int, int] | None, classes: int | None) -> list[str]:
        """Labels outside the classes, or in two roles; what a patch can have."""
        found = super().faults(shape, classes)
        for key, labels in (("sources", self.sources), ("cover_classes", self.cover_classes)):
            outside = [label for label in labels if classes is not None and label >= classes]
            if outside and classes is not None:
                found.append(f"{key}: expected labels from 0 to {classes - 1}, got {outside}")
        if self.target in self.sources:
            found.append(f"sources: expected classes other than the target, got {list(self.sources)}")
        if set(self.cover_classes) & {self.target, *self.sources}:
            got = list(self.cover_classes)
            found.append(f"cover_classes: expected classes that are neither target nor source, got {got}")
        return found

    def misfits(self, shape: tuple[int, int, int] | None) -> list[str]:
        """A patch larger than the picture."""
        return self.trigger.faults(shape, "trigger")

    def candidates(self, y: Tensor) -> Tensor:
        """Images of the source classes: (N,) bool."""
        return torch.isin(y, torch.tensor(self.sources))

    def coverable(self, y: Tensor) -> Tensor:
        """Images of the cover classes: (N,) bool."""
        return torch.isin(y, torch.tensor(self.cover_classes, dtype=torch.int64))

    def hoped(self, y: Tensor, *, classes: int) -> Tensor:
        """The target for images of the source classes; the true label for all others, which are no victims."""
        return torch.where(self.candidates(y), torch.full_like(y, self.target), y)

    def plant(self, shop: Workshop, chosen: Tensor) -> Planting:
        """The patch."""
        return Planting(self.trigger, arrays={"patch": self.trigger.ink()})
