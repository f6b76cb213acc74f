"""What is asked of a model, and by whom: the protocol of an attribution, and the loop over parts that all share.

The scalar that is attributed is a logit, not a probability or a loss: a probability saturates, so that gradients vanish
on confident images, and the gradient of a loss points to all classes at once.
"""

from collections.abc import Callable
from typing import Literal, Protocol

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from deconfound.errors import UserError
from deconfound.models.classifier import Classifier, eval_mode

ScalarName = Literal["logit", "margin"]


class Attribution(Protocol):
    """A method: frozen hyper-parameters, no state.

    Each has scalar: `logit` of the target class, or `margin`, that logit minus the one of the strongest rival on the
    image itself (the rival stays the same while a method varies the image, so that the scalar is linear in the
    logits); and chunk: images per pass through the model, which changes nothing but memory and speed.
    """

    def __call__(self, model: Classifier, x: Tensor, target: Tensor, *, rng: Generator) -> Tensor:
        """Signed maps (N, C, H, W) float32 (Grad-CAM: (N, 1, H, W)) of images x (N, C, H, W) float for the classes
        target (N,).

        Rows do not influence each other, and what is drawn is drawn once for all of them. The model comes back as it
        was.
        """


class Scalar(nn.Module):
    """What is attributed, (n,): a weighted sum, weights (n, K), of the logits of images (n, C, H, W)."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor, weights: Tensor) -> Tensor:
        """(n,)."""
        found: Tensor = (self.model(x) * weights).sum(1)
        return found


def logit_weights(logits: Tensor, target: Tensor, scalar: ScalarName) -> Tensor:
    """Weights (n, K) of the logits (n, K) of the images themselves: 1 for the target, and -1 for its rival in a
    margin.
    """
    classes = logits.shape[1]
    if len(target) and not 0 <= int(target.min()) <= int(target.max()) < classes:
        raise UserError(
            f"target: expected classes from 0 to {classes - 1}, got {int(target.min())} to {int(target.max())}"
        )
    weights = F.one_hot(target, classes).to(logits)
    if scalar == "logit":
        return weights
    rival = logits.masked_fill(weights.bool(), -torch.inf).argmax(1)
    return weights - F.one_hot(rival, classes).to(logits)


def check(x: Tensor, target: Tensor) -> None:
    """UserError unless x (N, C, H, W) are finite floats and target (N,) are class numbers."""
    if x.dim() != 4 or not x.is_floating_point():
        raise UserError(f"x: expected float images (N, C, H, W), got {x.dtype} {tuple(x.shape)}")
    if not bool(x.isfinite().all()):
        raise UserError("x: expected finite pixels, got NaN or infinity")
    if target.shape != (len(x),) or target.is_floating_point() or target.dtype == torch.bool:
        raise UserError(f"target: expected {len(x)} classes, got {target.dtype} {tuple(target.shape)}")


def scalars(
    model: nn.Module, x: Tensor, target: Tensor, *, at: Tensor | None = None, scalar: ScalarName = "logit"
) -> Tensor:
    """The scalar (N,) of images x (N, C, H, W), or of the images `at` like x with the rivals of x; no gradient."""
    with eval_mode(model), torch.no_grad():
        logits = model(x)
        weights = logit_weights(logits, target, scalar)
        found: Tensor = ((logits if at is None else model(at)) * weights).sum(1)
        return found


Part = Callable[[Scalar, Tensor, Tensor], Tensor]
"""Maps (n, ...) of the scalar, for at most `chunk` images (n, C, H, W) that ask for a gradient, and weights (n, K)."""


def explained(
    model: nn.Module,
    x: Tensor,
    target: Tensor,
    part: Part,
    *,
    scalar: ScalarName,
    chunk: int,
    channels: int = 0,
) -> Tensor:
    """Maps of all images, part by part, with the model frozen and in evaluation mode. channels: of a map, where they
    are not those of x.
    """
    check(x, target)
    if not len(x):
        return torch.zeros(0, channels or x.shape[1], *x.shape[2:], device=x.device)
    found = []
    with eval_mode(model), torch.enable_grad():
        asked = Scalar(model)
        for z, wanted in zip(torch.split(x.detach(), chunk), torch.split(target, chunk), strict=True):
            with torch.no_grad():
                weights = logit_weights(model(z), wanted, scalar)
            found.append(part(asked, z.clone().requires_grad_(True), weights).detach().float())
    return torch.cat(found)
