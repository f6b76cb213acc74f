"""CausalAdv: adversarial training that also aligns what style says of the label, with and without the attack.

Zhang et al., "CausalAdv: Adversarial Robustness through the Lens of Causality", ICLR 2022, arXiv:2106.06196; step and
losses of causaladv.md sections 4.5 to 4.7. Variant m adds the style term to adversarial training, t to TRADES.
"""

from collections.abc import Callable, Mapping
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from deconfound.attacks.ascent import Ascent
from deconfound.attacks.scores import cross_entropy, kl
from deconfound.defenses.robustly import train_robustly
from deconfound.defenses.style import (
    BasisKind,
    RunningMoments,
    StylePredictor,
    anchor_basis,
    correction,
    isotropic,
    soft_cross_entropy,
    style_basis,
    unit,
)
from deconfound.defenses.workbench import Adaptive, Defended, Pace, Validation, Workbench
from deconfound.fields import Fraction01, NonNegative, Positive, hyperparameters
from deconfound.models.classifier import Classifier, eval_mode
from deconfound.optimisers import load_optimizer_tensors, make_optimizer, optimizer_tensors, pace, under
from deconfound.recipe import Recipe
from deconfound.rng import global_seed
from deconfound.threat import ThreatModel
from deconfound.types import Aim

CIFAR = Ascent(threat=ThreatModel(eps=8 / 255), step_size=0.007, steps=10)


@hyperparameters
class CausalAdv:
    """ascent: the inner maximisation, of the composed loss. variant: m (on adversarial training) or t (on TRADES).
    alpha: weight of the style term; 0 leaves the base method. beta: of the adversarial term; None is 1 for m and 6 for
    t. gamma: of the clean cross-entropy in m (the paper's general form; in t its weight is 1 by definition). rho: of
    the covariance correction.

    basis: of style; `exact`, `sequential` as released, or a placebo (`random`, `identity`, `reshuffled`). head: of the
    style predictor, `mlp` as released or `linear` as in the paper; covariance: `running` per class as released, or
    `isotropic` with isotropic_variance as in the paper. ramp: alpha and rho grow linearly from 0 over the epochs in
    the loss; attack_weights: the attack uses them `full` as released, or `ramped`. detach_target: no gradient through
    the clean side of the style term. forget: weight of a batch in an exponential average of the moments; 0 forgets
    nothing, as released.

    validation: robust accuracy on `val` after each epoch is left out (`none`), recorded (`track`), or chooses the
    epoch whose weights are kept (`best`).
    """

    adaptive: ClassVar[Adaptive] = Adaptive(
        "its training attack climbs cross-entropy and style term together: climb both, in every proportion",
        attacks=("adaptive",),
    )

    ascent: Ascent = CIFAR
    variant: Literal["m", "t"] = "m"
    alpha: NonNegative = 1.0
    beta: NonNegative | None = None
    gamma: NonNegative = 0.0
    rho: NonNegative = 1.0
    basis: BasisKind = "exact"
    head: Literal["mlp", "linear"] = "mlp"
    covariance: Literal["running", "isotropic"] = "running"
    isotropic_variance: Positive = 0.1
    ramp: bool = True
    attack_weights: Literal["full", "ramped"] = "full"
    detach_target: bool = False
    forget: Annotated[Fraction01, Field(lt=1)] = 0.0
    validation: Validation = "none"

    @property
    def weight(self) -> float:
        """beta, with the default of the variant."""
        return (1.0 if self.variant == "m" else 6.0) if self.beta is None else self.beta

    def __call__(self, bench: Workbench) -> Defended:
        """Train the network and, beside it, the predictor of labels from style."""
        model = bench.begin()
        objective = StyleAlignment(self, model, bench.recipe, rng=bench.rng("style"))
        return train_robustly(bench, model, objective, self.ascent, self.validation, parts=objective.parts)

    def term(self, model: Classifier, parts: Mapping[str, Tensor]) -> "StyleTerm | None":
        """The style term at full rho, as the training attack climbs it; None where the training had none."""
        if not self.alpha:
            return None
        known = under(parts, "predictor/")
        width, classes = model.head.in_features, model.head.out_features
        predictor = StylePredictor(width, classes, kind=self.head)
        predictor.load_state_dict(known)
        return StyleTerm(
            self, predictor.to(model.head.weight.device).eval().requires_grad_(False), parts["basis"]
        )

    def corrected(self, predictor: StylePredictor, logits: Tensor, y: Tensor, rho: float) -> Tensor:
        """Logits (N, K) of style plus rho/2 times the correction for the true labels y (N,); only for training."""
        if not rho:
            return logits
        weight = predictor.last.weight
        if self.covariance == "isotropic":
            return logits + rho / 2 * isotropic(weight, self.isotropic_variance)[y]
        return logits + rho / 2 * correction(weight, predictor.moments.covariance)[y]


class StyleTerm:
    """SCE(p^s(x), a~(s(x'))), (N,) nats: how far a perturbation moves what style says of the label."""

    def __init__(self, spec: CausalAdv, predictor: StylePredictor, basis: Tensor) -> None:
        self.spec, self.predictor, self.basis = spec, predictor, basis

    def __call__(
        self, x: Tensor, y: Tensor, features: Tensor, logits: Tensor, *, rho: float | None = None
    ) -> Aim:
        """The term for a batch; rho defaults to the full one."""
        rho = self.spec.rho if rho is None else rho

        def said(features: Tensor, y: Tensor) -> Tensor:
            plain = self.predictor(unit(features) @ self.basis.T)
            return self.spec.corrected(self.predictor, plain, y, rho)

        with torch.no_grad():
            target = said(features, y).softmax(1)
        return lambda z, features, logits, rows: soft_cross_entropy(target[rows], said(features, y[rows]))


class StyleAlignment:
    """Loss of the classifier; owns the style predictor with its optimiser, the moments, the anchor and the basis."""

    def __init__(self, spec: CausalAdv, model: Classifier, recipe: Recipe, *, rng: Generator) -> None:
        self.spec, self.recipe = spec, recipe
        width, classes = model.head.in_features, model.head.out_features
        self.anchor = anchor_basis(width, rng=rng)
        self.moments = RunningMoments(1, width, forget=spec.forget)
        with global_seed(rng):
            self.predictor = StylePredictor(width, classes, kind=spec.head, forget=spec.forget)
        device = model.head.weight.device
        for module in (self.moments, self.predictor):
            module.to(device)
        self.anchor = self.anchor.to(device)
        self.basis = self.anchor.clone()
        self.optimizer = make_optimizer(recipe, self.predictor.parameters())
        self.ramp = 0.0 if spec.ramp else 1.0

    def pace(self, at: Pace) -> None:
        """Set the ramp of alpha and rho, and the learning rate of the predictor."""
        self.ramp = at.ramp if self.spec.ramp else 1.0
        pace(self.optimizer, self.recipe, at.fraction)

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, *, rng: Generator) -> Tensor:
        """One training step up to the classifier's loss; the predictor takes its own step on the way."""
        assert isinstance(model, Classifier)
        spec = self.spec
        features, logits = model.both(x)
        style = unit(features)
        if spec.alpha:
            self._rebuild(style.detach(), model, rng)
        x_adv = self.attack(model, x, y, rng=rng)
        features_adv, logits_adv = model.both(x_adv)
        loss = self._base(logits, logits_adv, y)
        if not spec.alpha:
            return loss
        self._fit_predictor(style.detach() @ self.basis.T, y)
        if not self.ramp:
            return loss
        return loss + spec.alpha * self.ramp * self.style_loss(style, unit(features_adv), y)

    def _base(self, logits: Tensor, logits_adv: Tensor, y: Tensor) -> Tensor:
        """The loss without the style term; scalar, nats."""
        spec = self.spec
        if spec.variant == "t":
            return F.cross_entropy(logits, y) + spec.weight * kl(logits, logits_adv).mean()
        loss = spec.weight * F.cross_entropy(logits_adv, y)
        return loss + spec.gamma * F.cross_entropy(logits, y) if spec.gamma else loss

    def _rebuild(self, style: Tensor, model: Classifier, rng: Generator) -> None:
        """Moments and basis of this step, constants for what follows."""
        self.moments.update(style, torch.zeros(len(style), dtype=torch.long, device=style.device))
        weight = model.head.weight.detach()
        self.basis = style_basis(self.spec.basis, self.anchor, weight, self.moments.covariance[0], rng=rng)

    def attack(self, model: Classifier, x: Tensor, y: Tensor, *, rng: Generator) -> Tensor:
        """Ascent on beta times the base score plus alpha times the style term; every network in evaluation mode."""
        spec = self.spec
        strength = 1.0 if spec.attack_weights == "full" else self.ramp
        alpha = spec.alpha * strength
        with eval_mode(model), eval_mode(self.predictor):
            base, aim = self._goals(model, x, y, rho=spec.rho * strength, styled=alpha > 0)
            rows = torch.arange(len(x), device=x.device)

            def score(z: Tensor) -> Tensor:
                features, logits = model.both(z)
                value = spec.weight * base(logits)
                return value + alpha * aim(z, features, logits, rows) if aim else value

            return spec.ascent(score, x, rng=rng)

    def _goals(
        self, model: Classifier, x: Tensor, y: Tensor, *, rho: float, styled: bool
    ) -> tuple[Callable[[Tensor], Tensor], Aim | None]:
        """The base score of logits, and the style term where it counts."""
        if self.spec.variant == "m" and not styled:
            return lambda logits: cross_entropy(logits, y), None
        with torch.no_grad():
            features, clean = model.both(x)
        term = StyleTerm(self.spec, self.predictor, self.basis)
        aim = term(x, y, features, clean, rho=rho) if styled else None
        if self.spec.variant == "m":
            return lambda logits: cross_entropy(logits, y), aim
        return lambda logits: kl(clean, logits), aim

    def _fit_predictor(self, style: Tensor, y: Tensor) -> None:
        """One step of the predictor on clean style (N, D), with its moments taking in the batch."""
        self.predictor.train()
        self.optimizer.zero_grad(set_to_none=True)
        logits = self.predictor.observe(style, y)
        corrected = self.spec.corrected(self.predictor, logits, y, self.spec.rho * self.ramp)
        F.cross_entropy(corrected, y).backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)

    def style_loss(self, style: Tensor, style_adv: Tensor, y: Tensor) -> Tensor:
        """Mean SCE(p^s(x), a~(s(x_adv))) of unit features (N, D); the predictor is frozen, in evaluation mode."""
        spec, rho = self.spec, self.spec.rho * self.ramp
        with eval_mode(self.predictor):
            target, said = (
                spec.corrected(self.predictor, self.predictor(r @ self.basis.T), y, rho)
                for r in (style, style_adv)
            )
            p = target.detach() if spec.detach_target else target
            return soft_cross_entropy(p.softmax(1), said).mean()

    def parts(self) -> dict[str, Tensor]:
        """What an attacker of this defense knows, and a measure of it reads; nothing without a style term."""
        return self._tensors() if self.spec.alpha else {}

    def _tensors(self) -> dict[str, Tensor]:
        found = {"anchor": self.anchor, "basis": self.basis}
        found |= {f"moments/{name}": value for name, value in self.moments.state_dict().items()}
        return found | {f"predictor/{name}": value for name, value in self.predictor.state_dict().items()}

    def state(self) -> dict[str, Tensor]:
        """Anchor, basis, moments, and the predictor with its optimiser."""
        slots = optimizer_tensors(self.optimizer)
        return self._tensors() | {f"optimizer/{name}": value for name, value in slots.items()}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """The inverse of `state`."""
        self.anchor, self.basis = (state[name].to(self.anchor) for name in ("anchor", "basis"))
        self.moments.load_state_dict(under(state, "moments/"))
        self.predictor.load_state_dict(under(state, "predictor/"))
        load_optimizer_tensors(self.optimizer, under(state, "optimizer/"))
