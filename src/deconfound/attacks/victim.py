"""The model as an attack sees it: frozen, in evaluation mode, its logits checked.

What an attack is handed is checked here, once, for all attacks: images, labels, and the logits that come back.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from deconfound.attacks.ascent import Look
from deconfound.attacks.scores import SCORES, kl
from deconfound.errors import AttackError
from deconfound.models.classifier import eval_mode

Goal = Callable[[Tensor, Tensor], Tensor]
"""Score (n,) of logits (n, K) of the images whose places in the batch are rows (n,)."""


class Victim:
    """Logits (n, K) of images (n, C, H, W). y (N,): true labels of the batch under attack; rows (N,): places of its
    images in the batch that the attack was given.
    """

    def __init__(self, model: nn.Module, y: Tensor, rows: Tensor | None = None) -> None:
        self.model = model
        self.y = y
        self.rows = torch.arange(len(y), device=y.device) if rows is None else rows
        self.largest = int(y.max()) if len(y) else 0

    def part(self, rows: Tensor) -> "Victim":
        """The same model with a part of the batch; rows (n,): their places in it."""
        return Victim(self.model, self.y[rows], self.rows[rows])

    def __call__(self, z: Tensor) -> Tensor:
        """Logits; AttackError unless they are finite, one row per image, and cover the labels."""
        return self.checked(self.model(z), z)

    def checked(self, logits: Tensor, z: Tensor) -> Tensor:
        """The logits that came back for images z, if they are what an attack can work with; see `__call__`."""
        if not isinstance(logits, Tensor) or logits.dim() != 2 or len(logits) != len(z):
            got = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
            raise AttackError(f"model: expected logits ({len(z)}, K), got {got}")
        if not logits.is_floating_point():
            raise AttackError(f"model: expected floating-point logits, got {logits.dtype}")
        if not self.largest < logits.shape[1] or logits.shape[1] < 2:
            raise AttackError(
                f"y: expected labels below the number of classes (at least 2), got label {self.largest} for"
                f" {logits.shape[1]} logits"
            )
        finite = logits.detach().isfinite()
        if not bool(finite.all()):
            bad = int((~finite.all(1)).sum())
            raise AttackError(
                f"model: expected finite logits, got NaN or infinity for {bad} of {len(z)} images"
            )
        return logits

    def errs(self, logits: Tensor, rows: Tensor | None = None) -> Tensor:
        """(n,) bool: is the largest logit another than the true one? rows: places of the images in the batch."""
        return logits.detach().argmax(1) != (self.y if rows is None else self.y[rows])

    def look(self, goal: Goal) -> Look:
        """The goal's score of an iterate and whether the model errs there, from one forward pass."""

        def look(z: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
            logits = self(z)
            return goal(logits, rows), self.errs(logits, rows)

        return look

    def goal(self, score: str, x: Tensor) -> Goal:
        """A score of `scores` for this batch; `kl` is taken from the logits of the untouched images x."""
        if score == "kl":
            with torch.no_grad():
                clean = self(x)
            return lambda logits, rows: kl(clean[rows], logits)
        labelled = SCORES[score]
        return lambda logits, rows: labelled(logits, self.y[rows])


@contextmanager
def attacking(model: nn.Module, x: Tensor, y: Tensor) -> Iterator[Victim]:
    """Check images and labels; inside, the model is frozen and in evaluation mode, and as it was afterwards."""
    check(x, y)
    with eval_mode(model):
        yield Victim(model, y)


def check(x: Tensor, y: Tensor) -> None:
    """AttackError unless x (N, ...) are finite pixels in [0, 1] and y (N,) are class numbers."""
    if x.dim() < 2 or not x.is_floating_point():
        raise AttackError(f"x: expected float images (N, C, H, W), got {x.dtype} {tuple(x.shape)}")
    if y.shape != (len(x),) or y.is_floating_point() or y.dtype == torch.bool:
        raise AttackError(f"y: expected {len(x)} integer labels, got {y.dtype} {tuple(y.shape)}")
    if not len(x):
        return
    low, high = (float(value) for value in x.detach().aminmax())
    if not (low >= 0 and high <= 1):
        raise AttackError(f"x: expected pixels in [0, 1], got values from {low:g} to {high:g}")
    if int(y.min()) < 0:
        raise AttackError(f"y: expected labels of at least 0, got {int(y.min())}")
