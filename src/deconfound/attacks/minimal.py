"""What attacks of minimal norm share: the closest adversarial image found so far, of every image of a batch."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from deconfound.attacks.ascent import Look
from deconfound.attacks.scores import margin
from deconfound.attacks.victim import Victim, attacking, check
from deconfound.threat import Norm, ThreatModel, per_image, size

Goal = Callable[[Tensor, Tensor, Tensor], Tensor]
"""Score (n,) of iterates (n, C, H, W) with logits (n, K), of the images whose places in the batch are rows (n,)."""

SLACK = 1e-4  # margin that a tightened image keeps, as part of the margin of its original: rounding cannot undo it


class Closest:
    """The closest adversarial images known to images x (N, C, H, W).

    best, like x: x itself where none is known; distance (N,): of best in pixel units of norm, infinity where none is
    known; wrong (N,) bool: did the model err at the last look? An image is done with at a distance of `reach`.
    """

    def __init__(self, victim: Victim, x: Tensor, norm: Norm, reach: float) -> None:
        self.victim, self.x, self.norm, self.reach = victim, x, norm, reach
        self.best = x.clone()
        self.distance = torch.full((len(x),), torch.inf, dtype=x.dtype, device=x.device)
        self.wrong = torch.zeros(len(x), dtype=torch.bool, device=x.device)

    def offer(self, rows: Tensor, z: Tensor, wrong: Tensor) -> None:
        """Keep those iterates z (n, C, H, W) of images rows (n,) that are adversarial, wrong (n,), and closer."""
        distance = size(z - self.x[rows], self.norm)
        closer = wrong & (distance < self.distance[rows])
        self.wrong[rows] = wrong
        self.distance[rows] = torch.where(closer, distance, self.distance[rows])
        self.best[rows] = torch.where(per_image(closer, z), z, self.best[rows])

    def standing(self) -> Tensor:
        """Places (n,) of the images that are not done with."""
        return (self.distance > self.reach).nonzero().flatten()

    def look(self, goal: Goal, rows: Tensor) -> Look:
        """One forward pass on iterates of the images rows (n,): the goal's score, and which images are done with."""

        def look(z: Tensor, places: Tensor) -> tuple[Tensor, Tensor]:
            at = rows[places]
            logits = self.victim(z)
            self.offer(at, z.detach(), self.victim.errs(logits, at))
            return goal(z, logits, at), self.distance[at] <= self.reach

        return look

    @torch.no_grad()
    def tighten(self, clean: Tensor, *, tries: int) -> None:
        """Search the segments between each image and its closest adversarial one, by the rule of false position.

        clean (N,): margins of the images. tries: forward passes.
        """
        rows = (self.distance.isfinite() & (self.distance > self.reach)).nonzero().flatten()
        if not len(rows):
            return
        x, far, below = self.x[rows], self.best[rows], clean[rows]
        low, high, aim = torch.zeros_like(below), torch.ones_like(below), SLACK * below.abs()
        above = self._margin(rows, far)
        for _ in range(tries):
            part = ((aim - below) / (above - below)).nan_to_num(1.0).clamp(0.0, 1.0)
            middle = low + part * (high - low)
            value = self._margin(rows, (x + per_image(middle, x) * (far - x)).clamp(0.0, 1.0))
            behind = value > 0
            low, below = torch.where(behind, low, middle), torch.where(behind, below, value)
            high, above = torch.where(behind, middle, high), torch.where(behind, value, above)

    def _margin(self, rows: Tensor, z: Tensor) -> Tensor:
        logits = self.victim(z)
        self.offer(rows, z, self.victim.errs(logits, rows))
        return margin(logits, self.victim.y[rows])


Hunt = Callable[[Closest, Tensor], None]
"""A search for closer adversarial images, given the logits (N, K) of the images themselves."""


def closest(hunt: Hunt, model: nn.Module, x: Tensor, y: Tensor, *, norm: Norm, reach: float = 0.0) -> Closest:
    """What a hunt finds around images x (N, C, H, W) with true labels y (N,), without a budget.

    Images on which the model errs are their own closest adversarial image.
    """
    x = x.detach()
    with attacking(model, x, y) as victim:
        found = Closest(victim, x, norm, reach)
        if len(x):
            with torch.no_grad():
                clean = victim(x)
            found.offer(torch.arange(len(x), device=x.device), x, victim.errs(clean))
        if len(found.standing()):
            hunt(found, clean)
    return found


def within(
    hunt: Hunt, model: nn.Module, x: Tensor, y: Tensor, *, threat: ThreatModel, reach: float = 0.0
) -> Tensor:
    """The closest adversarial images where they are within the budget, the images themselves elsewhere."""
    if threat.eps == 0:
        check(x, y)
        return x.detach().clone()
    found = closest(hunt, model, x, y, norm=threat.norm, reach=reach)
    return torch.where(per_image(found.distance <= threat.eps, found.x), found.best, found.x)
