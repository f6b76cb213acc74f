"""NAMID against the invariants of its specification (section 13): whom its loss moves, how much, and what it stores."""

import copy
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from killing import killed_at
from oracle_models import same, small_network, snapshot, tiny_images, workbench
from torch import Tensor, nn
from torch.nn import functional as F

from deconfound.attacks.adaptive import AdaptivePGD
from deconfound.attacks.ascent import Ascent
from deconfound.attacks.pgd import PGD
from deconfound.defenses import namid
from deconfound.defenses.adversarial_training import AdversarialTraining
from deconfound.defenses.losses import craft, trades
from deconfound.defenses.mart import MART
from deconfound.defenses.namid import (
    NAMID,
    InformationAlignment,
    InformationTerm,
    Learnt,
    information_loss,
    learn,
)
from deconfound.defenses.standard import Standard, cross_entropy
from deconfound.defenses.workbench import Workbench
from deconfound.errors import UserError
from deconfound.estimator_training import train_estimators
from deconfound.estimators import Estimators, EstimatorSpec, profile
from deconfound.models.classifier import Classifier
from deconfound.profiles import Profile
from deconfound.recipe import Recipe
from deconfound.rng import generator, global_seed
from deconfound.storage import read_weights, write_weights
from deconfound.threat import ThreatModel
from deconfound.training import Trainer

BASES: list[Any] = ["adversarial", "trades", "mart"]
CLIMB = Ascent(threat=ThreatModel(eps=0.2), step_size=0.1, steps=2)
STILL = Ascent(threat=ThreatModel(eps=0), step_size=0.1, steps=1)
RECIPE = Recipe(epochs=2, batch_size=8)
TINY = EstimatorSpec(hidden=8, widths=(2, 3), epochs=2, batch_size=16, lr=1e-2)
IMAGES = tiny_images(12)
X, Y = IMAGES.x.float() / 255, IMAGES.y


def fresh(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def estimators(seed: int = 0) -> Estimators:
    """Weights and statistics as drawn, no two alike, in evaluation mode."""
    with global_seed(fresh(seed)):
        made = Estimators(TINY, (1, 4, 4), 3)
        for tensor in made.state_dict().values():
            if tensor.is_floating_point():
                tensor += 0.3 * torch.rand_like(tensor)
    return made.eval().requires_grad_(False)


def objective(**settings: Any) -> InformationAlignment:
    return InformationAlignment(NAMID(**{"ascent": CLIMB, "alpha": 2} | settings), estimators())


class Given(nn.Module):
    """Hands out logits in the order in which the loss asks for them: perturbed images first."""

    def __init__(self, clean: Tensor, adversarial: Tensor) -> None:
        super().__init__()
        self.clean, self.adversarial = clean.requires_grad_(), adversarial.requires_grad_()
        self.left = [self.clean, self.adversarial]

    def forward(self, x: Tensor) -> Tensor:
        return self.left.pop()


def half_fooled() -> Given:
    """Logits of 12 images: all right when clean; every second one wrong when perturbed."""
    noise = torch.rand(2, 12, 3, generator=fresh(5))
    wrong = torch.where(torch.arange(12) % 2 == 0, Y, (Y + 1) % 3)
    return Given(noise[0] + 2 * F.one_hot(Y, 3), noise[1] + 2 * F.one_hot(wrong, 3))


FOOLED = torch.arange(12) % 2 == 1


# Without the information term


def plain(base: str) -> Callable[..., Tensor]:
    """The base as its own defense has it; TRADES here climbs the cross-entropy, as in the paper."""

    def crafted_trades(model: nn.Module, x: Tensor, y: Tensor, *, rng: torch.Generator) -> Tensor:
        adversarial = model(craft(CLIMB, model, x, y, rng=rng))
        return trades(model(x), adversarial, y, 2)

    known = {"adversarial": AdversarialTraining(ascent=CLIMB), "mart": MART(ascent=CLIMB, weight=3)}
    return known[base].objective if base in known else crafted_trades


@pytest.mark.parametrize("base", BASES)
def test_with_alpha_zero_a_step_is_that_of_the_base_to_the_bit(base: Any) -> None:
    model, twin = small_network().train(), small_network().train()
    spec = NAMID(ascent=CLIMB, base=base, alpha=0, trades_beta=2, mart_weight=3)
    with global_seed(fresh(1)):  # dropout
        found = InformationAlignment(spec, None)(model, X, Y, rng=fresh())
    with global_seed(fresh(1)):
        expected = plain(base)(twin, X, Y, rng=fresh())
    found.backward(), expected.backward()
    assert torch.equal(found, expected)
    assert same(snapshot(model), snapshot(twin))  # gradients and the statistics of batch norm too


@pytest.mark.parametrize("base", BASES)
def test_with_alpha_zero_a_run_is_that_of_the_base_to_the_bit_and_trains_no_estimator(base: Any) -> None:
    spec = NAMID(ascent=CLIMB, base=base, alpha=0, trades_beta=2, mart_weight=3)
    bench, model = workbench(RECIPE)[0], small_network()
    bench.fit(model, plain(base))
    for given in (workbench(RECIPE)[0], started()[0]):  # it needs neither a start nor a crafted set
        done = spec(given)
        assert same(dict(done.model.state_dict()), dict(model.state_dict()))
        assert done.parts == {} and done.notes == {}
        assert spec.term(done.model, done.parts) is None


@pytest.mark.parametrize("base", BASES)
def test_where_nobody_is_fooled_loss_and_gradient_are_those_of_the_base_to_the_bit(base: Any) -> None:
    model, twin = small_network(dropout=0.0).train(), small_network(dropout=0.0).train()
    y = (copy.deepcopy(model)(X).argmax(1) + 1) % 3  # wrong before any attack: Omega is empty
    made = objective(base=base, alpha=5, trades_beta=2, mart_weight=3)
    found, expected = made(model, X, y, rng=fresh()), plain(base)(twin, X, y, rng=fresh())
    found.backward(), expected.backward()
    assert torch.equal(found, expected) and made.notes() == {"fooled_share": 0, "skipped_share": 1}
    for (name, a), b in zip(model.named_parameters(), twin.parameters(), strict=True):
        assert a.grad is not None and b.grad is not None and torch.equal(a.grad, b.grad), name


# The information term


def vectors(count: int = 6) -> Profile:
    drawn = torch.randn(4, count, generator=fresh(), dtype=torch.float64)
    return Profile(*(row.clone().requires_grad_() for row in drawn))


MASK = torch.tensor([True, False, True, True, False, False])


@pytest.mark.parametrize(
    ("natural", "adversarial"), [(True, True), (True, False), (False, True), (False, False)]
)
def test_the_information_term_is_that_of_the_paper_over_omega(natural: bool, adversarial: bool) -> None:
    found = vectors()
    clean, moved, before, after = (v.detach().numpy()[MASK.numpy()] for v in found)
    expected = 0.0
    if natural:
        expected += abs(1 - moved @ clean / np.sqrt((moved @ moved) * (clean @ clean))) - 0.3 * moved.mean()
    if adversarial:
        expected += (
            abs(1 - after @ before / np.sqrt((after @ after) * (before @ before))) + 0.3 * after.mean()
        )
    term = information_loss(found, MASK, balance=0.3, natural=natural, adversarial=adversarial)
    assert term.item() == pytest.approx(expected, abs=1e-12) and term.shape == ()


def test_the_information_term_of_nobody_is_a_zero_without_a_gradient() -> None:
    term = information_loss(vectors(), torch.zeros(6, dtype=torch.bool), balance=0.3)
    assert torch.equal(term, torch.zeros((), dtype=torch.float64)) and not term.requires_grad


@pytest.mark.parametrize("chosen", [1, 2, 6])
def test_the_gradient_of_the_information_term_is_finite_and_stays_inside_omega(chosen: int) -> None:
    found, mask = vectors(), torch.arange(6) < chosen
    information_loss(found, mask, balance=0.3).backward()
    for values in found:
        assert values.grad is not None and values.grad.isfinite().all() and not values.grad[~mask].any()


def test_the_information_term_asks_for_no_image_outside_omega() -> None:
    subset = Profile(*(values[MASK] for values in vectors()))
    term = information_loss(vectors(), MASK, balance=0.3)
    assert term.item() == pytest.approx(information_loss(subset, MASK[MASK], balance=0.3).item(), abs=1e-12)


def test_without_balance_the_scale_of_an_estimate_does_not_count() -> None:
    scaled = Profile(*(scale * values for scale, values in zip((3, 0.2, 7, 0.5), vectors(), strict=True)))
    expected = information_loss(vectors(), MASK, balance=0).item()
    assert information_loss(scaled, MASK, balance=0).item() == pytest.approx(expected, abs=1e-12)


def test_of_one_image_the_cosine_is_a_sign() -> None:
    one = torch.tensor([1.0])
    found = Profile(2 * one, 5 * one, 3 * one, -one)
    assert information_loss(found, one > 0, balance=0).item() == pytest.approx(2, abs=1e-6)
    assert information_loss(found, one > 0, balance=1).item() == pytest.approx(2 - 1 - 5, abs=1e-5)


@pytest.mark.parametrize(("natural", "adversarial"), [(True, True), (True, False), (False, True)])
def test_the_balance_pulls_at_omega_with_alpha_lambda_over_its_size(natural: bool, adversarial: bool) -> None:
    slopes = []
    for balance in (0.3, 0.0):
        found = Profile(*(row.float().detach().requires_grad_() for row in vectors(12)))
        made = objective(ascent=STILL, alpha=4, balance=balance, natural=natural, adversarial=adversarial)
        made.profile = lambda *a, found=found, **k: found  # type: ignore[method-assign, misc]
        made(half_fooled(), X, Y, rng=fresh()).backward()
        zero = torch.zeros(12)
        slopes.append(torch.stack([zero if row.grad is None else row.grad for row in found]))
    pull = torch.where(FOOLED, 4 * 0.3 / 6, 0.0)
    expected = torch.stack([0 * pull, -pull * natural, 0 * pull, pull * adversarial])
    assert torch.allclose(slopes[0] - slopes[1], expected, atol=1e-5)


# Four estimates, and whose gradients they carry


@pytest.mark.parametrize("bound", ["released", "donsker_varadhan"])
def test_the_loss_is_the_base_plus_alpha_times_the_term_of_its_own_estimates(bound: Any) -> None:
    model = small_network(dropout=0.0).eval()
    y = model(X).argmax(1)
    made = objective(bound=bound)
    x_adv = craft(CLIMB, model, X, y, rng=fresh())
    clean, adversarial = model(X), model(x_adv)
    fooled = adversarial.argmax(1) != y
    assert 2 < int(fooled.sum()) < 12
    natural, noisy = made.estimators.natural, made.estimators.adversarial  # type: ignore[union-attr]
    found = Profile(
        natural.estimate(clean, X, bound=bound),
        natural.estimate(adversarial, X, bound=bound),
        noisy.estimate(clean, x_adv - X, bound=bound),
        noisy.estimate(adversarial, x_adv - X, bound=bound),
    )
    term = information_loss(found, fooled, balance=0.1)
    expected = F.cross_entropy(adversarial, y) + 2 * term
    assert made(model, X, y, rng=fresh()).item() == pytest.approx(expected.item(), rel=1e-5)
    assert made.notes() == {"fooled_share": int(fooled.sum()) / 12, "skipped_share": 0}
    assert abs(term) > 1e-3 and len({round(float(v.detach().mean()), 4) for v in found}) == 4


def test_without_noise_the_profiles_of_a_batch_are_equal_and_their_distance_is_zero() -> None:
    made, logits = objective(), small_network().eval()(X)
    found = made.profile(logits, logits.clone(), X, torch.zeros_like(X), rng=fresh())
    assert torch.equal(found.natural_clean, found.natural_adversarial)
    assert torch.equal(found.adversarial_clean, found.adversarial_adversarial)
    everyone = torch.ones(12, dtype=torch.bool)
    assert information_loss(found, everyone, balance=0).item() == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("detach", [False, True])
def test_gradients_reach_both_outputs_unless_the_clean_ones_are_detached_and_never_a_pattern(
    detach: bool,
) -> None:
    clean, adversarial = torch.randn(2, 12, 3, generator=fresh()).requires_grad_().unbind()
    clean.retain_grad(), adversarial.retain_grad()
    x, noise = X.clone().requires_grad_(), (0.1 * X).requires_grad_()
    found = objective(detach_clean=detach).profile(clean, adversarial, x, noise, rng=fresh())
    sum(values.sum() for values in found).backward()  # type: ignore[union-attr]
    assert x.grad is None and noise.grad is None
    assert adversarial.grad is not None and adversarial.grad.abs().amax(1).min() > 0
    assert clean.grad is None if detach else clean.grad is not None and clean.grad.abs().amax(1).min() > 0
    assert found.natural_clean.requires_grad != detach and found.adversarial_clean.requires_grad != detach


def test_detached_clean_outputs_still_learn_from_the_base() -> None:
    slopes = []
    for settings in ({"detach_clean": True}, {"smallest": 13}):  # the latter leaves the base alone
        given = half_fooled()
        objective(ascent=STILL, base="trades", **settings)(given, X, Y, rng=fresh()).backward()
        slopes.append((given.clean.grad, given.adversarial.grad))
    assert torch.equal(slopes[0][0], slopes[1][0]) and slopes[0][0].abs().max() > 0
    assert not torch.allclose(slopes[0][1], slopes[1][1], atol=1e-4)


def test_the_placebo_moves_both_patterns_by_the_same_order() -> None:
    clean, adversarial, noise = torch.randn(12, 3), torch.randn(12, 3), 0.3 * torch.rand(12, 1, 4, 4) - 0.15
    made = objective(shuffle_patterns=True)
    found = made.profile(clean, adversarial, X, noise, rng=fresh(3))
    order = torch.randperm(12, generator=fresh(3))
    expected = profile(estimators(), clean, adversarial, X[order], noise[order])
    straight = profile(estimators(), clean, adversarial, X, noise)
    for values, right, unmoved in zip(found, expected, straight, strict=True):
        assert torch.equal(values, right) and not torch.allclose(values, unmoved, atol=1e-3)


def test_a_step_outside_of_the_placebo_draws_nothing() -> None:
    states = []
    for settings in ({}, {"shuffle_patterns": True}):
        rng = fresh()
        objective(ascent=STILL, **settings)(half_fooled(), X, Y, rng=rng)
        states.append(torch.equal(rng.get_state(), fresh().get_state()))
    assert states == [True, False]


# Omega

ZEROS = torch.zeros(2, dtype=torch.long)


def test_the_released_selection_rescales_classes_over_the_batch_and_the_other_does_not() -> None:
    clean, adversarial = torch.tensor([[5.0, 1.0], [5.0, 0.0]]), torch.tensor([[0.0, 1.0], [0.0, 3.0]])
    # Over the batch: clean [[.5, .73], [.5, .27]], so that image 0 counts as wrong; perturbed [[.5, .12], [.5, .88]].
    chosen = [
        objective(selection=kind).chosen(clean, adversarial, ZEROS).tolist()
        for kind in ("argmax", "released")
    ]
    assert chosen == [[True, True], [False, True]]


def test_the_released_selection_is_blind_to_the_offset_of_a_class() -> None:
    clean, adversarial = half_fooled().clean, half_fooled().adversarial
    offset, released = torch.tensor([3.0, -2.0, 0.5]), objective(selection="released")
    expected = released.chosen(clean, adversarial, Y)
    assert torch.equal(released.chosen(clean + offset, adversarial - offset, Y), expected) and expected.any()
    assert not torch.equal(objective().chosen(clean + offset, adversarial - offset, Y), FOOLED)


def test_both_selections_agree_where_the_batch_treats_all_classes_alike() -> None:
    rows = torch.tensor([[3.0, 1.0, 0.0], [1.0, 2.5, 2.0], [0.3, 0.2, 1.9]])
    clean, adversarial = (torch.cat([z.roll(k, 1) for k in range(3)]) for z in (rows, rows[:, [0, 2, 1]]))
    y = clean.argmax(1)
    both = [objective(selection=kind).chosen(clean, adversarial, y) for kind in ("argmax", "released")]
    assert torch.equal(*both) and 0 < int(both[0].sum()) < 9


@pytest.mark.parametrize(("smallest", "skipped"), [(6, 0), (7, 1)])
def test_an_omega_below_the_smallest_leaves_the_base(smallest: int, skipped: int) -> None:
    made, given = objective(ascent=STILL, smallest=smallest), half_fooled()
    loss = made(given, X, Y, rng=fresh())
    assert torch.equal(loss, F.cross_entropy(given.adversarial, Y)) == bool(skipped)
    assert made.notes() == {"fooled_share": 0.5, "skipped_share": skipped}


def test_shares_are_means_over_batches_and_travel_with_a_half_trained_model() -> None:
    made, other = objective(ascent=STILL, smallest=6), objective()
    made(half_fooled(), X, Y, rng=fresh())
    made(Given(half_fooled().clean[:4].detach(), half_fooled().clean[:4].detach()), X[:4], Y[:4], rng=fresh())
    other.restore(made.state())
    assert made.notes() == other.notes() == {"fooled_share": 0.25, "skipped_share": 0.5}
    assert objective().notes() == {}


# The whole defense


@cache
def _start() -> tuple[Classifier, Tensor]:
    bench, _ = workbench(Recipe(epochs=12, batch_size=8))
    model = Standard()(bench).model
    return model, PGD(eps=0.2, steps=3)(model, bench.data.x / 255, bench.data.y, rng=fresh())


def started(scratch: Path | None = None) -> tuple[Workbench, Trainer]:
    """A bench with a network that has learnt, and the training set attacked on it."""
    bench, trainer = workbench(RECIPE, scratch=scratch)
    return replace(bench, start=copy.deepcopy(_start()[0]), crafted=_start()[1].clone()), trainer


SPEC = NAMID(ascent=CLIMB, estimator=TINY, warmup_epochs=1)


@pytest.mark.parametrize("missing", [("start",), ("crafted",), ("start", "crafted")])
def test_a_run_without_start_or_crafted_set_is_told_what_to_ask_for(missing: tuple[str, ...]) -> None:
    bench = replace(started()[0], **dict.fromkeys(missing))
    with pytest.raises(UserError, match="starts_from, crafted_by"):
        SPEC(bench)
    assert {"starts_from", "crafted_by"} == set(NAMID.needs)


def test_the_estimators_are_those_of_the_start_on_its_crafted_set_and_are_never_refreshed() -> None:
    bench, _ = started()
    bench.start.train()  # type: ignore[union-attr]
    before = snapshot(bench.start)  # type: ignore[arg-type]
    done = SPEC(bench)
    assert same(snapshot(bench.start), before)  # type: ignore[arg-type]
    data, (start, crafted) = bench.data, _start()
    rng = generator(0, "estimators")
    made = train_estimators(TINY, start, data.x, crafted, data.y, rng=rng).state_dict()
    expected = {f"estimators/{name}": value for name, value in made.items()}
    expected |= {"bank/x": data.x / 255, "bank/noise": crafted - data.x / 255}
    assert same(dict(done.parts), expected)
    assert set(done.notes) == {"fooled_share", "skipped_share"} and done.notes["fooled_share"] > 0  # type: ignore[operator]


def test_a_step_leaves_weights_statistics_and_gradients_of_the_estimators_alone() -> None:
    bench, _ = started()
    learnt = learn(bench, TINY)
    before = snapshot(learnt.estimators)
    model = bench.start
    assert model is not None
    model.train()
    made = InformationAlignment(NAMID(ascent=CLIMB), learnt.estimators)
    made(model, bench.data.x / 255, bench.data.y, rng=fresh()).backward()
    assert made.notes()["skipped_share"] == 0
    assert same(snapshot(learnt.estimators), before)
    assert not any(module.training for module in learnt.estimators.modules())
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


def test_what_is_learnt_is_frozen_whatever_it_came_as() -> None:
    handed = estimators().train().requires_grad_(True)
    learnt = Learnt(handed, X, X)
    assert not any(module.training for module in learnt.estimators.modules())
    assert not any(parameter.requires_grad for parameter in learnt.estimators.parameters())


@pytest.mark.parametrize(
    ("size", "places"), [(5, [0, 6, 12, 18, 24]), (7, [0, 4, 8, 12, 17, 21, 25]), (30, [*range(30)])]
)
def test_the_bank_holds_evenly_spaced_training_images_and_their_noise(
    size: int, places: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(namid, "BANK", size)
    bench, _ = started()
    learnt = learn(bench, replace(TINY, batch_size=400))  # more than there are images
    assert torch.equal(learnt.x, bench.data.x[places] / 255)
    assert torch.equal(learnt.noise, _start()[1][places] - learnt.x)
    assert learnt.banks().natural.shape == (size, 4, 8)


def test_the_warmup_is_standard_training_at_a_constant_rate_with_a_history_of_its_own() -> None:
    recipe = Recipe(epochs=3, batch_size=8, schedule="steps", milestones=(0.2,))
    bench, trainer = workbench(recipe)
    done = NAMID(ascent=CLIMB, alpha=0, warmup_epochs=2)(bench)
    assert [record["lr"] for record in trainer.history["warmup"]] == [0.05, 0.05]
    assert [record["epoch"] for record in trainer.history["model"]] == [1, 2, 3]
    by_hand, model = workbench(recipe)[0], small_network()
    by_hand.fit(
        model, cross_entropy, phase="warmup", recipe=Recipe(epochs=2, batch_size=8, schedule="constant")
    )
    by_hand.fit(model, AdversarialTraining(ascent=CLIMB).objective)
    assert same(dict(done.model.state_dict()), dict(model.state_dict()))


@pytest.mark.parametrize(
    "step", [3, 10, 1000], ids=["in the warmup", "in the second epoch", "after the last"]
)
def test_a_killed_run_ends_in_the_bytes_and_notes_of_an_uninterrupted_one(
    step: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench, trainer = started()
    whole, history = SPEC(bench), trainer.history
    killed_at(step, lambda: SPEC(started(tmp_path)[0]), monkeypatch)
    torch.manual_seed(99)  # another process
    bench, trainer = started(tmp_path)
    resumed = SPEC(bench)
    assert same(dict(resumed.model.state_dict()), dict(whole.model.state_dict()))
    assert same(dict(resumed.parts), dict(whole.parts)) and resumed.notes == whole.notes
    assert trainer.history == history and set(history) == {"warmup", "model"}


# What is stored, and what an attacker is told


@cache
def learnt_once() -> Learnt:
    return learn(started()[0], TINY)


def test_what_was_learnt_comes_back_from_its_file_to_the_bit(tmp_path: Path) -> None:
    learnt = learnt_once()
    write_weights(tmp_path / "parts.safetensors", learnt.tensors())
    state = torch.get_rng_state()
    loaded = Learnt.load(TINY, 3, read_weights(tmp_path / "parts.safetensors"))
    assert torch.equal(torch.get_rng_state(), state)
    assert same(loaded.tensors(), learnt.tensors()) and same(list(loaded.banks()), list(learnt.banks()))
    assert not any(module.training for module in loaded.estimators.modules())
    assert not any(parameter.requires_grad for parameter in loaded.estimators.parameters())


@pytest.mark.parametrize("bound", ["released", "donsker_varadhan"])
def test_the_term_is_adversarial_minus_natural_information_against_the_bank(bound: Any) -> None:
    learnt, model = learnt_once(), _start()[0]
    term = NAMID(estimator=TINY, bound=bound).term(model, learnt.tensors())
    assert isinstance(term, InformationTerm)
    rows, z = torch.tensor([4, 0, 7]), (X[[4, 0, 7]] + 0.05).clamp(0, 1)
    logits, (natural_bank, noise_bank) = model(z).detach(), learnt.banks()
    found = term(X, Y, *model.both(X))(z, model.features(z), logits, rows)
    pairs = learnt.estimators
    expected = pairs.adversarial.estimate(logits, z - X[rows], bound=bound, bank=noise_bank)
    expected = expected - pairs.natural.estimate(logits, X[rows], bound=bound, bank=natural_bank)
    assert torch.allclose(found, expected, atol=1e-6) and expected.std() > 0.01


def test_the_term_of_an_image_does_not_depend_on_its_batch() -> None:
    model = _start()[0]
    term, z = InformationTerm(learnt_once(), "released"), (X + 0.05).clamp(0, 1)
    logits, everyone = model(z).detach(), torch.arange(12)
    whole = term(X, Y, *model.both(X))(z, model.features(z), logits, everyone)
    for i in range(12):
        alone = term(X[i : i + 1], Y[i : i + 1], *model.both(X[i : i + 1]))
        one = alone(z[i : i + 1], model.features(z[i : i + 1]), logits[i : i + 1], torch.tensor([0]))
        assert one.item() == pytest.approx(whole[i].item(), abs=1e-5)
    assert whole.std() > 0.01


def test_an_attack_that_climbs_the_term_alone_raises_it() -> None:
    model, term = copy.deepcopy(_start()[0]), InformationTerm(learnt_once(), "released")
    sweep = AdaptivePGD(eps=0.1, steps=8, step_size=0.02, weights=(1.0,)).knowing(term)
    aim = term(X, Y, *model.both(X))

    def value(z: Tensor) -> Tensor:
        return aim(z, model.features(z), model(z), torch.arange(12)).detach()

    start = sweep.threat.random_start(X, rng=fresh(1))
    assert value(sweep(model, X, Y, rng=fresh(1))).mean() > value(start).mean() + 0.05


def test_the_term_pulls_at_the_images_through_the_outputs_only() -> None:
    model, z = _start()[0], (X + 0.05).clamp(0, 1).requires_grad_()
    logits = model(X).detach().requires_grad_()
    InformationTerm(learnt_once(), "released")(X, Y, *model.both(X))(
        z, logits, logits, torch.arange(12)
    ).sum().backward()
    assert z.grad is None and logits.grad is not None and logits.grad.abs().amax(1).min() > 0
