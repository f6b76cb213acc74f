"""What an attacker is handed and what comes back: a poisoned training set, and the trigger that it plants."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import ClassVar, NamedTuple, Protocol

from torch import Generator, Tensor

from deconfound.defenses.workbench import Fit
from deconfound.models.classifier import Classifier
from deconfound.recipe import Recipe
from deconfound.types import Images, Trigger


@dataclass(frozen=True)
class Workshop:
    """data: the clean training set of K = classes classes. rng(purpose): a generator of the run's seed.

    The rest is there for poisons that ask for it (`needs`), to train a surrogate of the victim on `data`:
    network(purpose), a fresh network of the surrogate's architecture, normalised for `data`; recipe; fit, the training
    loop.
    """

    data: Images
    classes: int
    rng: Callable[[str], Generator]
    network: Callable[[str], Classifier] | None = None
    recipe: Recipe | None = None
    fit: Fit | None = None

    def surrogate(self) -> tuple[Callable[[str], Classifier], Recipe, Fit]:
        """The three parts that training takes; only for poisons that declare their need of them."""
        assert self.network is not None and self.recipe is not None and self.fit is not None
        return self.network, self.recipe, self.fit


@dataclass(frozen=True)
class Planting:
    """A trigger: stamp is what happens at test time, a function of uint8 images (N, C, H, W).

    payload, cover: what happens to training images that are poisoned, and to those that keep their labels, where this
    is not the stamp. cross: a harmless look-alike of the stamp, under which a test image should keep its class. arrays:
    what the trigger consists of, by name, for the record.
    """

    stamp: Trigger
    payload: Trigger | None = None
    cover: Trigger | None = None
    cross: Trigger | None = None
    arrays: Mapping[str, Tensor] = field(default_factory=dict)


class Poisoned(NamedTuple):
    """A training set after an attacker touched it.

    images: what a defender receives. mask (N,) bool: poisoned; cover (N,) bool: edited, with the true label. Both are
    for scoring, never for a defense. planting: the trigger.
    """

    images: Images
    mask: Tensor
    cover: Tensor
    planting: Planting


class Poison(Protocol):
    """Whom the attacker edits, how, and with which label. needs: keys of its block besides its parameters."""

    needs: ClassVar[tuple[str, ...]]

    def __call__(self, shop: Workshop) -> Poisoned:
        """Edit a fraction of the training set; `shop.data` is left alone."""

    def hoped(self, y: Tensor, *, classes: int) -> Tensor:
        """The label (N,) that the attacker hopes for on stamped test images with true labels (N,); the true one where
        the image is no victim.
        """

    def faults(self, shape: tuple[int, int, int] | None, classes: int | None) -> list[str]:
        """What cannot be on images of `shape` (C, H, W) in so many classes; None where unknown before the fetch.

        Each fault begins with its key.
        """
