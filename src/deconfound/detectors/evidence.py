"""What a detector is handed and what it hands back. It never sees the poison mask, a trigger or the test split."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, Protocol, runtime_checkable

from torch import Generator, Tensor

from deconfound.models.classifier import Classifier
from deconfound.types import Images


@dataclass(frozen=True)
class Evidence:
    """model: the network under suspicion, in evaluation mode; data: what it was trained on, as delivered (perhaps
    poisoned); val: held-out images, cut before any poisoning. rng(purpose): a generator of the run's seed.
    """

    model: Classifier
    data: Images
    val: Images
    rng: Callable[[str], Generator]

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
    """Looks for triggers at test time."""

    def suspicion(self, evidence: Evidence) -> Callable[[Tensor], Tensor]:
        """A function that scores images (n, C, H, W) uint8 -> (n,) float, larger is more suspicious; rows do not
        influence each other.
        """


@runtime_checkable
class ModelScan(Protocol):
    """Looks for target classes in a model."""

    def scan(self, evidence: Evidence) -> Scanned:
        """Anomaly and flags per class."""


Detector = ExampleDetector | InputDetector | ModelScan
