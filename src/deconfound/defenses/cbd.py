"""CBD: train on poisoned data by keeping away from what a network that was stopped early has learnt.

Zhang et al., "Backdoor Defense via Deconfounded Representation Learning", CVPR 2023, arXiv:2303.06818. A
biased twin is stopped while it holds the backdoor and little else. The clean network weighs each example by
how hard it is for the twin relative to itself, and a critic keeps its representation z independent of the
twin's r.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from deconfound.defenses.standard import cross_entropy
from deconfound.defenses.workbench import Adaptive, Defended, Workbench
from deconfound.fields import Count, Fraction01, NonNegative, Positive, hyperparameters
from deconfound.information import Critic, dependence_gap
from deconfound.models.classifier import Classifier, eval_mode, frozen, predict, to_unit
from deconfound.optim import Adam
from deconfound.optimisers import batches, load_optimizer_tensors, optimizer_tensors, under
from deconfound.recipe import Recipe
from deconfound.rng import global_seed
from deconfound.types import Images

FITTED, UNLEARNT = 0.05, 0.5  # nats: thresholds of the label-free rule, cbd.md section 12.3


@hyperparameters
class CBD:
    """biased_epochs, biased_lr: training of the twin, constant rate. stop: `epochs` trains all of them;
    `rule` looks at the twin's losses on the training set every `check_every` steps and stops once the 5th
    percentile is at most 0.05 nats while the median is still at least 0.5, which needs no label of poison.
    biased_loss: `generalised` (q = 0.7) is a deviation.

    premise: `assumed`, as published. `held_out` is a deviation that needs clean images: the network is trained plainly
    unless the rule is met and the label that most of the training examples of low loss bear is not fitted on `val`,
    where its 5th percentile must be above 0.05. What the twin fits there too is an easy class, not a trigger, and CBD
    would give that class up.

    reweight: weigh examples by relative difficulty; normalise: to a batch mean of 1. mi_weight: lambda of
    the dependence gap. compression: beta of the squared norm of z. critic_lr (Adam), critic_steps: updates
    per batch; critic_dropout: of its two layers; alternate: update the critic in every batch, or in a pass
    of its own before every epoch, as released. lipschitz: true projection, or as released.

    shuffle: the placebo. `features` pairs each example with the features r of another example of the batch,
    `twin` with features and loss of another: the same machinery, without the information of the biased
    twin.

    Left beside the network: the biased twin's tensors, as parts `biased/...`, for the measures that ask it.
    """

    adaptive: ClassVar[Adaptive] = Adaptive(
        "what slows the learning of the trigger, on which the twin relies: noise crafted for that on the poisoned"
        " images, or cover images (stamped, with their own labels)",
        poisons=("slow_injection", "badnets"),
    )

    biased_epochs: Count = 5
    biased_lr: Positive = 0.1
    biased_loss: Literal["cross_entropy", "generalised"] = "cross_entropy"
    stop: Literal["epochs", "rule"] = "epochs"
    check_every: Count = 25
    premise: Literal["assumed", "held_out"] = "assumed"
    reweight: bool = True
    normalise: bool = True
    mi_weight: NonNegative = 0.01
    compression: NonNegative = 0.0
    critic_lr: Positive = 1e-3
    critic_steps: Count = 1
    critic_dropout: Annotated[Fraction01, Field(lt=1)] = 0.2
    alternate: Literal["batch", "epoch"] = "batch"
    lipschitz: Literal["projection", "released"] = "projection"
    shuffle: Literal["none", "features", "twin"] = "none"

    def __call__(self, bench: Workbench) -> Defended:
        """Train the twin, stop it, then train the clean network away from it."""
        biased = bench.network("biased")
        recipe = replace(bench.recipe, epochs=self.biased_epochs, lr=self.biased_lr, schedule="constant")
        steps = self._train_biased(bench, biased, recipe)
        loss = example_losses(biased, bench.data)
        low, middle = (float(loss.quantile(q)) for q in (0.05, 0.5))
        met = low <= FITTED and middle >= UNLEARNT
        notes = {
            "biased_steps": steps,
            "biased_loss_p05": low,
            "biased_loss_median": middle,
            "rule_met": float(met),
        }
        spec = self
        if self.premise == "held_out":
            held = self._held_out(bench, biased, loss)
            met = met and held > FITTED
            notes |= {"biased_loss_p05_val": held, "premise_met": float(met)}
            if not met:
                spec = replace(self, reweight=False, mi_weight=0.0, compression=0.0)
        return spec._train_clean(bench, biased, loss, notes)

    def _train_clean(
        self, bench: Workbench, biased: Classifier, loss: Tensor, notes: dict[str, float]
    ) -> Defended:
        """Train the clean network away from the twin; loss: of the twin on the training set, (N,)."""
        model = bench.network("model")
        objective = Deconfounding(self, biased, width=model.head.in_features, rng=bench.rng("critic"))
        per_epoch = len(batches(len(bench.data.y), bench.recipe.batch_size, drop_last=bench.recipe.drop_last))
        if self.alternate == "epoch" and self.mi_weight:
            objective.critic_pass(model, bench, 0)

        def after_epoch(step: int, model: nn.Module) -> bool:
            if step == per_epoch:
                objective.first_weights = relative_difficulty(loss, example_losses(model, bench.data))
            epoch = step // per_epoch
            if self.alternate == "epoch" and self.mi_weight and epoch < bench.recipe.epochs:
                objective.critic_pass(model, bench, epoch)
            return False

        bench.fit(model, objective, watch=after_epoch, every=per_epoch)
        trace = {"biased_loss": loss.numpy(), "first_weight": objective.first_weights.numpy()}
        parts = {f"biased/{name}": value for name, value in biased.state_dict().items()}
        return Defended(model, trace=trace, notes=notes, parts=parts)

    @staticmethod
    def _held_out(bench: Workbench, biased: Classifier, loss: Tensor) -> float:
        """5th percentile of the twin's loss on the held-out images of the label that most of the training examples of
        low loss bear; 0 where there are none.
        """
        label = bench.data.y.cpu()[loss <= loss.quantile(0.05)].bincount().argmax()
        own = example_losses(biased, bench.val)[bench.val.y.cpu() == label]
        return float(own.quantile(0.05)) if len(own) else 0.0

    def _train_biased(self, bench: Workbench, biased: Classifier, recipe: Recipe) -> int:
        """Train the twin in place; the number of steps it took."""

        def watch(step: int, model: nn.Module) -> bool:
            loss = example_losses(model, bench.data)
            return bool(loss.quantile(0.05) <= FITTED and loss.quantile(0.5) >= UNLEARNT)

        objective = cross_entropy if self.biased_loss == "cross_entropy" else generalised_cross_entropy
        every = self.check_every if self.stop == "rule" else 0
        return bench.fit(biased, objective, phase="biased", recipe=recipe, watch=watch, every=every)


class Deconfounding:
    """Loss of the clean network; owns the critic and its optimiser. The twin is frozen, in evaluation mode."""

    def __init__(self, spec: CBD, biased: Classifier, *, width: int, rng: Generator) -> None:
        self.spec = spec
        self.biased = biased.eval().requires_grad_(False)
        with global_seed(rng):
            self.critic = Critic(width, width, dropout=spec.critic_dropout)
        self.critic.to(next(biased.parameters()).device)
        self.optimizer = Adam(self.critic.parameters(), lr=spec.critic_lr)
        self.first_weights = torch.zeros(0)

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, *, rng: Generator) -> Tensor:
        """Weighted cross-entropy + beta |z|^2 + lambda * gap; the critic takes its own steps first."""
        assert isinstance(model, Classifier)
        spec = self.spec
        r, biased_loss = self._twin(x, y, rng=rng)
        z = model.features(x)
        if spec.mi_weight and spec.alternate == "batch":
            self.update_critic(r, z.detach())
        loss = F.cross_entropy(model.head(z), y, reduction="none")
        weight = relative_difficulty(biased_loss, loss.detach()) if spec.reweight else torch.ones_like(loss)
        total = (batch_normalised(weight) if spec.normalise else weight).mul(loss).mean()
        if spec.compression:
            total = total + spec.compression * z.square().sum(1).mean()
        if spec.mi_weight:
            with frozen(self.critic):
                total = total + spec.mi_weight * dependence_gap(self.critic, r, z)
        return total

    @torch.no_grad()
    def _twin(self, x: Tensor, y: Tensor, *, rng: Generator) -> tuple[Tensor, Tensor]:
        """Features (N, D) and losses (N,) of the twin, shuffled across the batch if the spec is a placebo."""
        r = self.biased.features(x)
        loss = F.cross_entropy(self.biased.head(r), y, reduction="none")
        if self.spec.shuffle == "none":
            return r, loss
        order = torch.randperm(len(y), generator=rng).to(x.device)
        return r[order], loss[order] if self.spec.shuffle == "twin" else loss

    def update_critic(self, r: Tensor, z: Tensor) -> None:
        """Ascend the gap in the critic's parameters alone, then restore its Lipschitz constant."""
        for _ in range(self.spec.critic_steps):
            self.optimizer.zero_grad(set_to_none=True)
            (-dependence_gap(self.critic, r, z)).backward()  # type: ignore[no-untyped-call]
            self.optimizer.step()
            if self.spec.lipschitz == "projection":
                self.critic.project()
            else:
                self.critic.project_as_released()

    def critic_pass(self, model: nn.Module, bench: Workbench, number: int) -> None:
        """One pass over the training set that updates the critic only; the network is left as it is."""
        rng = bench.rng(f"critic pass {number}")
        assert isinstance(model, Classifier)
        device = next(model.parameters()).device
        order = torch.randperm(len(bench.data.y), generator=rng)
        with eval_mode(model), global_seed(rng):
            for part in batches(len(order), bench.recipe.batch_size):
                x, y = bench.data.x[order[part]].to(device), bench.data.y[order[part]].to(device)
                x = to_unit(x)
                with torch.no_grad():
                    z = model.features(x)
                self.update_critic(self._twin(x, y, rng=rng)[0], z)

    def state(self) -> dict[str, Tensor]:
        """Critic, its optimiser, and the recorded weights."""
        tensors = {f"critic/{name}": value for name, value in self.critic.state_dict().items()}
        tensors |= {f"optimizer/{name}": value for name, value in optimizer_tensors(self.optimizer).items()}
        return tensors | {"first_weights": self.first_weights}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """The inverse of `state`."""
        self.critic.load_state_dict(under(state, "critic/"))
        load_optimizer_tensors(self.optimizer, under(state, "optimizer/"))
        self.first_weights = state["first_weights"]


def relative_difficulty(biased: Tensor, clean: Tensor) -> Tensor:
    """w = l_B / (l_B + l_C + 1e-8), (N,) in [0, 1); nothing here is differentiated (cbd.md section 3.2)."""
    return biased / (biased + clean + 1e-8)


def batch_normalised(weight: Tensor) -> Tensor:
    """Weights with mean 1; all ones when every weight vanishes."""
    total = weight.sum()
    return torch.where(total > 1e-12, weight * len(weight) / total.clamp_min(1e-12), torch.ones_like(weight))


def generalised_cross_entropy(
    model: nn.Module, x: Tensor, y: Tensor, *, rng: Generator, q: float = 0.7
) -> Tensor:
    """(1 - p_y^q) / q, mean; Zhang & Sabuncu, NeurIPS 2018. Fits easy examples first; not part of CBD."""
    p = model(x).softmax(1).gather(1, y[:, None]).squeeze(1)
    loss: Tensor = ((1 - p.clamp_min(1e-12) ** q) / q).mean()
    return loss


def example_losses(model: nn.Module, data: Images) -> Tensor:
    """Cross-entropy (N,) of each training example against its given label, in evaluation mode, on the CPU."""
    return F.cross_entropy(predict(model, data.x), data.y.cpu(), reduction="none")
