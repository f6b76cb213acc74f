"""Shapes, units and protocols; this module imports torch and nothing of ours.

N images, C channels, H x W pixels, K classes, D features. Pixels are float32 in [0, 1] (uint8 only in
files and poisons); labels int64; losses and information in nats; eps and step sizes in pixel units.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray
from torch import Generator, Tensor, nn

Array = NDArray[np.generic]


class Images(NamedTuple):
    """Images as stored: x (N, C, H, W) uint8, y (N,) int64."""

    x: Tensor
    y: Tensor


@dataclass(frozen=True)
class Split:
    """A split of a data set; `extra` holds per-example ground truth (N, ...), for measures only."""

    images: Images
    extra: Mapping[str, Array] = field(default_factory=dict)


class Source(NamedTuple):
    """What a data set delivers: splits `train` and `test`, and the names of its K classes."""

    train: Split
    test: Split
    classes: tuple[str, ...]


class Dataset(Protocol):
    """A source of images; frozen hyper-parameters, no state."""

    @property
    def expects(self) -> tuple[tuple[int, int, int] | None, int | None]:
        """Shape (C, H, W) and number of classes, where they are known before the fetch."""

    def fetch(self, cache: Path) -> Source:
        """Read, download or make the images; `cache` keeps downloads. Raises DataError on anything corrupt."""


class Trigger(Protocol):
    """A function of pixels: the same image in, the same image out."""

    def __call__(self, x: Tensor) -> Tensor:
        """Stamp (N, C, H, W) uint8; a new tensor of the same shape and dtype."""


class Attack(Protocol):
    """Evasion: perturb images inside a threat model so that the model errs."""

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, *, rng: Generator) -> Tensor:
        """x_adv like x, detached. x (N, C, H, W), y (N,) true labels. The model comes back as it was."""


Aim = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
"""Term (n,) of iterates z (n, C, H, W), their features (n, D), logits (n, K) and places in the batch, rows (n,)."""


class Term(Protocol):
    """What a defense trains against besides its classifier's own loss; larger is worse for the model."""

    def __call__(self, x: Tensor, y: Tensor, features: Tensor, logits: Tensor) -> Aim:
        """The term for a batch: clean images (N, C, H, W), labels (N,), their features (N, D) and logits (N, K).

        Rows do not influence each other.
        """


class Objective(Protocol):
    """What one training step minimises."""

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, *, rng: Generator) -> Tensor:
        """Mean loss of a batch: scalar, nats, attached to the graph of `model`."""
