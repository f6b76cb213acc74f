"""The attack that knows a defense's loss: projected ascent on the composition of base score and further term.

A defense that trains against more than its classifier's own loss (a style term, an estimate of mutual information)
says which (`defenses.workbench.Composed`); the attack climbs (1 - w) base + w term for every w of a sweep, per image.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
from torch import Generator, Tensor, nn

from deconfound.attacks.ascent import Look, Steepest, climb
from deconfound.attacks.pgd import PGD
from deconfound.attacks.restarts import restarted
from deconfound.attacks.scores import SCORES
from deconfound.attacks.victim import Victim, attacking
from deconfound.fields import Count, Eps, Fraction01, Positive, hyperparameters
from deconfound.threat import Norm, ThreatModel
from deconfound.types import Term


@hyperparameters
class AdaptivePGD:
    """eps and step_size in pixel units of `norm`; steps from a random start, restarts of them; score: the base.
    weights: the sweep of w, each an attack of its own, on what the ones before it left standing. early_stop: as PGD has
    it. Against a defense without a further term this is PGD on the base score. step_size defaults to 2.5 eps / steps.
    """

    eps: Eps
    norm: Norm = "linf"
    steps: Count = 40
    step_size: Positive | None = None
    restarts: Count = 1
    score: Literal["cross_entropy", "margin", "dlr"] = "cross_entropy"
    weights: tuple[Fraction01, ...] = (0.0, 0.25, 0.5, 0.75, 1.0)
    early_stop: bool = False

    @property
    def threat(self) -> ThreatModel:
        """The budget that an evaluator holds this attack to."""
        return ThreatModel(norm=self.norm, eps=self.eps)

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, *, rng: Generator) -> Tensor:
        """Adversarial images like x from the base score alone; x (N, C, H, W) in [0, 1], y (N,) true labels."""
        known = {
            name: getattr(self, name) for name in ("eps", "norm", "steps", "step_size", "restarts", "score")
        }
        return PGD(**known, early_stop=self.early_stop)(model, x, y, rng=rng)

    def knowing(self, term: Term | None) -> Any:
        """The sweep against a defense with this term; this attack itself where there is none."""
        return self if term is None else Sweep(self, term)


@dataclass(frozen=True)
class Sweep:
    """The adaptive attack, told the term: an ensemble with a member per weight."""

    spec: AdaptivePGD
    term: Term = field(repr=False)

    @property
    def threat(self) -> ThreatModel:
        """The budget of all members."""
        return self.spec.threat

    def members(self) -> Mapping[str, "Weighted"]:
        """An attack per weight, in the order of the sweep."""
        return {f"w={w:g}": Weighted(self.spec, w, self.term) for w in self.spec.weights}

    def at(self, **changes: Any) -> "Sweep":
        """The same with other parameters."""
        return Sweep(replace(self.spec, **changes), self.term)

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, *, rng: Generator) -> Tensor:
        """Images of the first weight that fools the model, of the last one where none does."""
        found = x.detach().clone()
        left = torch.arange(len(x), device=x.device)
        for member in self.members().values():
            if not len(left):
                break
            found[left] = member(model, x[left], y[left], rng=rng)
            with attacking(model, x, y) as victim, torch.no_grad():
                left = left[~victim.part(left).errs(victim(found[left]))]
        return found


@dataclass(frozen=True)
class Weighted:
    """One weight of the sweep."""

    spec: AdaptivePGD
    weight: float
    term: Term = field(repr=False)

    @property
    def threat(self) -> ThreatModel:
        """The budget."""
        return self.spec.threat

    def at(self, **changes: Any) -> "Weighted":
        """The same with other parameters."""
        return Weighted(replace(self.spec, **changes), self.weight, self.term)

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, *, rng: Generator) -> Tensor:
        """Adversarial images like x; the model has `both`, as a Classifier does."""
        spec, x = self.spec, x.detach()

        def once(victim: Victim, x: Tensor) -> Tensor:
            move = Steepest(spec.threat, spec.step_size or 2.5 * spec.eps / spec.steps)
            start = spec.threat.random_start(x, rng=rng)
            look = self._look(model, victim, x)
            return climb(look, x, start, move, steps=spec.steps, early_stop=spec.early_stop)

        with attacking(model, x, y) as victim:
            if spec.eps == 0 or not len(x):
                return x.clone()
            return restarted(once, victim, x, count=spec.restarts, early_stop=spec.early_stop)

    def _look(self, model: Any, victim: Victim, x: Tensor) -> Look:
        with torch.no_grad():
            features, logits = model.both(x)
        aim = self.term(x, victim.y, features, victim.checked(logits, x))
        base = SCORES[self.spec.score]

        def look(z: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
            features, logits = model.both(z)
            logits = victim.checked(logits, z)
            score = base(logits, victim.y[rows])
            if self.weight:
                score = (1 - self.weight) * score + self.weight * aim(z, features, logits, rows)
            return score, victim.errs(logits, rows)

        return look
