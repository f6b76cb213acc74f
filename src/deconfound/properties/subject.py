"""What a property is measured on, and what comes out."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Generator, Tensor

from deconfound.models.classifier import Classifier, eval_mode, predict, to_unit
from deconfound.types import Array, Attack, Images

BATCH = 512  # images attacked at a time


@dataclass(frozen=True)
class Subject:
    """A trained model, and the images that it may be asked about.

    defense: the hyper-parameters that it was trained with; parts: tensors that the defense left beside it. train: what
    it was trained on; test: the attacked images, uint8; standing (N,) bool: those that stay right under every linf
    attack of the evaluation, None where there was none. rng(purpose): a generator of the run's seed.
    """

    model: Classifier
    defense: Any
    parts: Mapping[str, Tensor]
    train: Images
    test: Images
    classes: int
    rng: Callable[[str], Generator]
    standing: Array | None = None
    crafted: dict[str, Tensor] = field(default_factory=dict, repr=False)

    @property
    def x(self) -> Tensor:
        """Test images in [0, 1], on the model's device."""
        return to_unit(self.test.x.to(self.device))

    @property
    def y(self) -> Tensor:
        """Test labels, on the model's device."""
        return self.test.y.to(self.device)

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return next(self.model.parameters()).device

    def adversarial(self, attack: Attack, split: str = "test") -> Tensor:
        """Images (N, C, H, W) of a split (`test`, `train`, `val`) as an attack returns them; made once."""
        key = f"{split} {attack!r}"
        if key not in self.crafted:
            images: Images = getattr(self, split)
            rng = self.rng(f"property {key}")
            parts = zip(images.x.split(BATCH), images.y.split(BATCH), strict=True)  # type: ignore[no-untyped-call]
            found = [
                attack(self.model, to_unit(x.to(self.device)), y.to(self.device), rng=rng) for x, y in parts
            ]
            self.crafted[key] = torch.cat(found)
        return self.crafted[key]

    def logits(self, x: Tensor) -> Tensor:
        """Logits (N, K) in evaluation mode, on the model's device, without gradient."""
        return predict(self.model, x).to(self.device)

    @torch.no_grad()
    def features(self, x: Tensor) -> Tensor:
        """Features (N, D) in evaluation mode, on the model's device, of images in [0, 1] or uint8."""
        with eval_mode(self.model):
            parts = [self.model.features(to_unit(part.to(self.device))) for part in x.split(BATCH)]  # type: ignore[no-untyped-call]
        return torch.cat(parts)


@dataclass(frozen=True)
class Found:
    """values: one number per test image (N,), by name; numbers: one per run. NaN where there was nothing to measure."""

    values: Mapping[str, Array] = field(default_factory=dict)
    numbers: Mapping[str, float] = field(default_factory=dict)


class Property(Protocol):
    """Frozen hyper-parameters; measured on one trained model after training has ended."""

    def __call__(self, subject: Subject) -> Found:
        """Measure; the model comes back as it was."""
