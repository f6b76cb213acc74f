"""Frank-Wolfe in the Wasserstein ball: images reached by moving pixel mass over small distances.

Wu, Wang & Yu, "Stronger and Faster Wasserstein Adversarial Attacks", ICML 2020; the threat model and
the local transport are those of Wong, Schmidt & Kolter, "Wasserstein Adversarial Examples via Projected Sinkhorn
Iterations", ICML 2019, arXiv:1902.07906. Our linear problem of a step has the upper end of the pixel box inside it:
without, all mass of a neighbourhood would go to one pixel, and most of it have to come back.
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import field_validator
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from deconfound.attacks.ascent import Point, climb
from deconfound.attacks.scores import ScoreName
from deconfound.attacks.victim import attacking
from deconfound.fields import Count, Eps, hyperparameters
from deconfound.threat import TINY, per_image

SHARPNESS = 40.0  # toll on one pixel of distance over the temperature of a plan
COLDEST = 1000.0  # largest inverse temperature, for gradients whose values span 1
STRIDE = 0.5  # largest change of the logarithm of a toll in a sweep; it halves where the direction turns
RELAXED = 1.8  # factor on the update of the prices, which settle slowly with 1
SWEEPS = (80, 15)  # of the dual: in the first step, and in later ones, which start from the prices before
ROUNDS = 200  # of sending surplus back
ROUNDING = 5e-7  # surplus per pixel that is only rounding


@hyperparameters
class WassersteinBall:
    """All images of the same mass per channel whose mass can be had from the original's by moving at most `eps`: part
    of the mass of the whole image (over all channels) times pixels moved. 0.1 moves a tenth of the mass by one pixel.
    """

    eps: Eps
    norm: str = "wasserstein"

    def contains(self, x: Tensor, z: Tensor, *, tolerance: float = 1e-5) -> Tensor:
        """(N,) bool: is z a legal image for x? Asks for the optimal transport itself, over any distance and within each
        channel. `tolerance`, a part of the mass, absorbs rounding.
        """
        flat = z.detach().flatten(1)
        legal = flat.isfinite().all(1) & (flat.amin(1) >= -tolerance) & (flat.amax(1) <= 1 + tolerance)
        before = x.detach().cpu().double().numpy()
        after = z.detach().cpu().double().numpy()
        for row in legal.nonzero().flatten().tolist():
            legal[row] = bool(_moved(before[row], after[row], tolerance) <= self.eps + tolerance)
        return legal


def _moved(x: NDArray[np.float64], z: NDArray[np.float64], tolerance: float) -> float:
    """Mass times pixels of the best transport from x to z (C, H, W), per unit of mass; infinite where none exists.

    Mass that both images share stays where it is, which is optimal since the cost is a metric.
    """
    import ot  # here, as it takes seconds

    mass = max(float(x.sum()), TINY)
    difference = (z - x).reshape(len(x), -1) / mass
    if np.abs(difference.sum(1)).max() > tolerance:
        return np.inf
    places = np.stack(np.divmod(np.arange(difference.shape[1]), x.shape[2]), 1).astype(np.float64)
    total = 0.0
    for channel in difference:
        to, source = channel > 0, channel < 0
        if not to.any() or not source.any():
            continue
        cost = np.linalg.norm(places[source][:, None] - places[to][None], axis=2)
        give, take = -channel[source], channel[to]
        unit = max(give.sum(), take.sum())
        total += unit * float(ot.emd2(give / give.sum(), take / take.sum(), cost, numItermax=10**7))
    return total


@dataclass(frozen=True)
class Transport:
    """Local moves of mass: from every pixel to those of the window around it. A plan is (n, C, window^2, H, W): of the
    mass of pixel (h, w) the part that moves to each place of its window.
    """

    window: int

    @property
    def middle(self) -> int:
        """Place of the pixel itself in its window."""
        return self.window**2 // 2

    def distances(self, like: Tensor) -> Tensor:
        """Pixels from the middle to each place of the window, (window^2, 1, 1)."""
        place = torch.arange(self.window, device=like.device, dtype=like.dtype) - self.window // 2
        return (place[:, None] ** 2 + place[None] ** 2).sqrt().view(-1, 1, 1)

    def gather(self, values: Tensor) -> Tensor:
        """The values (n, C, H, W) around every pixel, zero outside, (n, C, window^2, H, W)."""
        found = F.unfold(values.flatten(0, 1)[:, None], self.window, padding=self.window // 2)
        return found.reshape(*values.shape[:2], -1, *values.shape[2:])

    def scatter(self, plan: Tensor) -> Tensor:
        """What arrives at every pixel, (n, C, H, W); the adjoint of gather."""
        count, channels, places, height, width = plan.shape
        flat = plan.reshape(count * channels, places, height * width)
        found = F.fold(flat, (height, width), self.window, padding=self.window // 2)
        return found.reshape(count, channels, height, width)


@dataclass(frozen=True)
class Oracle:
    """The image of the ball and the box with the largest inner product with a gradient, within a few per cent.

    It is a transport problem with room for mass 1 at every target, and one budget for the cost of all moves; solved at
    a temperature, by its dual. That has a price per target, moved as in Sinkhorn's iteration for upper bounds, and a
    toll per pixel of distance, moved by damped Newton steps in log scale until the cost meets the budget.
    """

    transport: Transport
    eps: float

    def __call__(self, x: Tensor, gradient: Tensor, memory: dict[str, Tensor], *, sweeps: int) -> Tensor:
        """An image like x, legal. memory: `prices` (n, C, H, W) and `toll` (n,) of the call before, to start from."""
        span = gradient.flatten(1).amax(1) - gradient.flatten(1).amin(1)
        around = self.transport.gather(gradient / per_image(span.clamp_min(TINY), gradient))
        outside = self.transport.gather(torch.ones_like(x[:1])) == 0
        reach = self.transport.distances(x)
        budget = self.eps * x.flatten(1).sum(1)
        prices, toll = memory.get("prices", torch.zeros_like(x)), memory.get("toll", torch.ones_like(budget))
        stride, lacked = torch.full_like(toll, STRIDE), torch.zeros_like(toll)
        for _ in range(sweeps):
            cold = (SHARPNESS / toll).clamp_max(COLDEST)
            logits = _per_plan(cold) * (around - _per_plan(toll) * reach - self.transport.gather(prices))
            plan = logits.masked_fill_(outside, -torch.inf).softmax(2)
            moves = plan * x[:, :, None]
            cost = _total(moves * reach)
            lack = (budget / cost.clamp_min(TINY)).clamp_min(TINY).log()
            stride = torch.where(lack * lacked < 0, stride / 2, (stride * 1.2).clamp_max(STRIDE))
            rate = self._rate(moves, plan, around, toll, cold) / cost.clamp_min(TINY)
            step = torch.maximum(torch.minimum(lack / rate.clamp_min(0.5), stride), -stride)
            arrived = self.transport.scatter(moves).clamp_min(TINY)
            prices = (prices + RELAXED * arrived.log() / per_image(cold, x)).clamp_min(0)
            toll, lacked = (toll / step.exp()).clamp(1e-6, 1e3), lack
        memory |= {"prices": prices, "toll": toll}
        return torch.where(per_image(span > 0, x), self.legal(x, moves, budget), x)

    def _rate(self, moves: Tensor, plan: Tensor, around: Tensor, toll: Tensor, cold: Tensor) -> Tensor:
        """How fast the cost rises as the logarithm of the toll falls, at these prices: (n,). A covariance under the
        plan, of distance with what changes: the gain while the temperature follows the toll, the toll itself then.
        """
        reach = self.transport.distances(plan)
        varies = torch.where(_per_plan(cold < COLDEST), around, -_per_plan(toll) * reach)
        far = (plan * reach).sum(2, keepdim=True)
        return cold * _total(moves * varies * (reach - far))

    def legal(self, x: Tensor, moves: Tensor, budget: Tensor) -> Tensor:
        """What moves of mass make of x, once those are undone that the budget (n,) or the box do not allow.

        Where more mass would stand than 1, the surplus goes back where it came from, in proportion; that may overfill
        the pixels that it came from, whose own visitors then go back. Each round moves less mass, at less cost.
        """
        moves = moves.clone()
        moves[:, :, self.transport.middle] = 0
        cost = _total(moves * self.transport.distances(x))
        moves *= _per_plan((budget / cost.clamp_min(TINY)).clamp_max(1))
        for _ in range(ROUNDS):
            arrived = self.transport.scatter(moves)
            z = x - moves.sum(2) + arrived
            surplus = (z - 1).clamp_min(0)
            if float(surplus.max()) <= ROUNDING:
                break
            moves *= self.transport.gather(1 - (surplus / arrived.clamp_min(TINY)).clamp_max(1))
        else:  # not seen so far; a channel that does not settle stays as it was
            settled = surplus.flatten(2).amax(2)[..., None, None] <= ROUNDING
            z = torch.where(settled, z, x)
        return z.clamp(0, 1)


def _per_plan(values: Tensor) -> Tensor:
    """One number per image, shaped to be broadcast over plans."""
    return values.view(-1, 1, 1, 1, 1)


def _total(values: Tensor) -> Tensor:
    """Sum per image, (n,)."""
    return values.flatten(1).sum(1)


@dataclass(frozen=True)
class FrankWolfe:
    """Steps of 2 / (k + 2) towards what the oracle answers; as the ball is convex, no iterate leaves it."""

    oracle: Oracle
    looks_back: bool = False

    def __call__(self, step: int, at: Point) -> Tensor:
        """The next iterate."""
        vertex = self.oracle(at.x, at.gradient, at.memory, sweeps=SWEEPS[step > 0])
        return (at.z + 2 / (step + 2) * (vertex - at.z)).clamp(0, 1)  # only rounding leaves the box

    def result(self, at: Point) -> Tensor:
        """The last iterate."""
        return at.z


@hyperparameters
class FrankWolfeWasserstein:
    """eps: the budget, as part of the mass of the image (the sum of its pixels over all channels) times pixels moved;
    0.1 moves a tenth of the mass by one pixel. Wu et al. report 0.005 on CIFAR-10. window: odd side in pixels of the
    square around a pixel to which its mass may move, within its channel; distances are Euclidean. steps: gradients
    taken. score and samples (evaluations whose mean gradient is taken) as in PGD. early_stop: leave an image as soon as
    the model errs on it.

    NAMID's paper evaluates with 40 steps of this attack ("FWA-40"), and states neither budget nor window.
    """

    eps: Eps
    window: Count = 5
    steps: Count = 40
    score: ScoreName = "cross_entropy"
    samples: Count = 1
    early_stop: bool = False

    @field_validator("window")
    @classmethod
    def _odd(cls, side: int) -> int:
        if side % 2 == 0:
            raise ValueError(f"expected an odd number of pixels, got {side}")
        return side

    @property
    def threat(self) -> WassersteinBall:
        """The budget that an evaluator holds this attack to."""
        return WassersteinBall(eps=self.eps)

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, *, rng: Generator) -> Tensor:
        """The last iterate (or the first on which the model errs), like x. Draws nothing."""
        x = x.detach()
        with attacking(model, x, y) as victim:
            if self.eps == 0 or not len(x):
                return x.clone()
            look = victim.look(victim.goal(self.score, x))
            move = FrankWolfe(Oracle(Transport(self.window), self.eps))
            return climb(look, x, x, move, steps=self.steps, samples=self.samples, early_stop=self.early_stop)
