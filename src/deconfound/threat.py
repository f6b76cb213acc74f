"""The threat model of evasion: how far, in which norm, an image may move.

Images are (N, C, H, W) in [0, 1] and stay there; eps is a radius in the same unit.
"""

from typing import Literal

import torch
from torch import Generator, Tensor

from deconfound.fields import Eps, Fraction01, hyperparameters

Norm = Literal["linf", "l2", "l1"]
ORDER = {"linf": torch.inf, "l2": 2.0, "l1": 1.0}
TINY = 1e-12
SPARSITY = 0.05  # part of the pixels that one l1 step moves


def per_image(values: Tensor, like: Tensor) -> Tensor:
    """One number per image (N,), shaped to be broadcast over images like (N, C, H, W)."""
    return values.view(-1, *[1] * (like.dim() - 1))


def size(delta: Tensor, norm: Norm) -> Tensor:
    """Norm of each perturbation (N, C, H, W), as (N,)."""
    found: Tensor = torch.linalg.vector_norm(delta.flatten(1), ord=ORDER[norm], dim=1)
    return found


@hyperparameters
class ThreatModel:
    """All images within `eps` of the original in `norm`, and inside the pixel box."""

    norm: Norm = "linf"
    eps: Eps

    def project(self, x: Tensor, z: Tensor) -> Tensor:
        """The legal image near z: exact nearest point for linf and l1; for l2 the ball first, then the box.

        The box contains x, so clipping after the ball projection never leaves the ball again.
        """
        delta = z - x
        if self.norm == "linf":
            delta = delta.clamp(-self.eps, self.eps)
        elif self.norm == "l2":
            delta = delta * per_image((self.eps / size(delta, "l2").clamp_min(TINY)).clamp_max(1.0), delta)
        else:
            delta = _project_l1(x, delta, self.eps)
        return (x + delta).clamp(0.0, 1.0)

    def steepest(self, gradient: Tensor, z: Tensor | None = None) -> Tensor:
        """The unit step of steepest ascent; zero where the gradient is zero.

        For l1 the step is spread over the largest 5 % of the gradient, since one pixel at a time is too slow (Tramer &
        Boneh, "Adversarial Training and Robustness for Multiple Perturbations", NeurIPS 2019, section 4), and pixels of
        z that already are at the edge of the box they would leave are passed over.
        """
        if self.norm == "linf":
            return gradient.sign()
        if self.norm == "l2":
            return gradient / per_image(size(gradient, "l2").clamp_min(TINY), gradient)
        if z is not None:
            stuck = ((z <= 0) & (gradient < 0)) | ((z >= 1) & (gradient > 0))
            gradient = gradient.masked_fill(stuck, 0)
        flat = gradient.flatten(1)
        chosen = flat.abs().topk(max(1, round(SPARSITY * flat.shape[1])), dim=1).indices
        sign = torch.zeros_like(flat).scatter(1, chosen, flat.gather(1, chosen).sign())
        return (sign / sign.abs().sum(1, keepdim=True).clamp_min(1)).view_as(gradient)

    def random_start(self, x: Tensor, *, rng: Generator) -> Tensor:
        """A uniform draw from the ball around x, clipped to the box. Drawn on the CPU, moved to x."""
        if self.norm == "linf":
            delta = (torch.rand(x.shape, generator=rng) * 2 - 1) * self.eps
        elif self.norm == "l2":
            direction = torch.randn(x.shape, generator=rng)
            radius = torch.rand(len(x), generator=rng) ** (1 / max(1, x[0].numel() if len(x) else 1))
            scale = per_image(radius * self.eps / size(direction, "l2").clamp_min(TINY), x)
            delta = direction * scale
        else:  # spacings of exponentials are uniform on the simplex, and the last one is the distance to its face
            parts = (
                -torch.rand(len(x), x[0].numel() + 1 if len(x) else 1, generator=rng).clamp_min(TINY).log()
            )
            parts = parts[:, 1:] / parts.sum(1, keepdim=True)
            delta = parts.view_as(x) * (torch.rand(x.shape, generator=rng) - 0.5).sign() * self.eps
        return self.project(x, x + delta.to(x.device, x.dtype))

    def contains(self, x: Tensor, z: Tensor, *, tolerance: float = 1e-5) -> Tensor:
        """(N,) bool: is z a legal image for x? `tolerance` absorbs rounding, which for l1 adds up over the pixels."""
        flat = z.flatten(1)
        if self.norm == "l1":
            tolerance = tolerance + flat.shape[1] * torch.finfo(torch.float32).eps / 2
        within = size((z - x).double(), self.norm) <= self.eps + tolerance
        in_box = (flat.amin(1) >= -tolerance) & (flat.amax(1) <= 1 + tolerance)
        return within & in_box & flat.isfinite().all(1)


@hyperparameters
class SparseBall:
    """All images that differ from the original in at most a part `eps` of their pixels, by any amount, inside the pixel
    box. A pixel is a place of the picture: all its channels together count once.
    """

    eps: Fraction01
    norm: Literal["l0"] = "l0"

    def most(self, x: Tensor) -> int:
        """Number of pixels of an image of (N, C, H, W) that may change."""
        return int(self.eps * x.shape[2:].numel() + 1e-6)  # 0.29 * 200 is a little less than 58

    def contains(self, x: Tensor, z: Tensor, *, tolerance: float = 1e-5) -> Tensor:
        """(N,) bool: is z a legal image for x? A pixel that moved by no more than `tolerance` did not change."""
        flat = z.flatten(1)
        count = ((z - x).abs() > tolerance).any(1).flatten(1).sum(1)
        in_box = (flat.amin(1) >= -tolerance) & (flat.amax(1) <= 1 + tolerance)
        return (count <= self.most(x)) & in_box & flat.isfinite().all(1)


def _project_l1(x: Tensor, delta: Tensor, eps: float) -> Tensor:
    """Nearest perturbation (N, C, H, W) with |.|_1 <= eps that keeps x inside the box.

    Croce & Hein, "Mind the Box: l1-APGD for Sparse Adversarial Attacks on Image Classifiers", ICML 2021, proposition
    2.1: every pixel moves by min(max(|delta| - t, 0), room), with the threshold t >= 0 at which the sum is eps. The sum
    falls in t, linearly between the values |delta| and |delta| - room, so t is found by sorting these.
    """
    flat, room = delta.flatten(1), torch.where(delta > 0, 1 - x, x).flatten(1)
    height = flat.abs()
    moved = torch.minimum(height, room)
    beyond = moved.sum(1) > eps
    if not bool(beyond.any()):
        return (moved * flat.sign()).view_as(delta)
    high, cap = height[beyond].double(), room[beyond].double()
    knots, order = torch.cat([high - cap, high], 1).clamp_min(0).sort(1)
    slope = torch.where(order < high.shape[1], -1.0, 1.0).cumsum(
        1
    )  # one pixel more begins, or ends, to shrink
    drop = torch.cumsum(slope[:, :-1] * knots.diff(dim=1), 1)
    sums = torch.minimum(high, cap).sum(1, keepdim=True) + torch.cat(
        [torch.zeros_like(knots[:, :1]), drop], 1
    )
    place = (sums > eps).sum(1, keepdim=True).clamp(1, knots.shape[1]) - 1
    rate = -slope.gather(1, place).clamp_max(-1)
    level = knots.gather(1, place) + (sums.gather(1, place) - eps) / rate
    moved[beyond] = torch.minimum((high - level).clamp_min(0), cap).to(moved.dtype)
    return (moved * flat.sign()).view_as(delta)
