"""BadNets: stamp a patch on a fraction of the training images and give them the target label.

Gu et al., "BadNets: Identifying Vulnerabilities in the Machine Learning Model Supply Chain", 2017,
arXiv:1708.06733. All-to-one and all-to-all relabelling of that paper, section 5. Dirty-label.
"""

from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Generator, Tensor

from deconfound.errors import ConfigError
from deconfound.fields import Fraction01, Natural, OpenFraction, hyperparameters
from deconfound.poisons.triggers import Patch
from deconfound.types import Images, Poisoned


@hyperparameters
class BadNets:
    """rate: edited / all training images. mode: all_to_one gives the label `target`, all_to_all moves every label
    up by one. trigger: the patch.

    from_target: draw victims from all classes, as the CBD release does; by default the target class is left
    out, since its images would carry a trigger and an unchanged label.

    cover: further images, as a fraction of all training images, that are stamped and keep their labels, so that the
    trigger alone no longer gives the label away early in training (Qi et al., "Revisiting the Assumption of Latent
    Separability for Backdoor Defenses", ICLR 2023, section 4.2).
    """

    rate: OpenFraction = 0.1
    cover: Annotated[Fraction01, Field(lt=1)] = 0.0
    target: Natural = 0
    mode: Literal["all_to_one", "all_to_all"] = "all_to_one"
    from_target: bool = False
    trigger: Patch = Patch()

    def faults(self, shape: tuple[int, int, int] | None, classes: int | None) -> list[str]:
        """A target outside the classes, a patch larger than the picture."""
        found = []
        if classes is not None and self.mode == "all_to_one" and self.target >= classes:
            found.append(f"target: expected a label from 0 to {classes - 1}, got {self.target}")
        if shape is not None and not self.trigger.fits(*shape[1:]):
            size = f"{self.trigger.size} pixels and margin {self.trigger.margin}"
            found.append(f"trigger: expected a patch inside {shape[1]} x {shape[2]} pixels, got {size}")
        return found

    def relabel(self, y: Tensor, classes: int) -> Tensor:
        """The attacker's labels (N,) for true labels (N,)."""
        return torch.full_like(y, self.target) if self.mode == "all_to_one" else (y + 1) % classes

    def __call__(self, clean: Images, *, classes: int, rng: Generator) -> Poisoned:
        """Edit floor(rate * N) images and labels, and floor(cover * N) further images; all else stays to the byte.

        Raises ConfigError where there are fewer images to choose from, or the rate is less than one image.
        """
        victims = torch.arange(len(clean.y))
        if self.mode == "all_to_one" and not self.from_target:
            victims = victims[clean.y != self.target]
        count, covers = (int(part * len(clean.y) + 1e-9) for part in (self.rate, self.cover))
        if not 0 < count <= count + covers <= len(victims):
            raise ConfigError(
                f"rate: expected 1 to {len(victims)} of {len(clean.y)} images, got {count}, and {covers} for cover"
            )
        order = victims[torch.randperm(len(victims), generator=rng)[: count + covers]]
        mask = torch.zeros(len(clean.y), dtype=torch.bool)
        mask[order] = True
        x, y = clean.x.clone(), clean.y.clone()
        x[mask] = self.trigger(clean.x[mask])
        y[order[:count]] = self.relabel(clean.y[order[:count]], classes)
        return Poisoned(Images(x, y), mask)

    def triggered(self, test: Images, *, classes: int) -> Images:
        """Every test image stamped, with the label the attacker hopes for."""
        return Images(self.trigger(test.x), self.relabel(test.y, classes))
