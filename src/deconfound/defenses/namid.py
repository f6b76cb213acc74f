"""NAMID: adversarial training that makes the information in adversarial outputs resemble that in clean ones.

Zhou et al., "Improving Adversarial Robustness via Mutual Information Estimation", ICML 2022, arXiv:2207.12203,
equations 8 and 9; choices of its code in namid.md sections 5 and 6. The estimators are trained beforehand on an
adversarially trained network and its crafted training set, and are never refreshed.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from deconfound.attacks.ascent import Ascent
from deconfound.defenses.losses import Base, base_loss, craft, mart, trades
from deconfound.defenses.robustly import train_robustly
from deconfound.defenses.standard import cross_entropy
from deconfound.defenses.workbench import Adaptive, Defended, Validation, Workbench
from deconfound.errors import UserError
from deconfound.estimator_training import train_estimators
from deconfound.estimators import Banks, Bound, Estimators, EstimatorSpec, profile
from deconfound.fields import Count, Natural, NonNegative, hyperparameters
from deconfound.models.classifier import Classifier, to_unit
from deconfound.optimisers import under
from deconfound.profiles import Profile, masked_cosine, masked_mean
from deconfound.threat import ThreatModel
from deconfound.types import Aim

CIFAR = Ascent(threat=ThreatModel(eps=8 / 255), step_size=2 / 255, steps=10, start="gaussian")
BANK = 128  # training images whose patterns are the negatives of estimates outside of training


@hyperparameters
class NAMID:
    """ascent: the inner maximisation, of the cross-entropy for every base. base: `adversarial`, `trades` with
    trades_beta, or `mart` with mart_weight. alpha: weight of the information term; 0 leaves the base. balance: lambda
    of the mean difference E_a - E_n inside it, which the released code leaves out. natural, adversarial: whether that
    information counts.

    estimator: networks and training of the estimators; bound: what the loss reads of them. selection: images that are
    right when clean and wrong when attacked, by the `argmax` of the logits, or as `released`, of a softmax over the
    batch. smallest: fewer of them in a batch, and the term is left out. shuffle_patterns: the placebo; patterns of
    other images of the batch. detach_clean: no gradient through the clean outputs. warmup_epochs: of standard training
    before the adversarial epochs. validation: robust accuracy on `val` after each epoch is left out (`none`), recorded
    (`track`), or chooses the epoch whose weights are kept (`best`).
    """

    adaptive: ClassVar[Adaptive] = Adaptive(
        "its loss reads outputs through fixed networks: climb the cross-entropy and what they read, in all proportions",
        attacks=("adaptive",),
    )
    needs: ClassVar[tuple[str, ...]] = ("starts_from", "crafted_by")

    ascent: Ascent = CIFAR
    base: Base = "adversarial"
    trades_beta: NonNegative = 6.0
    mart_weight: NonNegative = 6.0
    alpha: NonNegative = 5.0
    balance: NonNegative = 0.1
    natural: bool = True
    adversarial: bool = True
    estimator: EstimatorSpec = EstimatorSpec()
    bound: Bound = "released"
    selection: Literal["argmax", "released"] = "argmax"
    smallest: Annotated[Count, Field(ge=1)] = 1
    shuffle_patterns: bool = False
    detach_clean: bool = False
    warmup_epochs: Natural = 0
    validation: Validation = "none"

    def __call__(self, bench: Workbench) -> Defended:
        """Train the estimators on the run that the bench starts from, then a fresh network against them."""
        learnt = learn(bench, self.estimator) if self.alpha else None
        model = bench.network("model")
        if self.warmup_epochs:
            gentle = replace(bench.recipe, epochs=self.warmup_epochs, schedule="constant")
            bench.fit(model, cross_entropy, phase="warmup", recipe=gentle)
        objective = InformationAlignment(self, learnt.estimators if learnt else None)
        parts = learnt.tensors if learnt else dict
        return train_robustly(
            bench, model, objective, self.ascent, self.validation, notes=objective.notes, parts=parts
        )

    def term(self, model: Classifier, parts: Mapping[str, Tensor]) -> "InformationTerm | None":
        """E_a(h(x')) - E_n(h(x')), with the estimators of the training; None where it had none."""
        if not parts:
            return None
        return InformationTerm(Learnt.load(self.estimator, model.head.out_features, parts), self.bound)


class Learnt:
    """Trained estimators, and the patterns (M, C, H, W) that stand for all others outside of training."""

    def __init__(self, estimators: Estimators, x: Tensor, noise: Tensor) -> None:
        self.estimators = estimators.eval().requires_grad_(False)
        self.x, self.noise = x, noise

    @staticmethod
    def of(estimators: Estimators, x: Tensor, x_adv: Tensor) -> "Learnt":
        """With a bank from images (N, C, H, W): BANK of them, evenly spaced, since a folder's come sorted by class."""
        size, device = min(BANK, len(x)), next(estimators.parameters()).device
        chosen = torch.arange(size) * len(x) // size
        clean = to_unit(x[chosen].to(device))
        return Learnt(estimators, clean, x_adv[chosen].to(device) - clean)

    def banks(self) -> Banks:
        """Features of the patterns."""
        return self.estimators.banks(self.x, self.noise)

    def tensors(self) -> dict[str, Tensor]:
        """Everything, by name; the inverse is `load`."""
        state = {f"estimators/{name}": value for name, value in self.estimators.state_dict().items()}
        return state | {"bank/x": self.x, "bank/noise": self.noise}

    @staticmethod
    def load(spec: EstimatorSpec, classes: int, parts: Mapping[str, Tensor]) -> "Learnt":
        """From the tensors beside a checkpoint."""
        x = parts["bank/x"]
        with torch.random.fork_rng(devices=()):  # the weights that are drawn here are replaced
            estimators = Estimators(spec, (x.shape[1], x.shape[2], x.shape[3]), classes)
        estimators.load_state_dict(under(parts, "estimators/"))
        return Learnt(estimators.to(x.device), x, parts["bank/noise"])


def learn(bench: Workbench, spec: EstimatorSpec) -> Learnt:
    """Estimators of the network that the bench starts from, on the set crafted on it. UserError without either."""
    if bench.start is None or bench.crafted is None:
        raise UserError(
            "estimators need an adversarially trained run and the training set crafted on it (starts_from, crafted_by)"
        )
    data, size = bench.data, min(spec.batch_size, len(bench.data.y))
    spec = replace(spec, batch_size=size)
    found = train_estimators(spec, bench.start, data.x, bench.crafted, data.y, rng=bench.rng("estimators"))
    return Learnt.of(found, data.x, bench.crafted)


class InformationAlignment:
    """Loss of the network; the estimators are frozen, in evaluation mode."""

    def __init__(self, spec: NAMID, estimators: Estimators | None) -> None:
        self.spec, self.estimators = spec, estimators
        self.steps, self.skipped, self.share = 0, 0, 0.0

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, *, rng: Generator) -> Tensor:
        """Base loss + alpha times the information term; scalar.

        Outputs of x and x_adv are computed once for both; the released code computes them again for each use, which
        gives the same numbers and moves the statistics of batch norms further.
        """
        spec = self.spec
        x_adv = craft(spec.ascent, model, x, y, rng=rng)
        if self.estimators is None:
            return base_loss(
                model, x, x_adv, y, base=spec.base, trades_beta=spec.trades_beta, mart_weight=spec.mart_weight
            )
        adversarial = model(x_adv)
        clean = model(x)
        loss = self._base(clean, adversarial, y)
        chosen = self.chosen(clean.detach(), adversarial.detach(), y)
        count = int(chosen.sum())
        self.steps, self.share = self.steps + 1, self.share + count / len(y)
        if count < spec.smallest:
            self.skipped += 1
            return loss
        found = self.profile(clean, adversarial, x, x_adv - x, rng=rng)
        return loss + spec.alpha * information_loss(
            found, chosen, balance=spec.balance, natural=spec.natural, adversarial=spec.adversarial
        )

    def _base(self, clean: Tensor, adversarial: Tensor, y: Tensor) -> Tensor:
        spec = self.spec
        if spec.base == "adversarial":
            return F.cross_entropy(adversarial, y)
        if spec.base == "trades":
            return trades(clean, adversarial, y, spec.trades_beta)
        return mart(clean, adversarial, y, spec.mart_weight)

    def chosen(self, clean: Tensor, adversarial: Tensor, y: Tensor) -> Tensor:
        """Omega (N,) bool: right when clean, wrong when attacked."""
        if (
            self.spec.selection == "released"
        ):  # over the batch: rescales classes, and so moves the largest one
            clean, adversarial = clean.softmax(0), adversarial.softmax(0)
        return (clean.argmax(1) == y) & (adversarial.argmax(1) != y)

    def profile(
        self, clean: Tensor, adversarial: Tensor, x: Tensor, noise: Tensor, *, rng: Generator
    ) -> Profile:
        """All four estimates of a batch, of patterns in their places or, in the placebo, shuffled."""
        assert self.estimators is not None
        if self.spec.shuffle_patterns:
            order = torch.randperm(len(x), generator=rng).to(x.device)
            x, noise = x[order], noise[order]
        clean = clean.detach() if self.spec.detach_clean else clean
        return profile(self.estimators, clean, adversarial, x, noise, bound=self.spec.bound)

    def notes(self) -> dict[str, float]:
        """fooled_share: mean |Omega| / N of all batches; skipped_share: of batches with too small an Omega. Nothing
        where no batch was asked for its Omega.
        """
        if not self.steps:
            return {}
        return {"fooled_share": self.share / self.steps, "skipped_share": self.skipped / self.steps}

    def state(self) -> dict[str, Tensor]:
        """The sums behind the notes."""
        return {"sums": torch.tensor([self.steps, self.skipped, self.share], dtype=torch.float64)}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """The inverse of `state`."""
        steps, skipped, self.share = state["sums"].tolist()
        self.steps, self.skipped = int(steps), int(skipped)


def information_loss(
    found: Profile, chosen: Tensor, *, balance: float, natural: bool = True, adversarial: bool = True
) -> Tensor:
    """|1 - cos(E_n(h(x_adv)), E_n(h(x)))| + |1 - cos(E_a(h(x_adv)), E_a(h(x)))| + balance mean(E_a - E_n)(h(x_adv)).

    Cosines of the vectors over Omega (chosen, (N,) bool), equations 8 and 9; a zero tensor where Omega is empty.
    natural, adversarial: the parts that count, in the cosines and in the mean.
    """
    total = found.natural_clean.new_zeros(())
    if not bool(chosen.any()):
        return total
    if natural:
        total = total + (1 - masked_cosine(found.natural_adversarial, found.natural_clean, chosen)).abs()
        total = total - balance * masked_mean(found.natural_adversarial, chosen)
    if adversarial:
        total = (
            total + (1 - masked_cosine(found.adversarial_adversarial, found.adversarial_clean, chosen)).abs()
        )
        total = total + balance * masked_mean(found.adversarial_adversarial, chosen)
    return total


class InformationTerm:
    """E_a(h(x')) - E_n(h(x')) per image, against a bank of patterns, so that images do not influence each other."""

    def __init__(self, learnt: Learnt, bound: Bound) -> None:
        self.learnt, self.bound = learnt, bound
        self.banks = learnt.banks()

    def __call__(self, x: Tensor, y: Tensor, features: Tensor, logits: Tensor) -> Aim:
        """The term for a batch; the gradient reaches the images through the logits."""
        pairs, banks = self.learnt.estimators, self.banks
        with torch.no_grad():
            local = pairs.natural.local(x)

        def aim(z: Tensor, features: Tensor, logits: Tensor, rows: Tensor) -> Tensor:
            natural = pairs.natural.estimate_local(logits, local[rows], bound=self.bound, bank=banks.natural)
            noise = z.detach() - x[rows]
            adversarial = pairs.adversarial.estimate(logits, noise, bound=self.bound, bank=banks.adversarial)
            return adversarial - natural

        return aim
