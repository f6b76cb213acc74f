"""How far an estimate of mutual information can be trusted: bounds measured where the truth is known.

Correlated Gaussians have a known information. A critic is trained for each bound and level as an estimator would be,
and read on fresh draws at the batch size of its training. The critic is separable, f(x) . g(y) with two networks that
see one variable each, as NAMID's is (the concatenated critic of CBD sees both at once and costs N^2 passes).

D dimensions, N pairs of a batch, S seeds, J levels; the S * J critics of a bound are trained side by side.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any, NamedTuple

import torch
from torch import Generator, Tensor, nn

from deconfound.calibration_spec import Calibration
from deconfound.decomposition import coupling, synergy
from deconfound.information import (
    donsker_varadhan,
    info_nce,
    jensen_shannon,
    nguyen_wainwright_jordan,
    rows,
)
from deconfound.optim import Adam
from deconfound.rng import generator
from deconfound.statistics import mean

FLOOR = 0.05  # nats: an error that is always forgiven, so that the criterion makes sense at zero information
FLAT = 0.5  # slope of estimate against truth below which a bound saturates
FAR = 1.5  # estimate over truth above which it diverges
STRENGTHS = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)


class Way(NamedTuple):
    """train: what a critic maximises, from scores (N, N); read: what is then reported, nats."""

    train: Callable[[Tensor], Tensor]
    read: Callable[[Tensor], Tensor]


def released_rows(scores: Tensor) -> Tensor:
    """Mean of the released row-wise form."""
    return rows(scores, released=True).mean()


def clean_rows(scores: Tensor) -> Tensor:
    """Mean of the row-wise form without the additional 1."""
    return rows(scores).mean()


def read_jensen_shannon(scores: Tensor) -> Tensor:
    """A critic trained on the Jensen-Shannon divergence approaches the log density ratio."""
    return nguyen_wainwright_jordan(scores + 1)


BOUNDS: Mapping[str, Way] = {
    "info_nce": Way(info_nce, info_nce),
    "donsker_varadhan": Way(donsker_varadhan, donsker_varadhan),
    "nguyen_wainwright_jordan": Way(nguyen_wainwright_jordan, nguyen_wainwright_jordan),
    "jensen_shannon": Way(jensen_shannon, read_jensen_shannon),
    "row_donsker_varadhan": Way(clean_rows, clean_rows),
    "namid_released": Way(released_rows, released_rows),
}


def gaussian_information(rho: float, dimension: int) -> float:
    """-D/2 log(1 - rho^2) nats: of D independent pairs of standard Gaussians of correlation rho."""
    return -dimension / 2 * math.log1p(-(rho**2))


def correlation(nats: float, dimension: int) -> float:
    """The inverse of `gaussian_information`."""
    return math.sqrt(-math.expm1(-2 * nats / dimension))


def gaussians(
    rho: Tensor, streams: Sequence[Generator], *, count: int, dimension: int
) -> tuple[Tensor, Tensor]:
    """Pairs x, y (S * J, N, D) of correlation rho (J,); all levels of a seed share their underlying draws."""
    z = torch.stack([torch.randn(2, 1, count, dimension, generator=stream) for stream in streams])
    rho = rho[:, None, None]
    x, y = z[:, 0].expand(-1, len(rho), -1, -1), rho * z[:, 0] + (1 - rho**2).sqrt() * z[:, 1]
    return x.flatten(0, 1), y.flatten(0, 1)


class Critics(nn.Module):
    """G = S * J separable critics with weights of their own: x, y (G, N, D) -> scores (G, N, N).

    The levels of a seed begin with the same weights.
    """

    def __init__(self, spec: Calibration, streams: Sequence[Generator]) -> None:
        super().__init__()
        widths = (spec.dimension, spec.hidden, spec.hidden, max(1, spec.hidden // 2))
        self.scale = widths[-1] ** -0.5
        self.weights, self.biases = nn.ParameterList(), nn.ParameterList()
        for inner, outer in list(zip(widths, widths[1:], strict=False)) * 2:
            drawn = torch.stack([torch.randn(inner, outer, generator=stream) for stream in streams])
            self.weights.append((drawn / inner**0.5).repeat_interleave(len(spec.levels), 0))
            self.biases.append(torch.zeros(len(streams) * len(spec.levels), 1, outer))

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """Scores of all pairs."""
        half = len(self.weights) // 2
        for layer in range(half):
            x = torch.baddbmm(self.biases[layer], x, self.weights[layer])
            y = torch.baddbmm(self.biases[half + layer], y, self.weights[half + layer])
            if layer + 1 < half:
                x, y = x.relu(), y.relu()
        scores: Tensor = self.scale * (x @ y.transpose(1, 2))
        return scores


def readings(spec: Calibration, way: Way) -> Tensor:
    """Train the critics of a bound, then read them: (batches, S, J) nats, float64, perhaps not finite."""
    names = range(spec.seeds)
    rho = torch.tensor([correlation(level, spec.dimension) for level in spec.levels])
    critics = Critics(spec, [generator(spec.seed, "calibration", "init", name) for name in names])
    streams = [generator(spec.seed, "calibration", "draws", name) for name in names]
    optimizer = Adam(critics.parameters(), lr=spec.lr)
    train, read = torch.vmap(way.train), torch.vmap(way.read)

    def scores() -> Tensor:
        found: Tensor = critics(*gaussians(rho, streams, count=spec.batch_size, dimension=spec.dimension))
        return found

    for step in range(spec.steps):
        for group in optimizer.param_groups:
            group["lr"] = spec.lr * 0.5 * (1 + math.cos(math.pi * step / spec.steps))
        optimizer.zero_grad(set_to_none=True)
        loss = -train(scores()).sum()  # a sum: each critic has the gradient of its own value
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    with torch.no_grad():
        values = torch.stack([read(scores()) for _ in range(spec.batches)])
    return values.view(spec.batches, spec.seeds, len(spec.levels)).double()


def level(truth: float, values: Tensor, tolerance: float) -> dict[str, Any]:
    """A level of a bound from its readings (batches, S): estimate and 95 % interval over seeds, bias, sd of one batch
    (mean over seeds), `seeds` the estimate of each, `usable`. Numbers are None if any reading is not finite.
    """
    found: dict[str, Any] = {"truth": truth, "usable": False}
    if not bool(values.isfinite().all()):
        return found | dict.fromkeys(("estimate", "low", "high", "bias", "sd", "seeds"))
    seeds = values.mean(0)
    value, low, high = mean(seeds.numpy())
    allowed = max(tolerance * truth, FLOOR)
    found |= {"estimate": value, "low": low, "high": high, "bias": value - truth}
    found |= {"sd": float(values.std(0).mean()), "seeds": seeds.tolist()}
    return found | {"usable": truth - allowed <= low and high <= truth + allowed}


def verdict(levels: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """usable_to: largest level up to which every level is usable, None if the lowest is not. slope: of estimate against
    truth between the last two levels, None if unknown. shape, of these two: `diverges` (the last estimate above 1.5
    times the truth, or not finite), else `unstable` (the sd of one batch above the truth), else `saturates` (slope
    below 0.5), else `follows`.
    """
    usable = None
    for row in levels:
        if not row["usable"]:
            break
        usable = row["truth"]
    before, last = levels[-2], levels[-1]
    if before["estimate"] is None or last["estimate"] is None:
        return {"usable_to": usable, "slope": None, "shape": "diverges"}
    slope = (last["estimate"] - before["estimate"]) / (last["truth"] - before["truth"])
    shape = "saturates" if slope < FLAT else "follows"
    if any(row["sd"] > max(row["truth"], FLOOR) for row in (before, last)):
        shape = "unstable"
    if last["estimate"] > max(FAR * last["truth"], FLOOR):
        shape = "diverges"
    return {"usable_to": usable, "slope": slope, "shape": shape}


def calibrate(spec: Calibration, tick: Callable[[str], None] = lambda name: None) -> dict[str, Any]:
    """Every bound at every level, and the decomposition by strength of interaction, as JSON.

    spec; capacity: log N, which InfoNCE cannot exceed; bounds: name, levels (see `level`) and `verdict`;
    decomposition: family, strength, residual, and the terms of `Decomposition`. Nats.
    """
    bounds = []
    for name, way in BOUNDS.items():
        values = readings(spec, way)
        levels = [
            level(truth, values[:, :, place], spec.tolerance) for place, truth in enumerate(spec.levels)
        ]
        bounds.append({"name": name, "levels": levels, **verdict(levels)})
        tick(name)
    capacity = math.log(spec.batch_size)
    return {"spec": asdict(spec), "capacity": capacity, "bounds": bounds, "decomposition": interactions()}


def interactions() -> list[dict[str, Any]]:
    """The corollary's residual and all terms of the theorem, by family and strength of the interaction."""
    return [
        {"family": family, "strength": strength, "residual": found.residual, **found._asdict()}
        for family, make in (("synergy", synergy), ("coupling", coupling))
        for strength in STRENGTHS
        for found in [make(strength)]
    ]
