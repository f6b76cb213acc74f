"""What a detector is handed and what it hands back. It never sees the poison mask, a trigger or the test split."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple, Protocol, runtime_checkable

from torch import Generator, Tensor

from deconfound.models.classifier import Classifier
from deconfound.types import Images


@dataclass(frozen=True)
class Evidence:
    """model: the network under suspicion, in evaluation mode; data: what it was trained on, as delivered (perhaps
    poisoned); val: held-out images, cut before any poisoning. rng(purpose): a generator of the run's seed.

    crafted: by the name of an attack, adversarial versions (n, C, H, W) float in [0, 1] of the first n images of
    `val`, in their order, crafted against `model`; never of test images. Detectors that learn what an adversarial
    example looks like say so in `needs`, and raise UserError without them.
    """

    model: Classifier
    data: Images
    val: Images
    rng: Callable[[str], Generator]
    crafted: Mapping[str, Tensor] | None = None

    @property
    def classes(self) -> int:
        """K."""
        return self.model.head.out_features


class Flagged(NamedTuple):
    """scores (N,) float: larger is more suspicious; flags (N,) bool: what the detector would throw out."""

    scores: Tensor
    flags: Tensor


class Scanned(NamedTuple):
    """anomaly (K,) float: how suspicious each class is as a target, larger is more; flags (K,) bool: those accused."""

    anomaly: Tensor
    flags: Tensor


@runtime_checkable
class ExampleDetector(Protocol):
    """Looks for poison among training examples."""

    def examine(self, evidence: Evidence) -> Flagged:
        """Scores and flags of `evidence.data`, in its order."""


@runtime_checkable
class InputDetector(Protocol):
    """Looks for triggers or adversarial perturbations at test time."""

    def suspicion(self, evidence: Evidence) -> Callable[[Tensor], Tensor]:
        """A function that scores images (n, C, H, W), uint8 or float in [0, 1], -> (n,) float, larger is more
        suspicious; rows do not influence each other.
        """


@runtime_checkable
class Differentiable(Protocol):
    """An input detector whose score has a gradient, which an adaptive attacker descends."""

    def score_of(self, evidence: Evidence) -> Callable[[Tensor], Tensor]:
        """The function that `suspicion` scores with, of images (n, C, H, W) in [0, 1] on the network's device -> (n,),
        attached to their graph. It puts the network into evaluation mode by itself.
        """


@runtime_checkable
class ModelScan(Protocol):
    """Looks for target classes in a model."""

    def scan(self, evidence: Evidence) -> Scanned:
        """Anomaly and flags per class."""


Detector = ExampleDetector | InputDetector | ModelScan
