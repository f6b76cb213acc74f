"""What all backdoor poisons share: who is edited and which label they get. A poison adds its trigger.

Conventions differ between releases, so each is a setting: drawn from all images, from those of other classes, or
(clean-label) from the target class; the rate counted on the whole training set or on those candidates.
"""

from abc import ABC, abstractmethod
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from deconfound.errors import ConfigError
from deconfound.fields import Fraction01, Natural, OpenFraction, hyperparameters
from deconfound.poisons.workshop import Planting, Poisoned, Workshop
from deconfound.types import Images


@hyperparameters
class Backdoor(ABC):
    """rate: poisoned images as a fraction of rate_of: `data`, all training images, or `candidates`, those it may draw
    from. mode: `all_to_one` gives the label `target`, `all_to_all` moves every label up by one, `clean_label` poisons
    images of the target class and leaves every label as it is.

    victims: with all_to_one, `non_target` leaves the target class out (its images would carry a trigger and an
    unchanged label), `all` draws from it too. cover: further images, as a fraction of rate_of, that are edited and
    keep their labels, so that the trigger alone no longer gives the label away.
    """

    needs: ClassVar[tuple[str, ...]] = ()

    rate: OpenFraction = 0.1
    rate_of: Literal["data", "candidates"] = "data"
    target: Natural = 0
    mode: Literal["all_to_one", "all_to_all", "clean_label"] = "all_to_one"
    victims: Literal["non_target", "all"] = "non_target"
    cover: Annotated[Fraction01, Field(lt=1)] = 0.0

    @abstractmethod
    def plant(self, shop: Workshop, chosen: Tensor) -> Planting:
        """The trigger; chosen: places (M,) of the images that are poisoned. Draws must not depend on the rate."""

    def misfits(self, shape: tuple[int, int, int] | None) -> list[str]:
        """What of the trigger cannot be on images of `shape` (C, H, W), None where unknown."""
        return []

    def faults(self, shape: tuple[int, int, int] | None, classes: int | None) -> list[str]:
        """A target outside the classes, a trigger that does not fit the picture."""
        found = []
        if classes is not None and self.mode != "all_to_all" and self.target >= classes:
            found.append(f"target: expected a label from 0 to {classes - 1}, got {self.target}")
        return found + self.misfits(shape)

    def hoped(self, y: Tensor, *, classes: int) -> Tensor:
        """The attacker's labels (N,) for stamped test images with true labels (N,)."""
        return (y + 1) % classes if self.mode == "all_to_all" else torch.full_like(y, self.target)

    def candidates(self, y: Tensor) -> Tensor:
        """Who may be poisoned: (N,) bool."""
        if self.mode == "clean_label":
            return y == self.target
        if self.mode == "all_to_one" and self.victims == "non_target":
            return y != self.target
        return torch.ones_like(y, dtype=torch.bool)

    def coverable(self, y: Tensor) -> Tensor:
        """Who may be a cover image, if not poisoned: (N,) bool."""
        return self.candidates(y) if self.mode != "clean_label" else y != self.target

    def choose(self, shop: Workshop) -> tuple[Tensor, Tensor]:
        """Places of the poisoned and of the cover images, in the order drawn: floor(rate * n) and floor(cover * n).

        Raises ConfigError where there are fewer images to choose from, or the rate is less than one image.
        """
        y = shop.data.y
        order = torch.randperm(len(y), generator=shop.rng("victims"))
        able = self.candidates(y)
        base = len(y) if self.rate_of == "data" else int(able.sum())
        count, covers = (int(part * base + 1e-9) for part in (self.rate, self.cover))
        drawn = order[able[order]]
        chosen = drawn[:count]
        free = self.coverable(y)
        free[chosen] = False
        rest = order[free[order]]
        if not 0 < count <= len(drawn) or covers > len(rest):
            expected = f"rate: expected 1 to {len(drawn)} of {base} images, got {count}"
            raise ConfigError(f"{expected}, and {covers} of {len(rest)} for cover")
        return chosen, rest[:covers]

    def __call__(self, shop: Workshop) -> Poisoned:
        """Edit the chosen images and their labels; all else stays to the byte."""
        clean = shop.data
        chosen, covers = self.choose(shop)
        planting = self.plant(shop, chosen)
        x, y = clean.x.clone(), clean.y.clone()
        x[chosen] = (planting.payload or planting.stamp)(clean.x[chosen])
        if len(covers):
            x[covers] = (planting.cover or planting.stamp)(clean.x[covers])
        if self.mode != "clean_label":
            y[chosen] = self.hoped(clean.y[chosen], classes=shop.classes)
        mask, cover = torch.zeros(2, len(y), dtype=torch.bool)
        mask[chosen] = True
        cover[covers] = True
        return Poisoned(Images(x, y), mask, cover, planting)
