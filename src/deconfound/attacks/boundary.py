"""Linear boundaries between two classes: which is nearest, and the shortest way to one inside the pixel box."""

import torch
from torch import Tensor

from deconfound.attacks.minimal import Goal
from deconfound.threat import ORDER, Norm

FAR = 1e30  # stands for infinity: times zero it is zero
DUAL: dict[Norm, float] = {
    "linf": 1.0,
    "l2": 2.0,
    "l1": torch.inf,
}  # order of the norm that measures gradients


def to_plane(x: Tensor, w: Tensor, value: Tensor, norm: Norm) -> Tensor:
    """The smallest d in `norm` with value + <w, d> = 0 that keeps x + d in [0, 1], like x (..., N, D).

    w (N, D): gradient; value (..., N): of the linear function at x. Where no such d exists, the one that brings the
    function nearest to zero; where w is zero, zero. Croce & Hein, "Minimally distorted Adversarial Examples with a Fast
    Adaptive Boundary Attack", ICML 2020, section 2.2 and appendix A.
    """
    sign = -value.sign()[..., None] * w.sign()
    room = torch.where(sign > 0, 1 - x, x).clamp_min(0)
    largest = w.abs().amax(-1, keepdim=True).clamp_min(torch.finfo(w.dtype).tiny)
    slope, need = w.abs() / largest, (value.abs()[..., None] / largest).clamp_max(FAR)
    if norm == "l1":
        return sign * _steepest_first(slope, room, need)
    return sign * _together(slope, torch.ones_like(slope) if norm == "linf" else slope, room, need)


def _together(slope: Tensor, speed: Tensor, room: Tensor, need: Tensor) -> Tensor:
    """Move every pixel by min(t speed, room), with the t at which the sum of slope times move is `need`.

    The sum is concave in t, piecewise linear, with a kink where a pixel runs out of room; Newton's method from t = 0
    never goes too far and ends after a few rounds, at the exact t, when no more pixel runs out.
    """
    gain, most, t, out = slope * speed, slope * room, torch.zeros_like(need), room <= 0
    while True:
        rest = need - torch.where(out, most, 0).sum(-1, keepdim=True)
        rate = torch.where(out, 0, gain).sum(-1, keepdim=True).clamp_min(1 / FAR)
        t = torch.maximum(t, (rest / rate).clamp_max(FAR))
        more = out | (t * speed >= room)
        if torch.equal(more, out):
            return torch.minimum(t * speed, room)
        out = more


def _steepest_first(slope: Tensor, room: Tensor, need: Tensor) -> Tensor:
    """Move pixels to the edge of the box, steepest first, until the sum of slope times move is `need`."""
    slope, order = slope.sort(-1, descending=True)
    slope, order = slope.expand_as(room), order.expand_as(room)
    most = slope * room.gather(-1, order)
    before = most.cumsum(-1) - most
    moved = ((need - before) / slope.clamp_min(1 / FAR)).clamp_min(0)
    return torch.zeros_like(room).scatter(-1, order, moved).minimum(room)


def nearest_gap(y: Tensor, classes: Tensor, norm: Norm) -> Goal:
    """Logit of a class minus true logit, for that of the classes (N, k) whose linearised boundary is nearest.

    To compare more than one costs k backward passes. The distance is that of Moosavi-Dezfooli et al., "DeepFool", CVPR
    2016, equation 8: without the box.
    """

    def gap(z: Tensor, logits: Tensor, rows: Tensor) -> Tensor:
        gaps = logits.gather(1, classes[rows]) - logits.gather(1, y[rows, None])
        if gaps.shape[1] == 1:
            return gaps.squeeze(1)
        return gaps.gather(1, _nearest(z, gaps, norm)[:, None]).squeeze(1)

    return gap


def _nearest(z: Tensor, gaps: Tensor, norm: Norm) -> Tensor:
    """Column (n,) of gaps (n, k)."""
    if not gaps.requires_grad or not z.requires_grad:
        return gaps.abs().argmin(1)
    distances = []
    for gap in gaps.unbind(1):
        (slope,) = torch.autograd.grad(gap.sum(), z, retain_graph=True, materialize_grads=True)
        steepness = torch.linalg.vector_norm(slope.flatten(1), ord=DUAL[norm], dim=1)
        distances.append(gap.detach().abs() / steepness.clamp_min(1 / FAR))
    return torch.stack(distances, 1).argmin(1)


def length(d: Tensor, norm: Norm) -> Tensor:
    """Norm over the last dimension."""
    found: Tensor = torch.linalg.vector_norm(d, ord=ORDER[norm], dim=-1)
    return found
