"""The threat model of evasion: how far, in which norm, an image may move.

Images are (N, C, H, W) in [0, 1] and stay there; eps is a radius in the same unit.
"""

from typing import Literal

import torch
from torch import Generator, Tensor

from deconfound.fields import Eps, hyperparameters

Norm = Literal["linf", "l2"]
TINY = 1e-12


def flat_norm(delta: Tensor) -> Tensor:
    """L2 norm per image, shaped (N, 1, 1, 1) to divide by."""
    norms: Tensor = torch.linalg.vector_norm(delta.flatten(1), dim=1)
    return norms.view(-1, *[1] * (delta.dim() - 1))


@hyperparameters
class ThreatModel:
    """All images within `eps` of the original in `norm`, and inside the pixel box."""

    norm: Norm = "linf"
    eps: Eps

    def project(self, x: Tensor, z: Tensor) -> Tensor:
        """The legal image near z: exact nearest point for linf; for l2 the ball first, then the box.

        The box contains x, so clipping after the ball projection never leaves the ball again.
        """
        delta = z - x
        if self.norm == "linf":
            delta = delta.clamp(-self.eps, self.eps)
        else:
            delta = delta * (self.eps / flat_norm(delta).clamp_min(TINY)).clamp_max(1.0)
        return (x + delta).clamp(0.0, 1.0)

    def steepest(self, gradient: Tensor) -> Tensor:
        """The unit step of steepest ascent; zero where the gradient is zero."""
        if self.norm == "linf":
            return gradient.sign()
        return gradient / flat_norm(gradient).clamp_min(TINY)

    def random_start(self, x: Tensor, *, rng: Generator) -> Tensor:
        """A uniform draw from the ball around x, clipped to the box. Drawn on the CPU, moved to x."""
        if self.norm == "linf":
            delta = (torch.rand(x.shape, generator=rng) * 2 - 1) * self.eps
        else:
            direction = torch.randn(x.shape, generator=rng)
            radius = torch.rand(len(x), generator=rng) ** (1 / max(1, x[0].numel() if len(x) else 1))
            scale = radius.view(-1, *[1] * (x.dim() - 1)) * self.eps
            delta = direction / flat_norm(direction).clamp_min(TINY) * scale
        return self.project(x, x + delta.to(x.device, x.dtype))

    def contains(self, x: Tensor, z: Tensor, *, tolerance: float = 1e-5) -> Tensor:
        """(N,) bool: is z a legal image for x? `tolerance` absorbs rounding."""
        delta = (z - x).flatten(1)
        size = delta.abs().amax(1) if self.norm == "linf" else delta.norm(dim=1)
        flat = z.flatten(1)
        in_box = (flat.amin(1) >= -tolerance) & (flat.amax(1) <= 1 + tolerance)
        return (size <= self.eps + tolerance) & in_box & flat.isfinite().all(1)
