"""How far an attribution map moves, and what that must be held against.

Every measure takes two sets of maps (N, C, H, W) of the same images in two states and gives (N,) float64; NaN where it
is not defined (a map that is zero everywhere has no direction, no centre and no ranks). Unless it says otherwise, a
measure looks at how strongly a pixel counts: absolute values, summed over channels.

A map moves under any perturbation. So each number stands beside two controls: random noise of the same size, and
another image of the same class, the floor (rank correlations of maps are far from 0 where images share an empty
border). Top-k overlap after Ghorbani, Abid, Zou, "Interpretation of Neural Networks is Fragile", AAAI 2019,
arXiv:1710.10547; the locality-aware one after "Robust Attributions Require Rethinking Robustness Metrics" (LENS,
submitted to ICLR 2023), of which the description alone was at hand.
"""

from collections.abc import Callable, Mapping
from typing import Literal

import torch
from torch import Generator, Tensor
from torch.nn import functional as F

from deconfound.errors import UserError

TOP = 0.1  # share of the pixels that top-k measures look at
WINDOW = 1  # pixels by which the locality-aware overlap forgives a shift
HALVINGS = 40  # of the interval in which the size of noise is sought


def strengths(maps: Tensor) -> Tensor:
    """How strongly each pixel counts, (N, H, W) float64 on the CPU, of maps (N, C, H, W)."""
    return maps.detach().double().cpu().abs().sum(1)


def spearman(a: Tensor, b: Tensor) -> Tensor:
    """Rank correlation of the pixels; ties share their mean rank."""
    return _ranked(strengths(a), strengths(b))


def signed_spearman(a: Tensor, b: Tensor) -> Tensor:
    """The same of the sums over channels, with their signs: pixels that count nothing in both maps are ties in the
    middle, and do not make two maps alike.
    """
    return _ranked(*(maps.detach().double().cpu().sum(1) for maps in (a, b)))


def top_k(a: Tensor, b: Tensor, share: float = TOP) -> Tensor:
    """Share of the strongest pixels of one map that are among the strongest of the other; ties go to the pixel that
    comes first.
    """
    first, second = _strongest(a, share), _strongest(b, share)
    return (first & second).double().sum((1, 2)) / first.double().sum((1, 2))


def local_top_k(a: Tensor, b: Tensor, share: float = TOP, window: int = WINDOW) -> Tensor:
    """The same, where a pixel also counts as found `window` pixels away (in a square around it); mean of both ways."""
    first, second = _strongest(a, share).double()[:, None], _strongest(b, share).double()[:, None]
    size, k = 2 * window + 1, first.sum((1, 2, 3))

    def found(inner: Tensor, outer: Tensor) -> Tensor:
        return (inner * F.max_pool2d(outer, size, stride=1, padding=window)).sum((1, 2, 3)) / k

    return (found(first, second) + found(second, first)) / 2


def cosine(a: Tensor, b: Tensor) -> Tensor:
    """Cosine of the maps as they are, signs and channels and all."""
    return _cosine(*(maps.detach().double().cpu().flatten(1) for maps in (a, b)))


def absolute_cosine(a: Tensor, b: Tensor) -> Tensor:
    """Cosine of the strengths."""
    return _cosine(strengths(a).flatten(1), strengths(b).flatten(1))


def mass_distance(a: Tensor, b: Tensor) -> Tensor:
    """L1 distance of the strengths, each of sum 1; from 0 to 2."""
    return (_shares(a) - _shares(b)).abs().sum((1, 2))


def centre_shift(a: Tensor, b: Tensor) -> Tensor:
    """Distance between the centres of mass, pixels."""
    distance: Tensor = (_centre(a) - _centre(b)).norm(dim=1)
    return distance


def sparsity_change(a: Tensor, b: Tensor) -> Tensor:
    """Gini index of the second map minus that of the first; positive where the second is more concentrated."""
    return gini(b) - gini(a)


def gini(maps: Tensor) -> Tensor:
    """Gini index of the strengths (N,): 0 for a uniform map, 1 - 1/d for a single one of d pixels."""
    ordered = strengths(maps).flatten(1).sort(1).values
    d = ordered.shape[1]
    rank = torch.arange(1, d + 1, dtype=torch.float64)
    found: Tensor = (ordered * (2 * rank - d - 1)).sum(1) / (d * ordered.sum(1))
    return found


Shift = Callable[[Tensor, Tensor], Tensor]
SHIFTS: Mapping[str, Shift] = {
    "spearman": spearman,
    "signed_spearman": signed_spearman,
    "top_k": top_k,
    "local_top_k": local_top_k,
    "cosine": cosine,
    "absolute_cosine": absolute_cosine,
    "mass_distance": mass_distance,
    "centre_shift": centre_shift,
    "sparsity_change": sparsity_change,
}
"""Of two maps that agree the first six give 1, the others 0."""


def shifts(a: Tensor, b: Tensor) -> dict[str, Tensor]:
    """Every measure (N,) of two sets of maps, with the settings above."""
    if a.shape != b.shape or a.dim() != 4:
        raise UserError(
            f"maps: expected two of the same shape (N, C, H, W), got {(*a.shape,)}, {(*b.shape,)}"
        )
    return {name: shift(a, b) for name, shift in SHIFTS.items()}


def noisy_twin(x: Tensor, x_adv: Tensor, *, norm: Literal["linf", "l2"], rng: Generator) -> Tensor:
    """Images x with random signs in place of the perturbation: the same size in the norm, per image, inside [0, 1].

    In L2 the size is met exactly wherever the box leaves room, although pixels at its edge move one way only.
    """
    signs = (torch.randint(0, 2, x.shape, generator=rng) * 2 - 1).to(x)
    delta = (x_adv - x).flatten(1)
    if norm == "linf":
        return (x + signs * delta.abs().amax(1).view(-1, 1, 1, 1)).clamp(0, 1)
    wanted = delta.norm(dim=1)
    low, high = torch.zeros_like(wanted), torch.ones_like(wanted)
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        size = ((x + signs * middle.view(-1, 1, 1, 1)).clamp(0, 1) - x).flatten(1).norm(dim=1)
        low, high = torch.where(size < wanted, middle, low), torch.where(size < wanted, high, middle)
    return (x + signs * ((low + high) / 2).view(-1, 1, 1, 1)).clamp(0, 1)


def another_of_the_class(y: Tensor, *, rng: Generator) -> Tensor:
    """For every image the place (N,) of another one with the same label, each used once: maps[places] is the floor."""
    places = torch.empty_like(y)
    for label in torch.unique(y).tolist():
        rows = (y == label).nonzero().squeeze(1)
        if len(rows) < 2:
            raise UserError(f"floor: expected at least two images of every class, got one of class {label}")
        order = rows[torch.randperm(len(rows), generator=rng).to(rows.device)]
        places[order] = order.roll(1)
    return places


def normalised(measure: Tensor, *, floor: Tensor, noise: Tensor) -> Tensor:
    """(measure - floor) / (noise - floor): 1 for what noise of that size does too, 0 for as far off as another image;
    NaN where both controls agree. Any shapes that go together; meant for means over images.
    """
    room = noise - floor
    return torch.where(room == 0, torch.nan, (measure - floor) / torch.where(room == 0, 1.0, room))


def _strongest(maps: Tensor, share: float) -> Tensor:
    flat = strengths(maps).flatten(1)
    k = max(1, round(share * flat.shape[1]))
    order = flat.argsort(stable=True, dim=1, descending=True)
    found = torch.zeros_like(flat, dtype=torch.bool).scatter(1, order[:, :k], True)
    return found.view(len(maps), *maps.shape[2:])


def _shares(maps: Tensor) -> Tensor:
    found = strengths(maps)
    return found / found.sum((1, 2), keepdim=True)


def _centre(maps: Tensor) -> Tensor:
    shares = _shares(maps)
    rows, columns = (torch.arange(side, dtype=torch.float64) for side in shares.shape[1:])
    return torch.stack([shares.sum(2) @ rows, shares.sum(1) @ columns], 1)


def _cosine(a: Tensor, b: Tensor) -> Tensor:
    found: Tensor = (a * b).sum(1) / (a.norm(dim=1) * b.norm(dim=1))
    return found


def _ranked(a: Tensor, b: Tensor) -> Tensor:
    from scipy.stats import rankdata

    first, second = (torch.from_numpy(rankdata(maps.flatten(1).numpy(), axis=1)) for maps in (a, b))
    return _cosine(first - first.mean(1, keepdim=True), second - second.mean(1, keepdim=True))
