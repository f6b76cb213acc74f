"""What only the trust gate tries on a model: noise, rescaled logits, and a look at the gradients."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Generator, Tensor, nn

from deconfound.attacks.victim import attacking
from deconfound.errors import NoGradientError
from deconfound.models.classifier import eval_mode
from deconfound.threat import ThreatModel

BATCH = 256


def gradient_norms(
    model: nn.Module, x: Tensor, y: Tensor, score: Callable[[Tensor, Tensor], Tensor]
) -> NDArray[np.float64]:
    """L2 norm (N,) of the gradient of a score by the pixels."""
    with attacking(model, x, y) as victim, torch.enable_grad():
        found = []
        for start in range(0, len(x), BATCH):
            z = x[start : start + BATCH].detach().requires_grad_(True)
            value = score(victim(z), y[start : start + BATCH])
            if not value.requires_grad:
                raise NoGradientError("model: expected logits with a gradient by the images, got none")
            (gradient,) = torch.autograd.grad(value.sum(), z, allow_unused=True)
            if gradient is None:
                raise NoGradientError(
                    "model: expected logits that depend on the images, got logits that do not"
                )
            found.append(gradient.flatten(1).double().norm(dim=1).cpu())
    norms: NDArray[np.float64] = torch.cat(found).numpy()
    return norms


@dataclass(frozen=True)
class Noise:
    """Random images of the ball, `draws` per image; the first that fools the model is kept."""

    threat: ThreatModel
    draws: int

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, *, rng: Generator) -> Tensor:
        """Like x."""
        found, standing = x.clone(), torch.ones(len(x), dtype=torch.bool, device=x.device)
        with eval_mode(model), torch.no_grad():
            for _ in range(self.draws):
                z = self.threat.random_start(x, rng=rng)
                broken = standing & (model(z).argmax(1) != y)
                found[broken] = z[broken]
                standing &= ~broken
        return found


@dataclass(frozen=True)
class Rescaled:
    """An attack on logits divided by a constant: nothing changes for a model whose logits have an ordinary size."""

    attack: Any
    divisor: float

    @property
    def threat(self) -> ThreatModel:
        """The budget of the attack."""
        threat: ThreatModel = self.attack.threat
        return threat

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, *, rng: Generator) -> Tensor:
        """What the attack returns."""
        found: Tensor = self.attack(_Divided(model, self.divisor), x, y, rng=rng)
        return found


class _Divided(nn.Module):
    def __init__(self, model: nn.Module, divisor: float) -> None:
        super().__init__()
        self.model, self.divisor = model, divisor

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.model(x) / self.divisor
        return logits
