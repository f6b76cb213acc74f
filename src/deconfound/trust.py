"""The trust gate: is a robust accuracy believable, or did the attack fail where the model did not hold?

Each check is one measured statistic with its 95 % interval and a limit; it fails when the whole interval lies beyond
the limit, so that chance alone seldom raises an alarm. The checks follow Carlini et al., "On Evaluating Adversarial
Robustness", 2019, arXiv:1902.06705; Athalye et al., "Obfuscated Gradients Give a False Sense of Security", ICML 2018;
and the flags of AutoAttack (Croce & Hein, ICML 2020).
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from deconfound.attacks.apgd import APGD
from deconfound.attacks.pgd import PGD
from deconfound.attacks.scores import cross_entropy, margin
from deconfound.attacks.square import Square
from deconfound.engine import Bools, Cost, Engine, Rows
from deconfound.errors import ModelRaisedError, NoGradientError
from deconfound.gate import Gate
from deconfound.models.classifier import predict, to_unit
from deconfound.probes import Noise, Rescaled, gradient_norms
from deconfound.rng import generator, global_seed
from deconfound.statistics import Interval, difference, wilson
from deconfound.threat import ThreatModel, per_image

GROWTH = (0.5, 1.0, 2.0, 4.0)  # radii, as multiples of eps
EXPLODING = 1e3  # times the median norm of the margin's gradient
SAME = 1e-3  # of the largest logit: more is another answer, less is rounding
FAILED, PASSED, OPEN = "failed", "passed", "not assessed"


@dataclass(frozen=True)
class Check:
    """One statistic in [0, 1] (or [-1, 1] for differences) that an honest evaluation keeps at or below `limit`."""

    name: str
    verdict: str
    value: float
    low: float
    high: float
    limit: float
    total: int
    note: str = ""

    def to_json(self) -> dict[str, Any]:
        """All fields; NaN, where nothing was measured, as null."""
        return {name: None if value != value else value for name, value in asdict(self).items()}


def judged(name: str, found: Interval, *, limit: float, total: int, note: str = "") -> Check:
    """A check that fails when the interval lies above the limit."""
    verdict = OPEN if total == 0 or found.value != found.value else FAILED if found.low > limit else PASSED
    return Check(name, verdict, found.value, found.low, found.high, limit, total, note)


def part(name: str, bad: Bools, *, limit: float, note: str = "") -> Check:
    """A check on the part of examples (N,) that are bad."""
    return judged(name, wilson(int(bad.sum()), len(bad)), limit=limit, total=len(bad), note=note)


def never(name: str, bad: Bools, *, note: str = "") -> Check:
    """A check that fails as soon as one example (N,) is bad: for what arithmetic excludes in an honest model."""
    found = wilson(int(bad.sum()), len(bad))
    verdict = OPEN if not len(bad) else FAILED if bad.any() else PASSED
    return Check(name, verdict, found.value, found.low, found.high, 0.0, len(bad), note if bad.any() else "")


def model_checks(engine: Engine, gate: Gate) -> list[Check]:
    """Whether the model answers each image by itself, the same each time; this concerns every metric."""
    x = engine.x[: gate.examples]
    if not len(x):
        return []
    try:
        once, again = (_logits(engine, x, seed) for seed in (0, 1))
        backward = _logits(engine, x.flip(0), 0).flip(0)
        single = torch.cat([_logits(engine, x[i : i + 1], 0) for i in range(min(len(x), 16))])
        noise = torch.rand(x.shape, generator=generator(engine.seed, "gate", "noise"))
        _logits(engine, noise.to(x.device), 0)
    except ModelRaisedError as error:
        return [never("answers", np.ones(len(x), bool), note=str(error))]
    silent = never("answers", (~once.isfinite()).any(1).numpy(), note="logits that are not finite")
    drawn = never("repeats", _differ(once, again), note="another answer to the same images")
    apart = _differ(once, backward)
    apart[: len(single)] |= _differ(once[: len(single)], single)
    return [silent, drawn, never("independent", apart, note="the answer depends on the rest of the batch")]


def threat_checks(
    engine: Engine, threat: ThreatModel, reported: Rows, gate: Gate, costs: Iterable[Cost]
) -> list[Check]:
    """Whether the images reported as standing under a threat model stand against what the attacks should have found.

    reported: places of the standing images; costs: of the attacks that were reported, for their faults.
    """
    battery = Battery(engine, threat, gate)
    faults = [cost.fault for cost in costs if cost.fault]
    checks = [never("attacks_ran", np.array([bool(faults)]), note="; ".join(faults[:1]))]
    checks += gradient_checks(engine, battery.rows)
    if threat.norm not in WHOLE or not threat.eps:
        return checks
    return checks + battery.against(reported[reported < battery.count])


WHOLE: Mapping[str, Callable[[int], float]] = {"linf": lambda d: 1.0, "l2": lambda d: d**0.5, "l1": float}
"""Radius at which the ball around any image holds the whole box of d pixels."""


class Battery:
    """Attacks that should find no more than what was reported, on the first images of the gate."""

    def __init__(self, engine: Engine, threat: ThreatModel, gate: Gate) -> None:
        self.engine, self.threat, self.gate = engine, threat, gate
        self.count = len(engine.clean[: gate.examples])
        self.rows = np.flatnonzero(engine.clean[: self.count])
        self.budget: dict[str, Any] = {"eps": threat.eps, "norm": threat.norm, "early_stop": True}

    def against(self, standing: Rows) -> list[Check]:
        """All checks; standing: places of the images that were reported as standing."""
        gate = self.gate
        plain = self.left("plain", PGD(**self.budget))
        longer = self.left("more_steps", PGD(**self.budget, steps=gate.steps))
        again = self.left("more_restarts", PGD(**self.budget, score="margin", restarts=gate.restarts))
        white = np.intersect1d(np.intersect1d(plain, longer), again)
        noise = self.left("noise", Noise(self.threat, gate.draws), white)
        square = Square(eps=self.threat.eps, norm=self.threat.norm, queries=gate.queries)
        black = self.left("black_box", square, white)
        scale = _scale(self.engine, self.rows)
        rescaled = self.left("logit_scale", Rescaled(PGD(**self.budget), scale))
        more = "breaks more than was reported"
        return [
            self.beyond("more_steps", longer, standing, f"PGD with {gate.steps} steps {more}"),
            self.beyond("more_restarts", again, standing, f"PGD with {gate.restarts} restarts {more}"),
            self.beyond("noise", noise, white, "noise breaks what no gradient breaks"),
            self.beyond("black_box", black, white, "Square breaks what no gradient breaks"),
            self.transfer(white),
            self.beyond("logit_scale", rescaled, standing, f"PGD on logits divided by {scale:.3g} {more}"),
            self.growing_eps(),
            self.whole_box(),
        ]

    def left(self, name: str, attack: Any, rows: Rows | None = None) -> Rows:
        """Places of the images (by default all that the model gets right) that stand after an attack."""
        return self.engine.standing(attack, f"gate/{name}", self.rows if rows is None else rows)[0]

    def beyond(self, name: str, left: Rows, base: Rows, note: str) -> Check:
        """A check on the part of all images that stood before (base) and no longer do."""
        bad = np.zeros(self.count, bool)
        bad[np.setdiff1d(base, left)] = True
        return part(name, bad, limit=self.gate.tolerance, note=note)

    def transfer(self, white: Rows) -> Check:
        """Images crafted on another model, those of them that are within the budget."""
        engine, left, usable = self.engine, white, False
        rows = self.rows
        for name, images in sorted(engine.stored.items()):
            x = to_unit(engine.x[rows])
            x_adv = images[torch.from_numpy(rows)].to(x.device, x.dtype)
            legal = self.threat.contains(x, x_adv)
            usable |= bool(legal.any())
            picked = torch.where(per_image(legal, x), x_adv, x)
            left = np.intersect1d(left, rows[engine.judge(picked, engine.y[rows], f"gate/{name}", 0)])
        if not usable:
            nothing = Interval(np.nan, np.nan, np.nan)
            return judged(
                "transfer", nothing, limit=0.0, total=0, note="no images of another model were given"
            )
        note = "images crafted on another model break what no gradient breaks"
        return self.beyond("transfer", left, white, note)

    def growing_eps(self) -> Check:
        """The largest rise of accuracy from one radius to the next larger one."""
        hits = []
        for times in GROWTH:
            grown = PGD(**self.budget | {"eps": times * self.threat.eps})
            hits.append(np.isin(np.arange(self.count), self.left(f"eps x {times:g}", grown))[None])
        rises = [difference(larger, smaller) for smaller, larger in zip(hits, hits[1:], strict=False)]
        most = max(rises, key=lambda rise: rise.low)
        note = "a larger radius helps the model"
        return judged("growing_eps", most, limit=self.gate.tolerance, total=self.count, note=note)

    def whole_box(self) -> Check:
        """Accuracy when every image of the box is allowed."""
        pixels = self.engine.x[0].numel() if len(self.engine.x) else 1
        budget = self.budget | {"eps": WHOLE[self.threat.norm](pixels), "steps": self.gate.steps}
        left = self.left("whole box", APGD(**budget))
        left = self.left("whole box, margin", APGD(**budget, score="margin", restarts=2), left)
        note = "some images stand although every image is allowed"
        bad = np.isin(np.arange(self.count), left)
        return part("whole_box", bad, limit=self.gate.tolerance, note=note)


def gradient_checks(engine: Engine, rows: Rows) -> list[Check]:
    """Parts of the images whose gradient vanishes or is not finite, or is far larger than usual."""
    if not len(rows):
        return []
    x, y = to_unit(engine.x[rows]), engine.y[rows]
    try:
        norms = {
            score.__name__: gradient_norms(engine.judged, x, y, score) for score in (cross_entropy, margin)
        }
    except (NoGradientError, ModelRaisedError) as error:
        return [never("gradients", np.ones(len(rows), bool), note=str(error))]
    bad = np.zeros(len(rows), bool)
    for norm in norms.values():
        bad |= ~np.isfinite(norm) | (norm == 0)
    usual = norms["margin"][np.isfinite(norms["margin"]) & (norms["margin"] > 0)]
    exploding = norms["margin"] > EXPLODING * np.median(usual) if len(usual) else np.zeros(len(rows), bool)
    checks = [
        part("gradients", bad, limit=0.01, note="images without a usable gradient"),
        part("exploding", exploding, limit=0.01, note="gradients far larger than the median"),
    ]
    with global_seed(generator(engine.seed, "gate", "logits")):
        logits = predict(engine.judged, x)
    sums = ((logits.sum(1) - 1).abs() < 1e-3) & (logits.amin(1) >= 0)
    if logits.shape[1] > 1:
        checks.append(
            part("logits", sums.numpy(), limit=0.5, note="the model returns probabilities, not logits")
        )
    return checks


def _scale(engine: Engine, rows: Rows) -> float:
    """Median distance of the largest to the second largest logit."""
    if not len(rows):
        return 1.0
    top = predict(engine.judged, engine.x[rows]).topk(2, dim=1).values
    return max(float((top[:, 0] - top[:, 1]).median()), 1e-6)


def _logits(engine: Engine, x: Tensor, seed: int) -> Tensor:
    with global_seed(generator(seed, "gate", "repeat")):
        return predict(engine.judged, x)


def _differ(left: Tensor, right: Tensor) -> Bools:
    """(N,) bool: do two answers (N, K) differ by more than rounding?"""
    scale = left.abs().amax().clamp_min(1e-6) * SAME
    found: Bools = (((left - right).abs() > scale).any(1)).numpy()
    return found
