"""The l2 attack of Carlini & Wagner: distance plus c times the margin still missing, by Adam, with a search for c.

Carlini & Wagner, "Towards Evaluating the Robustness of Neural Networks", S&P 2017, sections V and VI (f_6, tanh space).
Defaults are theirs, but for the steps (10 000 in the paper).
"""

from dataclasses import dataclass

import torch
from torch import Generator, Tensor, nn

from deconfound.attacks.ascent import Point, climb
from deconfound.attacks.minimal import Closest, closest, within
from deconfound.attacks.scores import margin
from deconfound.errors import NoGradientError
from deconfound.fields import Count, Eps, Positive, hyperparameters
from deconfound.threat import ThreatModel

INSIDE = 1 - 1e-6  # by so much pixels are drawn to the middle, or tanh could not reach them
DECAYS, GUARD = (0.9, 0.999), 1e-12  # Adam's; near the edge of the box gradients are far below its usual 1e-8
CHECKS, PROGRESS = 10, 1e-3  # how often a run looks for progress, and the part of its loss an image must shed
FACTOR = 10.0  # by which c grows while nothing is found


@dataclass(frozen=True)
class Adam:
    """The rule: one step of Adam down the loss -at.value, in the w of z = (tanh w + 1) / 2."""

    step_size: float
    looks_back: bool = True

    def __call__(self, step: int, at: Point) -> Tensor:
        """The next iterate, in the box."""
        seen, zero = at.memory, torch.zeros_like(at.z)
        w = seen["w"] if step else to_tanh(at.z)
        slope = -at.gradient * 2 * at.z * (1 - at.z)
        first = torch.lerp(slope, seen.get("first", zero), DECAYS[0])
        second = torch.lerp(slope.square(), seen.get("second", zero), DECAYS[1])
        mean, square = first / (1 - DECAYS[0] ** (step + 1)), second / (1 - DECAYS[1] ** (step + 1))
        w = w - self.step_size * mean / (square.sqrt() + GUARD)
        seen |= {"w": w, "first": first, "second": second}
        return from_tanh(w)

    def result(self, at: Point) -> Tensor:
        """The last iterate."""
        return at.z


def to_tanh(x: Tensor) -> Tensor:
    """The w of images x."""
    return torch.atanh((2 * x - 1) * INSIDE)


def from_tanh(w: Tensor) -> Tensor:
    """Images in [0, 1]."""
    return ((w.tanh() + 1) / 2).clamp(0.0, 1.0)


@hyperparameters
class CarliniWagner:
    """eps: l2, pixel units. c, the weight of the margin, starts at `initial_c` and is sought in `searches` runs of at
    most `steps` steps of size step_size (in tanh space); a run drops images whose loss no longer falls. early_stop:
    leave an image as soon as an adversarial one within eps is known, which is all that an evaluation asks.
    """

    eps: Eps
    steps: Count = 1000
    searches: Count = 9
    step_size: Positive = 0.01
    initial_c: Positive = 1e-3
    early_stop: bool = False

    @property
    def threat(self) -> ThreatModel:
        """The budget that an evaluator holds this attack to."""
        return ThreatModel(norm="l2", eps=self.eps)

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, *, rng: Generator) -> Tensor:
        """The closest adversarial images found where they are within eps, x elsewhere; nothing is drawn."""
        reach = self.eps if self.early_stop else 0.0
        return within(self._hunt, model, x, y, threat=self.threat, reach=reach)

    def minimal(self, model: nn.Module, x: Tensor, y: Tensor, *, rng: Generator) -> Tensor:
        """The closest adversarial images found, without a budget; x where none was found."""
        return closest(self._hunt, model, x, y, norm="l2").best

    def _hunt(self, found: Closest, clean: Tensor) -> None:
        low = torch.zeros_like(found.distance)
        high, c = torch.full_like(low, torch.inf), torch.full_like(low, self.initial_c)
        for _ in range(self.searches):
            rows = found.standing()
            if not len(rows):
                return
            x = found.x[rows]
            run = Run(found, rows, c[rows], period=max(1, self.steps // CHECKS))
            climb(run, x, from_tanh(to_tanh(x)), Adam(self.step_size), steps=self.steps, early_stop=True)
            high[rows[run.fooled]], low[rows[~run.fooled]] = c[rows[run.fooled]], c[rows[~run.fooled]]
            c = torch.where(high.isinf(), c * FACTOR, (low + high) / 2)


class Run:
    """The look of one run: minus the loss, and which images are done with. fooled (n,) bool: did the model ever err?"""

    def __init__(self, found: Closest, rows: Tensor, c: Tensor, *, period: int) -> None:
        self.found, self.rows, self.c, self.period, self.looks = found, rows, c, period, 0
        self.fooled = torch.zeros_like(rows, dtype=torch.bool)
        self.lowest = torch.full_like(c, torch.inf)
        self.checked = self.lowest.clone()

    def __call__(self, z: Tensor, places: Tensor) -> tuple[Tensor, Tensor]:
        """One forward pass on iterates of the images in these places (n,) of the run."""
        rows, victim = self.rows[places], self.found.victim
        logits = victim(z)
        if z.requires_grad and not logits.requires_grad:  # the distance would hide it from the ascent
            raise NoGradientError("model: expected logits with a gradient, got logits without one")
        wrong = victim.errs(logits, rows)
        self.found.offer(rows, z.detach(), wrong)
        self.fooled[places] |= wrong
        missing = (-margin(logits, victim.y[rows])).clamp_min(0)
        loss = (z - self.found.x[rows]).square().flatten(1).sum(1) + self.c[places] * missing
        self.lowest[places] = torch.minimum(self.lowest[places], loss.detach())
        return -loss, (self.found.distance[rows] <= self.found.reach) | self._stale()[places]

    def _stale(self) -> Tensor:
        self.looks += 1
        if self.looks % self.period:
            return torch.zeros_like(self.fooled)
        stale = self.lowest > (1 - PROGRESS) * self.checked
        self.checked = self.lowest.clone()
        return stale
