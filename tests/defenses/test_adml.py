"""ADML against the invariants of its specification (section 12), its controls, and its record of what it counted."""

from functools import partial
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from killing import killed_at
from oracle_models import Linear, linear_problem, same, small_network, snapshot, tiny_images, workbench
from torch import Tensor, nn
from torch.nn import functional as F

from deconfound.attacks import ATTACKS
from deconfound.attacks.ascent import Ascent
from deconfound.defenses.adml import ADML, DoubleLearning, halves
from deconfound.defenses.adversarial_training import AdversarialTraining
from deconfound.defenses.awp import AWP, WeightPerturbation
from deconfound.defenses.help import HELP, Helped
from deconfound.defenses.losses import (
    attacked,
    balancing,
    base_loss,
    contrast,
    craft,
    outcome,
    perturbation_term,
)
from deconfound.defenses.mart import MART
from deconfound.defenses.workbench import Pace, Paced, Stateful, Stepped
from deconfound.models.classifier import Classifier
from deconfound.recipe import Recipe
from deconfound.threat import ThreatModel

BASES: tuple[Any, ...] = get_args(get_type_hints(ADML)["base"])
CLIMB = Ascent(threat=ThreatModel(eps=0.1), step_size=0.05, steps=2)
RECIPE = Recipe(epochs=2, batch_size=8)
IMAGES = tiny_images(12)
X, Y = IMAGES.x.float() / 255, IMAGES.y
with torch.no_grad():
    SEEN = small_network().eval()(X).argmax(1)
MIXED = torch.where(
    torch.arange(12) % 2 == 0, SEEN, (SEEN + 1) % 3
)  # labels that half of the predictions miss
NOTHING: dict[str, Any] = {"weight": 0, "clean": False, "split": False}


def fresh(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def standard() -> Classifier:
    return small_network("standard").eval().requires_grad_(False)


def objective(**settings: Any) -> DoubleLearning:
    spec = ADML(**{"ascent": CLIMB} | settings)
    return spec.objective(standard() if spec.base == "help" else None)


def trained(defense: Any, **options: Any) -> dict[str, Tensor]:
    return dict(defense(workbench(RECIPE, **options)[0]).model.state_dict())


# What the loss is made of


def test_there_are_five_bases() -> None:
    assert set(BASES) == {"adversarial", "trades", "mart", "awp", "help"}


@pytest.mark.parametrize("base", BASES)
@pytest.mark.parametrize("form", ["margin", "contrast"])
def test_the_loss_is_the_base_on_the_first_half_and_the_effect_and_the_clean_loss_on_the_last(
    base: Any, form: Any
) -> None:
    model, twin = small_network(dropout=0.0).train(), small_network(dropout=0.0).train()
    y = MIXED
    found = objective(base=base, form=form, weight=0.5)(model, X, y, rng=fresh())

    x_adv = craft(CLIMB, twin, X, y, rng=fresh())
    robust: Any = partial(base_loss, base="mart", trades_beta=2, mart_weight=2)
    if base in ("adversarial", "trades"):
        robust = partial(base_loss, base=base, trades_beta=2, mart_weight=2)
    if base == "help":
        robust = Helped(standard(), 1.0, 0.25)
    if base in ("awp", "help"):
        WeightPerturbation(0.01).perturb(twin, x_adv, y)
    expected = robust(twin, X[:6], x_adv[:6], y[:6])
    adversarial = twin(x_adv[6:])
    term = perturbation_term(adversarial, y[6:])
    if form == "contrast":
        term = contrast(
            outcome(adversarial, y[6:], floor=1e-3, parts="both"), attacked(adversarial, y[6:])
        ).abs()
    assert term > 0.01 and 0 < int(attacked(adversarial, y[6:]).sum()) < 6
    expected = expected + 0.5 * term + F.cross_entropy(twin(X[6:]), y[6:])
    assert torch.equal(found, expected)
    assert same(snapshot(model), snapshot(twin))  # batch norm saw the same halves in the same order


def test_when_nobody_in_the_last_half_is_fooled_its_loss_is_the_clean_cross_entropy() -> None:
    model, x, _ = linear_problem()
    climb = Ascent(threat=ThreatModel(eps=0.01), step_size=0.005, steps=3)
    far = model.margin(x).abs() > 0.01 * model.w.norm(p=1) + 1e-4
    x = x[far][: 2 * (int(far.sum()) // 2)]
    y, half = (model.margin(x) > 0).long(), len(x) // 2
    loss = objective(ascent=climb)(model, x, y, rng=fresh())
    x_adv = craft(climb, model, x, y, rng=fresh())
    base = F.cross_entropy(model(x_adv[:half]), y[:half])
    assert torch.equal(loss, base + F.cross_entropy(model(x[half:]), y[half:])) and half > 5
    loss.backward()
    assert model.w.grad is not None and model.w.grad.isfinite().all() and model.w.grad.any()


@pytest.mark.parametrize("base", BASES)
@pytest.mark.parametrize("form", ["margin", "contrast"])
@pytest.mark.parametrize("floor", [0.0, 1e-3])
@pytest.mark.parametrize("scale", [0.0, 1.0, 1e4], ids=["no gradient", "ordinary", "saturated"])
@pytest.mark.parametrize("fooled", ["nobody", "everybody"])
def test_loss_and_gradient_are_finite_when_nobody_or_everybody_is_fooled(
    base: Any, form: Any, floor: float, scale: float, fooled: str
) -> None:
    model, x, y = linear_problem()
    steep = Linear(scale * model.w.detach())
    labels = (steep.margin(x) > 0).long()
    spec = ADML(ascent=CLIMB, base=base, form=form, floor=floor)
    built = spec.objective(Linear(model.w.detach()) if base == "help" else None)  # type: ignore[arg-type]
    loss = built(steep, x, labels if fooled == "nobody" else 1 - labels, rng=fresh())
    loss.backward()
    assert loss.isfinite() and steep.w.grad is not None and steep.w.grad.isfinite().all()


# The halves


@given(st.integers(4, 300))
def test_the_halves_are_disjoint_of_equal_size_and_leave_out_at_most_the_middle_image(count: int) -> None:
    first, last = (list(range(count)[part]) for part in halves(count))
    assert len(first) == len(last) == count // 2
    assert first + ([count // 2] if count % 2 else []) + last == list(range(count))


@pytest.mark.parametrize("count", [1, 2, 3])
def test_a_batch_of_fewer_than_four_images_is_not_split(count: int) -> None:
    assert [range(count)[part] for part in halves(count)] == [range(count), range(count)]
    few = objective()(small_network(dropout=0.0).eval(), X[:count], Y[:count], rng=fresh())
    assert few.isfinite()


@pytest.mark.parametrize(("split", "parts"), [(True, [6, 6]), (False, [13, 13])])
def test_images_perturbed_images_and_labels_are_split_alike(split: bool, parts: list[int]) -> None:
    images = tiny_images(13)
    x, y = images.x.float() / 255, images.y
    seen: list[tuple[Tensor, ...]] = []
    terms: list[Tensor] = []

    def base(model: nn.Module, *batch: Tensor) -> Tensor:
        seen.append(batch)
        return torch.zeros(())

    class Listening(nn.Module):
        def forward(self, z: Tensor) -> Tensor:
            if not z.requires_grad:
                terms.append(z)
            return torch.stack([z.flatten(1).sum(1)] * 3, 1)

    listening = Listening()
    DoubleLearning(ADML(ascent=CLIMB, split=split), base)(listening, x, y, rng=fresh())
    x_adv = craft(CLIMB, listening, x, y, rng=fresh())
    first, last = slice(0, parts[0]), slice(13 - parts[1], 13)
    assert same(seen[0], (x[first], x_adv[first], y[first]))
    assert same(terms, [x_adv[last], x[last]]) and not torch.equal(x_adv, x)


def test_the_loss_is_blind_to_the_order_inside_a_half_and_not_to_an_exchange_of_the_halves() -> None:
    climb = Ascent(threat=ThreatModel(eps=0.1), step_size=0.05, steps=2, start="image")
    y = Y.roll(1)

    def loss(order: Tensor) -> float:
        return objective(ascent=climb)(
            small_network(dropout=0.0).train(), X[order], y[order], rng=fresh()
        ).item()

    inside = torch.cat([torch.randperm(6, generator=fresh(1)), 6 + torch.randperm(6, generator=fresh(2))])
    same_order, swapped = loss(torch.arange(12)), loss(torch.arange(12).roll(6))
    assert loss(inside) == pytest.approx(same_order, rel=1e-5)
    assert abs(swapped - same_order) > 1e-2


# Controls


def test_without_its_terms_and_without_a_split_it_is_adversarial_training_to_the_bit() -> None:
    model, twin = small_network().train(), small_network().train()
    control, plain = objective(**NOTHING), AdversarialTraining(ascent=CLIMB).objective
    losses = []
    for network, loss_of in ((model, control), (twin, plain)):
        torch.manual_seed(3)  # dropout
        losses.append(loss_of(network, X, Y, rng=fresh()))
        losses[-1].backward()
    assert torch.equal(*losses) and same(snapshot(model), snapshot(twin))


@pytest.mark.parametrize(
    ("base", "defense"),
    [
        ("adversarial", AdversarialTraining(ascent=CLIMB)),
        ("mart", MART(ascent=CLIMB)),
        ("awp", AWP(ascent=CLIMB)),
        ("help", HELP(ascent=CLIMB)),
    ],
)
def test_the_control_of_a_base_is_the_baseline_of_that_name_to_the_bit(base: Any, defense: Any) -> None:
    assert same(trained(ADML(ascent=CLIMB, base=base, **NOTHING)), trained(defense))
    assert not same(trained(ADML(ascent=CLIMB, base=base)), trained(defense))


def test_trades_without_a_divergence_is_the_clean_cross_entropy() -> None:
    model, twin = small_network(dropout=0.0).train(), small_network(dropout=0.0).train()
    found = objective(base="trades", trades_beta=0, **NOTHING)(model, X, Y, rng=fresh())
    assert torch.equal(found, F.cross_entropy(twin(X), Y))


def test_the_control_with_a_clean_term_adds_the_clean_cross_entropy_of_its_images() -> None:
    for split, part in ((False, slice(0, 12)), (True, slice(6, 12))):
        settings = {"weight": 0, "split": split}
        with_it = objective(**settings)(small_network(dropout=0.0).eval(), X, Y, rng=fresh())
        without = objective(clean=False, **settings)(small_network(dropout=0.0).eval(), X, Y, rng=fresh())
        clean = F.cross_entropy(small_network(dropout=0.0).eval()(X[part]), Y[part])
        assert (with_it - without).item() == pytest.approx(clean.item(), rel=1e-5)


@pytest.mark.parametrize(
    "settings",
    [
        {"tau": "one"},
        {"floor": 0},
        {"parts": "true"},
        {"parts": "fooled"},
        {"reduce": "half"},
        {"form": "contrast"},
    ],
    ids=str,
)
def test_every_setting_of_the_effect_reaches_its_formula(settings: dict[str, Any]) -> None:
    model, y = small_network(dropout=0.0).eval(), MIXED
    only = objective(weight=3, clean=False, **settings)(model, X, y, rng=fresh())
    base = objective(weight=0, clean=False)(model, X, y, rng=fresh())
    adversarial = model(craft(CLIMB, model, X, y, rng=fresh())[6:])
    if settings.get("form") == "contrast":
        term = contrast(
            outcome(adversarial, y[6:], floor=1e-3, parts="both"), attacked(adversarial, y[6:])
        ).abs()
    else:
        term = perturbation_term(adversarial, y[6:], **settings)
        assert term.item() != pytest.approx(perturbation_term(adversarial, y[6:]).item(), rel=1e-3)
    assert (only - base).item() == pytest.approx(3 * term.item(), rel=1e-4)


def test_the_contrast_counts_by_its_size_whatever_its_sign() -> None:
    model = small_network(dropout=0.0).eval()
    climb = Ascent(threat=ThreatModel(eps=1e-4), step_size=1e-4, steps=1)
    y = torch.where(torch.arange(12) == 11, (SEEN + 1) % 3, SEEN)  # one of the last half is missed
    settings = {"ascent": climb, "clean": False, "form": "contrast", "parts": "fooled"}
    only = objective(**settings)(model, X, y, rng=fresh()) - objective(weight=0, **settings)(
        model, X, y, rng=fresh()
    )
    adversarial = model(craft(climb, model, X, y, rng=fresh())[6:])
    signed = contrast(
        outcome(adversarial, y[6:], floor=1e-3, parts="fooled"), attacked(adversarial, y[6:])
    ).item()
    assert signed < -0.1 and only.item() == pytest.approx(-signed, rel=1e-4)


def test_the_base_help_asks_for_its_standard_network() -> None:
    with pytest.raises(ValueError, match=r"standard: expected a network for the base `help`, got none"):
        ADML(base="help").objective()


def test_its_adaptive_attacks_exist_and_one_of_them_has_targets() -> None:
    assert set(ADML.adaptive.attacks) <= ATTACKS.keys() and "apgd_targeted" in ADML.adaptive.attacks


# The weight perturbation, through the loop


@pytest.mark.parametrize("base", BASES)
def test_after_steps_of_no_length_the_weights_are_as_before(base: Any) -> None:
    recipe = Recipe(epochs=1, batch_size=8, lr=1e-30, weight_decay=0.0)
    done = ADML(ascent=CLIMB, base=base)(workbench(recipe)[0]).model
    for (name, w), before in zip(done.named_parameters(), small_network().parameters(), strict=True):
        assert torch.allclose(w, before, rtol=0, atol=1e-20), name  # all but the zeros: to the bit


# The record


def test_the_notes_count_the_attacked_images_of_the_last_halves() -> None:
    model, x, y = linear_problem()
    flipped = torch.where(torch.arange(64) % 4 == 0, 1 - y, y)
    climb = Ascent(threat=ThreatModel(eps=1e-6), step_size=1e-6, steps=1)
    far = model.margin(x).abs() > 1e-3
    x, flipped, y = x[far][:32], flipped[far][:32], y[far][:32]
    counting = objective(ascent=climb)
    for labels in (flipped, y, y):
        counting(model, x, labels, rng=fresh())
    mask = (flipped != y)[16:]
    notes = counting.notes()
    assert notes["d2_images"] == 48 and notes["d2_batches"] == 3
    assert notes["attacked_share"] == pytest.approx(int(mask.sum()) / 48)
    assert notes["empty_share"] == pytest.approx(2 / 3)
    taus = balancing(model(x[16:]))[mask]
    assert notes["mean_tau"] == pytest.approx(taus.mean().item(), rel=1e-3)


def test_the_counts_begin_anew_in_every_epoch_and_are_part_of_the_state() -> None:
    counting, model = objective(), small_network().train()
    for epoch in (0, 0, 1):
        counting.pace(Pace(epoch, 2, 0.0))
        counting(model, X, Y, rng=fresh())
    assert counting.notes()["d2_batches"] == 1 and counting.notes()["d2_images"] == 6
    other = objective()
    assert other.notes() == {}
    other.restore(counting.state())
    assert other.notes() == counting.notes()
    other.pace(Pace(1, 2, 0.5))
    assert other.notes() == {}
    assert all(isinstance(counting, kind) for kind in (Paced, Stepped, Stateful))


def test_the_record_is_of_the_last_epoch_and_absent_where_nobody_looked() -> None:
    done = ADML(ascent=CLIMB)(workbench(RECIPE)[0])
    assert done.notes["d2_images"] == 4 + 4 + 4 + 3 and done.notes["d2_batches"] == 4
    assert ADML(ascent=CLIMB, **NOTHING)(workbench(RECIPE)[0]).notes == {}


@pytest.mark.parametrize("base", ["adversarial", "awp"])
@pytest.mark.parametrize("step", [6, 1000])
def test_a_killed_run_ends_in_the_bytes_and_the_notes_of_an_uninterrupted_one(
    base: Any, step: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    defense = ADML(ascent=CLIMB, base=base)
    whole = defense(workbench(RECIPE)[0])
    killed_at(step, lambda: defense(workbench(RECIPE, scratch=tmp_path)[0]), monkeypatch)
    torch.manual_seed(99)
    resumed = defense(workbench(RECIPE, scratch=tmp_path)[0])
    assert same(dict(resumed.model.state_dict()), dict(whole.model.state_dict()))
    assert resumed.notes == whole.notes and whole.notes
