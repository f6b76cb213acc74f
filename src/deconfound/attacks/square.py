"""Square: random search over square-shaped changes, which asks the model for logits and never for a gradient.

Andriushchenko et al., "Square Attack: a Query-efficient Black-box Adversarial Attack via Random Search", ECCV 2020,
algorithms 1 to 3; the schedule stretched to the number of queries as in AutoAttack. For l1: Croce & Hein, "Mind the
Box: l1-APGD for Sparse Adversarial Attacks on Image Classifiers", ICML 2021.
"""

from dataclasses import dataclass, field
from types import EllipsisType
from typing import Literal, Protocol

import torch
from torch import Generator, Tensor, nn

from deconfound.attacks.victim import Goal, Victim, attacking
from deconfound.fields import Count, Eps, OpenFraction, hyperparameters
from deconfound.threat import ORDER, TINY, Norm, ThreatModel, per_image, size

# Of 10000 queries: after these the area of the square halves.
HALVED = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)
TILES = 5  # l2, l1: tiles along a side of the first change
LEAST = 3  # l2, l1: least side of a square, on images of at least TILES times that
# l1: by how much a proposal exceeds the budget before it is projected; what is small then falls to zero.
EXCESS = 3


def share(query: int, queries: int, p_init: float) -> float:
    """Part of the pixels that the square of a query covers; query counts from 0."""
    place = query * 10000 // queries
    halvings: int = sum(place > after for after in HALVED)
    return float(p_init / 2**halvings)


@hyperparameters
class Square:
    """eps in pixel units of `norm`. queries: evaluations of the model per image and restart; the first one is the image
    itself, and an image on which the model errs is asked about no more. p_init: part of the pixels that the first
    squares cover, falling with the part of `queries` that is spent. restarts: independent searches, on what is left
    standing. score: what a change must raise to be kept.
    """

    eps: Eps
    norm: Norm = "linf"
    queries: Count = 5000
    p_init: OpenFraction = 0.8
    restarts: Count = 1
    score: Literal["margin", "cross_entropy", "dlr"] = "margin"

    @property
    def threat(self) -> ThreatModel:
        """The budget that an evaluator holds this attack to."""
        return ThreatModel(norm=self.norm, eps=self.eps)

    @torch.no_grad()
    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, *, rng: Generator) -> Tensor:
        """Images on which the model errs where any were found, elsewhere those with the highest score; like x."""
        x = x.detach()
        found = x.clone()
        with attacking(model, x, y) as victim:
            if self.eps == 0 or not len(x):
                return found
            goal = victim.goal(self.score, x)
            logits = victim(x)
            best = goal(logits, torch.arange(len(x), device=x.device))
            standing = (~victim.errs(logits)).nonzero().flatten()
            for _ in range(self.restarts):
                if len(standing):
                    standing = self._search(victim, goal, x, standing, found, best, rng)
        return found

    def _search(
        self,
        victim: Victim,
        goal: Goal,
        x: Tensor,
        rows: Tensor,
        found: Tensor,
        best: Tensor,
        rng: Generator,
    ) -> Tensor:
        """One search for the images at `rows`, into `found` and `best` (their scores); the rows still standing."""
        walk: Walk = _WALKS[self.norm](self.threat, x[rows], rng)
        top = torch.full_like(best[rows], -torch.inf)
        places = torch.rand(self.queries, 5, generator=rng).tolist()
        colours = (torch.rand(self.queries, x.shape[1], generator=rng) < 0.5).to(x.device)
        for query in range(self.queries - 1):
            if query:  # the first candidate is the start itself
                walk.propose(share(query - 1, self.queries, self.p_init), places[query], colours[query])
            logits = victim(walk.candidate)
            value, errs = goal(logits, rows), victim.errs(logits, rows)
            broken = bool(errs.any())
            if broken:
                found[rows[errs]], best[rows[errs]] = walk.candidate[errs], value[errs]
            better = value > top
            walk.settle(better)
            top = torch.where(better, value, top)
            if broken:
                rows, top = rows[~errs], top[~errs]
                walk.keep(~errs)
                if not len(rows):
                    return rows
        higher = top > best[rows]
        found[rows[higher]], best[rows[higher]] = walk.z[higher], top[higher]
        return rows


class Walk(Protocol):
    """A search in one norm: z, the best images so far, and the candidate whose score is asked for next."""

    z: Tensor
    candidate: Tensor

    def propose(self, part: float, place: list[float], colour: Tensor) -> None:
        """Make the next candidate. part: of the pixels; place: five draws from [0, 1); colour (C,) bool."""

    def settle(self, better: Tensor) -> None:
        """Take the candidate for the images in `better` (n,) bool, and forget it for the others."""

    def keep(self, mask: Tensor) -> None:
        """Drop the images that are not in mask (n,) bool; not between a proposal and its settlement."""


class Corners:
    """linf: every pixel stands at an end of what the ball and the box allow; a square puts a window to either end.

    Candidate and z are one tensor: only the window is written, and what it was before is kept until the settlement.
    """

    def __init__(self, threat: ThreatModel, x: Tensor, rng: Generator) -> None:
        self.low, self.high = (x - threat.eps).clamp_min(0), (x + threat.eps).clamp_max(1)
        stripes = torch.rand(len(x), x.shape[1], 1, x.shape[3], generator=rng) < 0.5
        self.z = self.candidate = torch.where(stripes.to(x.device), self.high, self.low)
        self.window, self.before = _window(self.z, 0, 0, 0), self.z[..., :0, :0]

    def propose(self, part: float, place: list[float], colour: Tensor) -> None:
        """Where a window would stay as it is, its inverse takes its place: no query is asked in vain."""
        side = _side(part, self.z, 1)
        self.window = _window(self.z, side, *place[:2])
        self.before = self.z[self.window].clone()
        high, low = self.high[self.window], self.low[self.window]
        after = torch.where(colour[:, None, None], high, low)
        idle = per_image((after == self.before).flatten(1).all(1), after)
        self.z[self.window] = torch.where(idle, torch.where(colour[:, None, None], low, high), after)

    def settle(self, better: Tensor) -> None:
        """Write the old window back where the new one is no better."""
        now = self.z[self.window]
        self.z[self.window] = torch.where(per_image(better, now), now, self.before)

    def keep(self, mask: Tensor) -> None:
        """Drop images."""
        self.low, self.high = self.low[mask], self.high[mask]
        self.z = self.candidate = self.z[mask]


@dataclass
class Mounds:
    """l2 and l1: the mass of one window and what the budget has left move into another, in the shape of two hills of
    opposite sign (algorithm 3). What clipping takes away is left of the budget, and is spent by the next proposal.
    """

    threat: ThreatModel
    x: Tensor
    rng: Generator
    z: Tensor = field(init=False)
    candidate: Tensor = field(init=False)

    def __post_init__(self) -> None:
        count, channels, height, width = self.x.shape
        side = max(1, min(height, width) // TILES)
        rows, columns = height // side, width // side
        turned = torch.rand(rows, columns, generator=self.rng) < 0.5
        signs = (torch.rand(count, channels, rows, columns, generator=self.rng) - 0.5).sign().to(self.x)
        tile, block = hills(side, self.threat.norm), torch.ones(side, side)
        tiles = torch.where(
            torch.kron(turned, block).bool(), tile.T.repeat(rows, columns), tile.repeat(rows, columns)
        )
        delta = torch.zeros_like(self.x)
        top, left = (height - rows * side) // 2, (width - columns * side) // 2
        delta[..., top : top + rows * side, left : left + columns * side] = tiles.to(
            self.x
        ) * signs.repeat_interleave(side, 2).repeat_interleave(side, 3)
        self.z = self.candidate = self._legal(delta)

    def propose(self, part: float, place: list[float], colour: Tensor) -> None:
        """One window takes over the mass of another, per channel."""
        side = _side(part, self.x, min(LEAST, max(1, min(self.x.shape[2:]) // TILES)))
        into, source = _window(self.x, side, *place[:2]), _window(self.x, side, *place[2:4])
        delta = self.z - self.x
        whole = self._mass(delta)
        old = delta[into] / self._length(delta[into]).clamp_min(TINY)
        delta[source] = 0
        delta[into] = 0
        freed = (whole - self._mass(delta)).clamp_min(0)
        spare = (self.threat.eps**self._p - whole.sum(1, keepdim=True)).clamp_min(0) / self.x.shape[1]
        shape = hills(side, self.threat.norm).to(self.x)
        shape = (shape.T if place[4] < 0.5 else shape) * torch.where(colour, 1.0, -1.0)[:, None, None]
        new = old + shape
        length = (freed + spare) ** (1 / self._p) * (EXCESS if self.threat.norm == "l1" else 1)
        delta[into] = new / self._length(new).clamp_min(TINY) * length
        self.candidate = self._legal(delta)

    def settle(self, better: Tensor) -> None:
        """Take the better candidates."""
        self.z = torch.where(per_image(better, self.z), self.candidate, self.z)

    def keep(self, mask: Tensor) -> None:
        """Drop images."""
        self.x, self.z = self.x[mask], self.z[mask]

    @property
    def _p(self) -> float:
        return ORDER[self.threat.norm]

    def _mass(self, delta: Tensor) -> Tensor:
        """Sum of |delta|^p over the pixels of each channel, (n, C, 1, 1)."""
        return delta.abs().pow(self._p).sum((2, 3), keepdim=True)

    def _length(self, delta: Tensor) -> Tensor:
        return self._mass(delta) ** (1 / self._p)

    def _legal(self, delta: Tensor) -> Tensor:
        """The whole budget in the direction of delta, inside the box; for l1 the nearest legal image."""
        if self.threat.norm == "l1":
            return self.threat.project(self.x, self.x + delta)
        scale = self.threat.eps / size(delta, self.threat.norm).clamp_min(TINY)
        return (self.x + delta * per_image(scale, delta)).clamp(0, 1)


def hills(side: int, norm: Norm) -> Tensor:
    """Two pyramids side by side, one of them negative, (side, side) with norm 1."""
    upper = side // 2
    both = [part for part in (_pyramid(upper, side), -_pyramid(side - upper, side)) if part.numel()]
    shape = torch.cat([part / size(part[None], norm) for part in both])
    unit: Tensor = shape / size(shape[None], norm)
    return unit


def _pyramid(height: int, width: int) -> Tensor:
    """At Chebyshev distance d from the centre the sum of 1 / j^2 over j from d + 1 to the number of rings."""
    rows, columns = torch.arange(height) - height // 2, torch.arange(width) - width // 2
    distance = torch.maximum(rows.abs()[:, None], columns.abs()[None])
    rings = max(height, width) // 2 + 1
    terms = 1 / torch.arange(1, rings + 1).float() ** 2
    return terms.flip(0).cumsum(0).flip(0)[distance]


def _side(part: float, x: Tensor, least: int) -> int:
    """Side of a square that covers a part of the pixels: odd unless `least` is 1, and at most the image."""
    height, width = x.shape[2:]
    side = max(round((part * height * width) ** 0.5), least)
    if least > 1:
        side += 1 - side % 2
    return int(min(side, height, width))


def _window(x: Tensor, side: int, down: float, right: float) -> tuple[EllipsisType, slice, slice]:
    """Index of a square window; down and right in [0, 1) say where."""
    top, left = int(down * (x.shape[2] - side + 1)), int(right * (x.shape[3] - side + 1))
    return ..., slice(top, top + side), slice(left, left + side)


_WALKS: dict[Norm, type[Corners] | type[Mounds]] = {"linf": Corners, "l2": Mounds, "l1": Mounds}
