"""What an interpretation is handed, and what it hands back.

A reading is one number per test image, or one per run, at a place of three words: of what (`subject`: a method, a
layer, a detector), in which situation (`condition`: an attack, noise, the trigger), and which quantity (`metric`).
Together with the name of its block they make the name by which a ledger asks for it: `shift.grad_cam.attack.spearman`.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from deconfound.models.classifier import Classifier
from deconfound.properties.subject import Subject
from deconfound.types import Array, Images

Floats = NDArray[np.float64]
WORD = re.compile(r"[a-z0-9_]+")


@dataclass(frozen=True)
class Truth:
    """What only the judge knows; None where there is nothing to know.

    Of the test images, in their order: mask (N, H, W) bool, where the object lies; moved (N, C, H, W) uint8, the same
    objects under do(style), with style (N,) and moved_style (N,); stamped (N, C, H, W) uint8, with the trigger, and
    hoped (N,), the label that the attacker hopes for (the true one of images that are no victims). poisoned (M,) bool:
    the poisoned ones of the training set.
    """

    mask: Tensor | None = None
    style: Tensor | None = None
    moved: Tensor | None = None
    moved_style: Tensor | None = None
    stamped: Tensor | None = None
    hoped: Tensor | None = None
    poisoned: Tensor | None = None

    def first(self, count: int) -> "Truth":
        """Of the first so many test images."""
        names = ("mask", "style", "moved", "moved_style", "stamped", "hoped")
        cut = {name: known[:count] for name in names if (known := getattr(self, name)) is not None}
        return replace(self, **cut)


@dataclass(frozen=True)
class Case(Subject):
    """A trained model with all that may be asked about it. Nothing that is found here reaches a training.

    val: clean held-out images; truth: see there. retrained(images, purpose): a network of the run's architecture and
    recipe, trained the plain way on other images or labels.
    """

    val: Images | None = None
    truth: Truth = Truth()
    retrained: Callable[[Images, str], Classifier] | None = None

    def first(self, count: int) -> "Case":
        """The same about the first `count` test images; what was crafted is not shared."""
        test = Images(self.test.x[:count], self.test.y[:count])
        standing = None if self.standing is None else self.standing[:count]
        return replace(self, test=test, standing=standing, truth=self.truth.first(count), crafted={})

    def right(self, x: Tensor | None = None) -> Tensor:
        """(N,) bool on the model's device: test images, or others x like them, that the model classifies right."""
        return self.logits(self.x if x is None else x).argmax(1) == self.y


class Place(NamedTuple):
    """Where a reading belongs; three words of lower-case letters, digits and '_'."""

    subject: str
    condition: str
    metric: str


@dataclass
class Readings:
    """Collects readings. each: numbers per test image (N,), NaN where there is none; once: numbers of the run;
    pictures: arrays for the report, by name; notes: what could not be read, and why.
    """

    each: dict[Place, Floats] = field(default_factory=dict)
    once: dict[Place, float] = field(default_factory=dict)
    pictures: dict[str, Array] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def add(self, subject: str, condition: str, metric: str, values: Tensor | Array) -> None:
        """One number per test image; NaN for an image that it says nothing about."""
        values = values.detach().cpu().numpy() if isinstance(values, torch.Tensor) else values
        self.each[self._place(subject, condition, metric)] = np.asarray(values, np.float64)

    def note(self, subject: str, condition: str, metric: str, value: float) -> None:
        """One number of the run; left out where it is not finite."""
        place = self._place(subject, condition, metric)
        if np.isfinite(value):
            self.once[place] = float(value)

    def _place(self, *words: str) -> Place:
        place = Place(*words)
        if wrong := [word for word in place if not WORD.fullmatch(word)]:
            raise ValueError(f"expected words of lower-case letters, digits and '_', got {wrong[0]!r}")
        if place in self.each or place in self.once:
            raise ValueError(f"expected one reading per place, got a second of {'.'.join(place)}")
        return place


class Interpretation(Protocol):
    """Frozen hyper-parameters; read off one trained model, with the truth at hand, after training has ended."""

    def __call__(self, case: Case) -> Readings:
        """Read; the model comes back as it was."""


def selected(values: Tensor, chosen: Tensor, count: int) -> Floats:
    """Numbers (n,) of the chosen (N,) bool of `count` images as (N,), NaN elsewhere."""
    found = np.full(count, np.nan)
    found[chosen.cpu().numpy()] = values.detach().double().cpu().numpy()
    return found
