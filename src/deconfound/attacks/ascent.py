"""The one ascent loop: every attack that climbs, and every defense that trains on what climbs, uses it."""

from collections.abc import Callable

import torch
from torch import Generator, Tensor

from deconfound.fields import Count, Positive, hyperparameters
from deconfound.threat import ThreatModel

Score = Callable[[Tensor], Tensor]
"""Per-image score (N,) of images (N, C, H, W); larger is worse for the model. Rows must not influence each
other.
"""


@hyperparameters
class Ascent:
    """Projected steepest ascent. step_size in pixel units (in the threat model's norm); steps: gradients
    taken.
    """

    threat: ThreatModel
    step_size: Positive
    steps: Count
    random_start: bool = True

    def __call__(self, score: Score, x: Tensor, *, rng: Generator) -> Tensor:
        """The last iterate, like x, detached and legal; eps = 0 gives x back."""
        if self.threat.eps == 0 or len(x) == 0:
            return x.detach().clone()
        x = x.detach()
        z = self.threat.random_start(x, rng=rng) if self.random_start else x.clone()
        for _ in range(self.steps):
            z.requires_grad_(True)
            with torch.enable_grad():
                (gradient,) = torch.autograd.grad(score(z).sum(), z)
            z = self.threat.project(x, z.detach() + self.step_size * self.threat.steepest(gradient))
        return z.detach()
