"""The one ascent loop: every attack that climbs, and every defense that trains on what climbs, uses it.

The loop looks at the iterates of all images of a batch at once and hands value and gradient to a rule (`Move`) that
says where to go. With early stop, an image on which the model errs leaves the batch, and costs nothing from then on.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal, Protocol

import torch
from torch import Generator, Tensor

from deconfound.errors import NoGradientError
from deconfound.fields import Count, NonNegative, Positive, hyperparameters
from deconfound.threat import ThreatModel, per_image

GAUSSIAN = 0.001  # pixel units: standard deviation of the small start

Score = Callable[[Tensor], Tensor]
"""Per-image score (N,) of images (N, C, H, W); larger is worse for the model. Rows must not influence each
other.
"""

Look = Callable[[Tensor, Tensor], tuple[Tensor, Tensor | None]]
"""Score (n,) of iterates (n, C, H, W) whose places in the batch are rows (n,), and whether the model errs there: (n,)
bool, or None where nobody asks.
"""


@dataclass
class Point:
    """Where the ascent of each image stands.

    rows (n,): place of the image in the batch; x, z (n, C, H, W): image and iterate; value (n,), gradient like z: of
    the score at z. memory: what the rule remembers, each (n, ...).
    """

    rows: Tensor
    x: Tensor
    z: Tensor
    value: Tensor
    gradient: Tensor
    memory: dict[str, Tensor] = field(default_factory=dict)

    def keep(self, mask: Tensor) -> None:
        """Drop the images that are not in mask (n,) bool."""
        self.rows, self.x, self.z = self.rows[mask], self.x[mask], self.z[mask]
        self.value, self.gradient = self.value[mask], self.gradient[mask]
        self.memory = {name: values[mask] for name, values in self.memory.items()}


class Move(Protocol):
    """A rule of ascent: from the point of step k to the next iterate."""

    @property
    def looks_back(self) -> bool:
        """Whether the last iterate is looked at as well (one forward pass more), to be compared with earlier ones."""

    def __call__(self, step: int, at: Point) -> Tensor:
        """The next iterate, legal, like at.z; step counts from 0."""

    def result(self, at: Point) -> Tensor:
        """What the ascent returns for the images that are left."""


def climb(
    look: Look,
    x: Tensor,
    start: Tensor,
    move: Move,
    *,
    steps: int,
    samples: int = 1,
    early_stop: bool = False,
) -> Tensor:
    """Images (N, C, H, W) after `steps` gradients from `start`, detached.

    samples: evaluations whose mean gradient is taken (for models that draw). early_stop: an image stays where the
    model first errs on it.
    """
    at = Point(torch.arange(len(x), device=x.device), x, start.detach(), x.new_zeros(len(x)), x)
    stopped = torch.empty_like(x) if early_stop else None
    for step in range(steps + move.looks_back):
        broken = _look(look, at, samples, gradient=step < steps)
        if stopped is not None and broken is not None and bool(broken.any()):
            stopped[at.rows[broken]] = at.z[broken]
            at.keep(~broken)
            if not len(at.rows):
                return stopped
        if step < steps:
            at.z = move(step, at)
    found = move.result(at)
    if stopped is None or len(at.rows) == len(x):
        return found
    stopped[at.rows] = found
    return stopped


def _look(look: Look, at: Point, samples: int, *, gradient: bool) -> Tensor | None:
    """Set value and gradient of a point; whether the model errs there, for most of the samples."""
    values, gradients, errors = [], [], []
    for _ in range(samples):
        z = at.z.detach().requires_grad_(gradient)
        with torch.set_grad_enabled(gradient):
            value, broken = look(z, at.rows)
        if gradient:
            gradients.append(_gradient(value, z))
        values.append(value.detach())
        if broken is not None:
            errors.append(broken)
    at.value = values[0] if samples == 1 else torch.stack(values).mean(0)
    if gradient:
        at.gradient = gradients[0] if samples == 1 else torch.stack(gradients).mean(0)
    if not errors:
        return None
    return errors[0] if samples == 1 else torch.stack(errors).float().mean(0) > 0.5


def _gradient(value: Tensor, z: Tensor) -> Tensor:
    if not value.requires_grad:
        raise NoGradientError(
            "model: expected logits that depend on the images through differentiable operations, got logits without a"
            " gradient; a black-box attack such as `square` needs none"
        )
    with torch.enable_grad():  # ones in the place of the sum would make torch load sympy
        total = value.sum()
    (found,) = torch.autograd.grad(total, z, allow_unused=True)
    if found is None:
        raise NoGradientError("model: expected logits that depend on the images, got logits that do not")
    return found


@dataclass(frozen=True)
class Steepest:
    """Projected steepest ascent with a constant step (pixel units of the norm).

    momentum: decay mu of the accumulated gradient g <- mu g + gradient / |gradient|_1 (Dong et al., "Boosting
    Adversarial Attacks with Momentum", CVPR 2018, equation 6); 0 takes the gradient as it is.
    """

    threat: ThreatModel
    step_size: float
    momentum: float = 0.0
    looks_back: bool = False

    def __call__(self, step: int, at: Point) -> Tensor:
        """One step, and back into the ball and the box."""
        direction = at.gradient
        if self.momentum:
            direction = direction / per_image(direction.abs().flatten(1).mean(1), direction).clamp_min(1e-12)
            direction = direction + self.momentum * at.memory.get("velocity", torch.zeros_like(direction))
            at.memory["velocity"] = direction
        return self.threat.project(at.x, at.z + self.step_size * self.threat.steepest(direction, at.z))

    def result(self, at: Point) -> Tensor:
        """The last iterate."""
        return at.z


@hyperparameters
class Ascent:
    """Projected steepest ascent. step_size in pixel units (in the threat model's norm); steps: gradients
    taken; momentum: decay of the accumulated gradient, 0 for none. start: `uniform` in the ball, `gaussian` with a
    standard deviation of 0.001 around the image (as released with TRADES), or the `image` itself.
    """

    threat: ThreatModel
    step_size: Positive
    steps: Count
    start: Literal["uniform", "gaussian", "image"] = "uniform"
    momentum: NonNegative = 0.0

    def __call__(self, score: Score, x: Tensor, *, rng: Generator) -> Tensor:
        """The last iterate, like x, detached and legal; eps = 0 gives x back."""
        if self.threat.eps == 0 or len(x) == 0:
            return x.detach().clone()
        x = x.detach()
        move = Steepest(self.threat, self.step_size, self.momentum)
        return climb(lambda z, rows: (score(z), None), x, self.begin(x, rng=rng), move, steps=self.steps)

    def begin(self, x: Tensor, *, rng: Generator) -> Tensor:
        """Where the ascent of images x (N, C, H, W) starts, legal; drawn on the CPU, moved to x."""
        if self.start == "uniform":
            return self.threat.random_start(x, rng=rng)
        if self.start == "gaussian":
            return self.threat.project(x, x + GAUSSIAN * torch.randn(x.shape, generator=rng).to(x))
        return x
