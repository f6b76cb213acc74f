"""CBD against the invariants of its specification (cbd.md section 11) and against its own placebos."""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from oracle_models import same, small_network, snapshot, tiny_images, workbench
from torch import Tensor, nn
from torch.nn import functional as F

from deconfound.defenses import cbd
from deconfound.defenses.cbd import CBD, Deconfounding, batch_normalised, generalised_cross_entropy
from deconfound.defenses.cbd import relative_difficulty as difficulty
from deconfound.defenses.standard import Standard, cross_entropy
from deconfound.defenses.workbench import Workbench
from deconfound.interpretations.mass import TWIN
from deconfound.models.classifier import Classifier
from deconfound.models.small_cnn import SmallCNN
from deconfound.models.timm_models import TimmModel
from deconfound.optimisers import under
from deconfound.recipe import Recipe
from deconfound.rng import generator, global_seed

RECIPE = Recipe(epochs=2, batch_size=8)
BATCHES = 4  # of 30 images in batches of 8
losses = st.lists(st.tuples(st.floats(0, 20), st.floats(0, 20)), min_size=2, max_size=20)
IMAGES = tiny_images(12)
X, Y = IMAGES.x.float() / 255, IMAGES.y


def objective(spec: CBD, biased: Classifier | None = None, seed: int = 0) -> Deconfounding:
    return Deconfounding(spec, biased or small_network("biased"), width=8, rng=generator(seed, "critic"))


def fresh(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# The weights


@given(losses)
def test_weights_lie_in_the_unit_interval_and_are_normalised_to_mean_one(
    pairs: list[tuple[float, float]],
) -> None:
    biased, clean = torch.tensor(pairs).unbind(1)
    weight = difficulty(biased, clean)
    normalised = batch_normalised(weight)
    assert (weight >= 0).all() and (weight <= 1).all()
    assert (normalised >= 0).all() and normalised.mean().item() == pytest.approx(1, abs=1e-5)
    assert (weight * clean <= torch.minimum(biased, clean) + 1e-5).all()


def test_weights_at_the_ends_and_in_the_middle_are_zero_one_and_one_half() -> None:
    biased, clean = torch.tensor([0.0, 0.0, 2.0, 3.0, 1.0]), torch.tensor([1.0, 0.0, 0.0, 3.0, 3.0])
    assert difficulty(biased, clean).tolist() == pytest.approx([0, 0, 1, 0.5, 0.25], abs=1e-7)


@given(st.floats(0.1, 10), st.floats(0.1, 10), st.floats(0.1, 10))
def test_weights_ask_only_for_the_ratio_of_the_losses(biased: float, clean: float, scale: float) -> None:
    weight = difficulty(torch.tensor(biased), torch.tensor(clean))
    assert difficulty(torch.tensor(biased * scale), torch.tensor(clean * scale)).item() == pytest.approx(
        weight.item(), rel=1e-5
    )


def test_when_every_weight_vanishes_all_are_one() -> None:
    assert batch_normalised(torch.zeros(5)).tolist() == [1] * 5
    assert batch_normalised(torch.tensor([0.0, 1e-6, 3e-6])).tolist() == pytest.approx([0, 0.75, 2.25])


def all_fitted() -> Classifier:
    """A twin whose loss is exactly zero on class 0."""
    biased = small_network("biased")
    biased.head.weight.data.zero_()
    biased.head.bias.data = torch.tensor([1000.0, 0, 0])
    return biased


def test_a_twin_that_fits_everything_leaves_a_finite_loss() -> None:
    model, zeros = small_network(dropout=0.0), torch.zeros(12).long()
    loss = objective(CBD(mi_weight=0), all_fitted())(model, X, zeros, rng=fresh())
    loss.backward()
    assert loss.item() == pytest.approx(F.cross_entropy(model(X), zeros).item(), rel=1e-5)
    assert all(
        parameter.grad is not None and parameter.grad.isfinite().all() for parameter in model.parameters()
    )


def test_without_normalisation_the_weights_count_as_they_are() -> None:
    model, zeros = small_network(dropout=0.0), torch.zeros(12).long()
    loss = objective(CBD(mi_weight=0, normalise=False), all_fitted())(model, X, zeros, rng=fresh())
    assert loss.item() == 0


# The loss and its gradient


def logits_of(model: Classifier) -> list[Tensor]:
    """Logits of every forward pass through the head from now on, with their gradients."""
    seen: list[Tensor] = []

    def keep(module: nn.Module, inputs: Any, output: Tensor) -> None:
        output.retain_grad()
        seen.append(output)

    model.head.register_forward_hook(keep)
    return seen


@pytest.mark.parametrize("normalise", [True, False])
def test_the_gradient_at_the_logits_is_the_weight_times_softmax_minus_one_hot(normalise: bool) -> None:
    model, twin = small_network(dropout=0.0), small_network("biased")
    seen = logits_of(model)
    objective(CBD(mi_weight=0, normalise=normalise), twin)(model, X, Y, rng=fresh()).backward()

    (logits,) = seen
    clean = F.cross_entropy(logits, Y, reduction="none").detach().double().numpy()
    with torch.no_grad():
        biased = F.cross_entropy(twin.eval()(X), Y, reduction="none").double().numpy()
    weight = biased / (biased + clean)
    weight = weight * len(Y) / weight.sum() if normalise else weight
    slope = (logits.softmax(1) - F.one_hot(Y, 3)).detach().double().numpy()
    expected = weight[:, None] * slope / len(Y)
    assert logits.grad is not None
    assert np.allclose(logits.grad.numpy(), expected, atol=1e-6)
    assert weight.std() > 0.05 * weight.mean()  # else any gradient would do


def test_the_loss_is_the_sum_of_its_three_terms() -> None:
    spec = CBD(mi_weight=0.3, compression=0.2, reweight=False, critic_dropout=0)
    model, made = small_network(dropout=0.0), objective(spec)
    made.update_critic = lambda r, z: None  # type: ignore[method-assign]
    found = made(model, X, Y, rng=fresh()).item()
    with torch.no_grad():
        z, r = model.features(X), made.biased.features(X)
        gap = made.critic(r, z).mean() - made.critic(r, z.roll(1, 0)).mean()
        expected = F.cross_entropy(model.head(z), Y) + 0.2 * (z**2).sum(1).mean() + 0.3 * gap
    assert found == pytest.approx(expected.item(), rel=1e-4)
    assert abs(gap) > 1e-4


def test_the_network_descends_the_gap_that_the_critic_climbs() -> None:
    spec = CBD(mi_weight=5, reweight=False, critic_dropout=0)
    model, made = small_network(dropout=0.0), objective(spec)
    made.update_critic = lambda r, z: None  # type: ignore[method-assign]
    made(model, X, Y, rng=fresh()).backward()
    with_gap = model.body[1].weight.grad.clone()  # type: ignore[union-attr, index]
    model.zero_grad()
    F.cross_entropy(model(X), Y).backward()
    alone = model.body[1].weight.grad.clone()  # type: ignore[union-attr, index]
    model.zero_grad()
    z = model.features(X)
    r = made.biased.features(X)
    gap = made.critic(r, z).mean() - made.critic(r, z.roll(1, 0)).mean()
    gap.backward()
    slope = model.body[1].weight.grad  # type: ignore[union-attr, index]
    assert torch.allclose(with_gap - alone, 5 * slope, atol=1e-5) and slope.abs().max() > 1e-4


def test_generalised_cross_entropy_is_as_computed_by_hand() -> None:
    class Half(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.zeros(len(x), 2)

    found = generalised_cross_entropy(Half(), X, Y % 2, rng=fresh(), q=0.5)
    assert found.item() == pytest.approx((1 - 0.5**0.5) / 0.5)
    assert generalised_cross_entropy(Half(), X, Y % 2, rng=fresh()).item() == pytest.approx(
        (1 - 0.5**0.7) / 0.7
    )


# Who is updated by what


def test_an_epoch_of_the_clean_network_leaves_the_twin_as_it_was() -> None:
    bench, trainer = workbench(RECIPE)
    twin = small_network("biased").train()  # handed over in the wrong mode
    made = objective(CBD(), twin)
    before = {name: value.clone() for name, value in twin.state_dict().items()}
    trainer.fit(small_network(), made)
    assert same(dict(twin.state_dict()), before)
    assert all(parameter.grad is None for parameter in twin.parameters())


def test_the_twin_judges_in_evaluation_mode() -> None:
    twin = small_network("biased").train()
    made = objective(CBD(), twin)
    assert not any(module.training for module in made.biased.modules())


@pytest.mark.parametrize("lipschitz", ["projection", "released"])
def test_a_critic_step_changes_the_critic_and_not_the_network(lipschitz: Any) -> None:
    model, made = small_network(), objective(CBD(lipschitz=lipschitz))
    before, critic = snapshot(model), snapshot(made.critic)
    r, z = made.biased.features(X).detach(), torch.randn(12, 8, generator=fresh())
    made.update_critic(r, z)
    assert same(snapshot(model), before)
    assert not same(snapshot(made.critic), critic)


def test_a_network_step_changes_the_network_and_not_the_critic() -> None:
    model, made = small_network(), objective(CBD(mi_weight=1))
    made.update_critic = lambda r, z: None  # type: ignore[method-assign]
    before = snapshot(made.critic)
    made(model, X, Y, rng=fresh()).backward()
    assert same(snapshot(made.critic), before)  # gradients and requires_grad too
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_the_critic_meets_representations_that_carry_no_gradient() -> None:
    model, made = small_network(), objective(CBD())
    met: list[tuple[Tensor, Tensor]] = []
    made.update_critic = lambda r, z: met.append((r, z))  # type: ignore[method-assign]
    made(model, X, Y, rng=fresh())
    ((r, z),) = met
    assert not r.requires_grad and not z.requires_grad
    assert torch.equal(r, made.biased.features(X))


def test_a_critic_climbs_the_gap() -> None:
    made = objective(CBD(critic_lr=0.01, critic_steps=200, critic_dropout=0))
    r = torch.randn(64, 8, generator=fresh())

    def gap() -> float:
        with torch.no_grad():
            return float(made.critic(r, r).mean() - made.critic(r, r.roll(1, 0)).mean())

    before = gap()
    made.update_critic(r, r)
    assert gap() > before + 0.2


def test_the_critic_takes_its_stated_number_of_steps_at_its_stated_rate() -> None:
    made = objective(CBD(critic_steps=3, critic_lr=0.2))
    made.update_critic(torch.randn(12, 8, generator=fresh()), torch.randn(12, 8, generator=fresh(1)))
    state = made.optimizer.state_dict()
    assert {int(slots["step"]) for slots in state["state"].values()} == {3}
    assert state["param_groups"][0]["lr"] == 0.2 and isinstance(made.optimizer, torch.optim.Adam)


@pytest.mark.parametrize("lipschitz", ["projection", "released"])
def test_after_a_critic_step_the_norm_is_one_or_the_root_of_what_it_was(lipschitz: Any) -> None:
    made = objective(CBD(lipschitz=lipschitz, critic_lr=1e-9))
    weight = made.critic.outer.weight  # one row: its norm is its singular value
    weight.data *= 16 / weight.data.norm()
    made.update_critic(torch.randn(12, 8, generator=fresh()), torch.randn(12, 8, generator=fresh(1)))
    assert weight.norm().item() == pytest.approx(1 if lipschitz == "projection" else 4, rel=1e-4)


def test_without_its_weight_no_critic_is_trained() -> None:
    made = objective(CBD(mi_weight=0))
    before = snapshot(made.critic)
    made(small_network(), X, Y, rng=fresh()).backward()
    assert same(snapshot(made.critic), before)


# The placebo


def met_by_critic(spec: CBD, seed: int = 0) -> tuple[Tensor, Tensor, float, Deconfounding]:
    """What the critic is shown of the twin (r), the order in which, and the loss of the network."""
    made = objective(spec)
    for tensor in made.critic.parameters():
        tensor.data.zero_()  # the gap is 0: the loss shows the weights alone
    met: list[Tensor] = []
    made.update_critic = lambda r, z: met.append(r)  # type: ignore[method-assign]
    loss = made(small_network(dropout=0.0), X, Y, rng=fresh(seed)).item()
    r = made.biased.features(X)
    order = torch.cdist(met[0], r).argmin(1)
    assert torch.equal(met[0], r[order]) and sorted(order.tolist()) == list(range(12))
    return met[0], order, loss, made


def weighted_loss(made: Deconfounding, order: Tensor) -> float:
    """The loss if example i is weighed by the twin's loss on example order[i]."""
    with torch.no_grad():
        biased = F.cross_entropy(made.biased(X), Y, reduction="none")[order]
        clean = F.cross_entropy(small_network(dropout=0.0)(X), Y, reduction="none")
    return float((batch_normalised(difficulty(biased, clean)) * clean).mean())


STRAIGHT = torch.arange(12)


def test_without_a_placebo_features_and_losses_are_those_of_the_example_itself() -> None:
    _, order, loss, made = met_by_critic(CBD())
    assert torch.equal(order, STRAIGHT)
    assert loss == pytest.approx(weighted_loss(made, STRAIGHT), rel=1e-5)


def test_shuffled_features_belong_to_other_examples_and_the_losses_stay() -> None:
    _, order, loss, made = met_by_critic(CBD(shuffle="features"))
    assert not torch.equal(order, STRAIGHT)
    assert loss == pytest.approx(weighted_loss(made, STRAIGHT), rel=1e-5)


def test_a_shuffled_twin_lends_features_and_loss_of_the_same_other_example() -> None:
    _, order, loss, made = met_by_critic(CBD(shuffle="twin"))
    assert not torch.equal(order, STRAIGHT)
    assert loss == pytest.approx(weighted_loss(made, order), rel=1e-5)
    assert abs(loss - weighted_loss(made, STRAIGHT)) > 1e-3


def test_the_generator_of_the_step_orders_the_placebo() -> None:
    orders = [met_by_critic(CBD(shuffle="twin"), seed)[1] for seed in (0, 0, 1)]
    assert torch.equal(orders[0], orders[1]) and not torch.equal(orders[0], orders[2])


# The whole defense


def trained(spec: CBD, **options: Any) -> tuple[Any, Any, dict[str, Classifier]]:
    """What the defense hands back, the loop behind it, and its networks by purpose."""
    networks: dict[str, Classifier] = {}

    def network(purpose: str) -> Classifier:
        networks[purpose] = small_network(purpose, options.get("seed", 0))
        return networks[purpose]

    bench, trainer = workbench(options.get("recipe", RECIPE), network=network, seed=options.get("seed", 0))
    return spec(bench), trainer, networks


@pytest.mark.parametrize("alternate", ["batch", "epoch"])
def test_without_weights_and_critic_it_is_standard_training_to_the_bit(alternate: Any) -> None:
    done = trained(CBD(mi_weight=0, reweight=False, biased_epochs=1, alternate=alternate))[0]
    standard = Standard()(workbench(RECIPE)[0])
    assert same(done.model.state_dict(), standard.model.state_dict())


@pytest.mark.parametrize("change", [{"reweight": True}, {"mi_weight": 1}, {"compression": 0.1}])
def test_each_part_alone_changes_what_is_learnt(change: dict[str, Any]) -> None:
    bare: dict[str, Any] = {"mi_weight": 0, "reweight": False, "biased_epochs": 1}
    assert not same(
        trained(CBD(**bare))[0].model.state_dict(), trained(CBD(**(bare | change)))[0].model.state_dict()
    )


@pytest.mark.parametrize("spec", [CBD(biased_epochs=1), CBD(biased_epochs=1, alternate="epoch")])
def test_the_seed_alone_decides_what_is_learnt(spec: CBD) -> None:
    runs = []
    for seed, elsewhere in ((0, 1), (0, 2), (1, 1)):
        torch.manual_seed(elsewhere)  # whatever ran before in this process
        runs.append(trained(spec, seed=seed)[0].model.state_dict())
    assert same(runs[0], runs[1])
    assert not same(runs[0], runs[2])


@pytest.mark.parametrize(
    ("loss", "minimised"), [("cross_entropy", cross_entropy), ("generalised", generalised_cross_entropy)]
)
def test_the_twin_is_trained_like_any_network_at_its_own_constant_rate(loss: Any, minimised: Any) -> None:
    recipe = Recipe(epochs=3, batch_size=8, schedule="steps", milestones=(0.2,))
    spec = CBD(biased_epochs=2, biased_lr=0.03, biased_loss=loss)
    _, trainer, networks = trained(spec, recipe=recipe)
    assert [record["lr"] for record in trainer.history["biased"]] == [0.03, 0.03]
    bench, _ = workbench(Recipe(epochs=2, batch_size=8, lr=0.03, schedule="constant"))
    alone = small_network("biased")
    bench.fit(alone, minimised, phase="biased")
    assert same(networks["biased"].state_dict(), alone.state_dict())


def test_trace_and_notes_describe_the_twin_and_the_weights_after_the_first_epoch() -> None:
    done, _, networks = trained(CBD(biased_epochs=1, mi_weight=0), recipe=Recipe(epochs=1, batch_size=8))
    images = tiny_images()

    def losses_of(model: Classifier) -> Tensor:
        with torch.no_grad():
            return F.cross_entropy(model.eval()(images.x.float() / 255), images.y, reduction="none")

    biased, clean = losses_of(networks["biased"]), losses_of(done.model)
    assert np.allclose(done.trace["biased_loss"], biased, atol=1e-6)
    assert np.allclose(done.trace["first_weight"], biased / (biased + clean), atol=1e-6)
    assert same(under(done.parts, TWIN), networks["biased"].state_dict())
    assert len(done.parts) == len(networks["biased"].state_dict())
    assert done.notes["biased_steps"] == BATCHES
    assert done.notes["biased_loss_median"] == pytest.approx(float(np.quantile(biased, 0.5)))
    assert done.notes["biased_loss_p05"] == pytest.approx(float(np.quantile(biased, 0.05)))


def test_the_first_weights_are_those_after_the_first_of_several_epochs() -> None:
    spec = CBD(biased_epochs=1)
    short, long = (
        trained(spec, recipe=Recipe(epochs=epochs, batch_size=8, schedule="constant"))[0].trace[
            "first_weight"
        ]
        for epochs in (1, 3)
    )
    assert np.array_equal(short, long)


def test_the_bench_has_no_place_for_a_poison_mask_or_a_test_split() -> None:
    names = {field.name for field in dataclasses.fields(Workbench)}
    assert names == {"data", "val", "recipe", "network", "rng", "fit", "start", "crafted"}


@pytest.mark.parametrize("model", [SmallCNN(widths=(3,), hidden=5, until=2), TimmModel(name="test_resnet")])
@pytest.mark.parametrize("alternate", ["batch", "epoch"])
def test_the_critic_fits_the_features_of_any_architecture(model: Any, alternate: Any) -> None:
    def network(purpose: str) -> Classifier:
        with global_seed(generator(0, "init", purpose)):
            made: Classifier = model((1, 4, 4), 3)
        return made

    bench, _ = workbench(Recipe(epochs=1, batch_size=15), network=network)
    done = CBD(biased_epochs=1, mi_weight=0.5, alternate=alternate)(bench)
    assert done.model.head.in_features != 8 and done.trace["first_weight"].shape == (30,)


# Stopping by the rule

NOT_YET = torch.full((30,), 0.6)
FITTED = NOT_YET.clone()
FITTED[:3] = 0.01  # one in ten has a low loss: the 5th percentile is 0.01, the median 0.6
TOO_LATE = torch.full((30,), 0.01)


def planned(plan: list[Tensor]) -> Callable[..., Tensor]:
    """Losses of the training set, check by check."""
    left = list(plan)

    def losses_of(model: nn.Module, data: Any) -> Tensor:
        assert not model.training
        return left.pop(0) if len(left) > 1 else left[0]

    return losses_of


@pytest.mark.parametrize(
    ("plan", "steps", "met"),
    [
        ([FITTED], 3, 1),
        ([NOT_YET, NOT_YET, FITTED], 9, 1),
        ([TOO_LATE, FITTED], 6, 1),
        ([NOT_YET], 4 * BATCHES, 0),
        ([TOO_LATE], 4 * BATCHES, 0),
    ],
)
def test_the_rule_stops_the_twin_at_the_first_check_that_satisfies_it(
    plan: list[Tensor], steps: int, met: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cbd, "example_losses", planned(plan))
    done = trained(CBD(stop="rule", check_every=3, biased_epochs=4))[0]
    assert done.notes["biased_steps"] == steps
    assert done.notes["rule_met"] == met


def test_without_the_rule_the_twin_takes_all_its_epochs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cbd, "example_losses", planned([FITTED]))
    assert trained(CBD(check_every=3, biased_epochs=4))[0].notes["biased_steps"] == 4 * BATCHES


# The premise, looked for on held-out images


ONE_LABEL = NOT_YET.clone()
ONE_LABEL[1:9:3] = 0.01  # three examples of label 1
THEIRS, OTHERS = NOT_YET[:9].clone(), NOT_YET[:9].clone()
THEIRS[1::3] = 0.01  # the held-out examples of label 1
OTHERS[0::3] = 0.01


@pytest.mark.parametrize(
    ("train", "held", "met"),
    [
        (ONE_LABEL, NOT_YET[:9], 1),
        (ONE_LABEL, OTHERS, 1),
        (ONE_LABEL, THEIRS, 0),
        (NOT_YET, NOT_YET[:9], 0),
        (TOO_LATE, NOT_YET[:9], 0),
    ],
    ids=["a trigger", "a trigger and an easy class", "an easy class", "nothing yet", "everything"],
)
def test_without_its_premise_the_network_is_trained_plainly_if_asked(
    train: Tensor, held: Tensor, met: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cbd, "example_losses", lambda model, data: train if len(data.y) == 30 else held)
    done = trained(CBD(biased_epochs=1, premise="held_out", mi_weight=0.5, compression=0.1))[0]
    assert done.notes["premise_met"] == met and done.notes["rule_met"] == float(train is ONE_LABEL)
    assert done.notes["biased_loss_p05_val"] == pytest.approx(0.01 if held is THEIRS else 0.6)
    if met:
        other = trained(CBD(biased_epochs=1, mi_weight=0.5, compression=0.1))[0]
    else:
        other = Standard()(workbench(RECIPE)[0])
    assert same(done.model.state_dict(), other.model.state_dict())


def test_the_premise_is_assumed_and_the_held_out_images_left_alone_by_default() -> None:
    done = trained(CBD(biased_epochs=1))[0]
    assert "premise_met" not in done.notes and set(done.notes) >= {"rule_met"}


# Alternation by the epoch, as released


def events(monkeypatch: pytest.MonkeyPatch, alternate: Any, recipe: Recipe = RECIPE) -> str:
    """c for a step of the critic, m for one of the network, in the order of a run of two epochs."""
    seen: list[str] = []
    update, call = Deconfounding.update_critic, Deconfounding.__call__

    def counted_update(self: Deconfounding, r: Tensor, z: Tensor) -> None:
        seen.append("c")
        update(self, r, z)

    def counted_call(self: Deconfounding, *args: Any, **options: Any) -> Tensor:
        seen.append("m")
        return call(self, *args, **options)

    monkeypatch.setattr(Deconfounding, "update_critic", counted_update)
    monkeypatch.setattr(Deconfounding, "__call__", counted_call)
    trained(CBD(biased_epochs=1, alternate=alternate), recipe=recipe)
    return "".join(seen)


def test_by_the_epoch_a_pass_of_the_critic_comes_before_every_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    assert events(monkeypatch, "epoch") == ("c" * BATCHES + "m" * BATCHES) * 2


def test_by_the_epoch_an_epoch_ends_with_its_last_step_where_the_last_batch_is_left_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    recipe = Recipe(epochs=2, batch_size=8, drop_last=True)
    seen = events(monkeypatch, "epoch", recipe)
    assert seen == ("c" * BATCHES + "m" * (BATCHES - 1)) * 2  # the critic sees every example
    assert len(trained(CBD(biased_epochs=1), recipe=recipe)[0].trace["first_weight"]) == 30


def test_by_the_batch_a_step_of_the_critic_comes_in_every_step(monkeypatch: pytest.MonkeyPatch) -> None:
    assert events(monkeypatch, "batch") == "mc" * (2 * BATCHES)


def shown_to_critic(monkeypatch: pytest.MonkeyPatch) -> tuple[Tensor, Tensor, Deconfounding, bool]:
    """The twin's features in the first and in the second pass of the critic, and whether the network was
    still as initialised after the first.
    """
    met: list[Tensor] = []
    fresh_network: list[bool] = []
    makers: list[Deconfounding] = []
    call = Deconfounding.__call__

    def first_call(self: Deconfounding, model: nn.Module, *args: Any, **options: Any) -> Tensor:
        if not fresh_network:
            fresh_network.append(same(dict(model.state_dict()), dict(small_network().state_dict())))
            makers.append(self)
        return call(self, model, *args, **options)

    monkeypatch.setattr(Deconfounding, "update_critic", lambda self, r, z: met.append(r))
    monkeypatch.setattr(Deconfounding, "__call__", first_call)
    trained(CBD(biased_epochs=1, alternate="epoch"))
    first, second = torch.cat(met[:BATCHES]), torch.cat(met[BATCHES : 2 * BATCHES])
    return first, second, makers[0], fresh_network[0]


def test_a_pass_of_the_critic_sees_every_example_once(monkeypatch: pytest.MonkeyPatch) -> None:
    first, second, made, _ = shown_to_critic(monkeypatch)
    everyone = made.biased.features(tiny_images().x.float() / 255)
    for shown in (first, second):
        assert sorted(torch.cdist(shown, everyone).argmin(1).tolist()) == list(range(30))


def test_a_pass_of_the_critic_leaves_the_network_and_its_buffers_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert shown_to_critic(monkeypatch)[3]


def test_every_pass_of_the_critic_pairs_the_images_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    first, second, *_ = shown_to_critic(monkeypatch)
    assert not torch.allclose(first, second)
