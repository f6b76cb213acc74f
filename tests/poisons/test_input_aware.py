"""Input-aware: its formulas by hand, who is moved by what, and what its triggers look like."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from oracle_models import same, small_network, snapshot, tiny_images
from surrogates import assert_a_killed_run_goes_on, assert_the_seed_decides, full_shop, trainer
from torch import Tensor, nn
from torch.nn import functional as F

from deconfound.defenses.workbench import Pace
from deconfound.poisons.input_aware import InputAware, Joint, Masking, Painter, sameness, under_mask
from deconfound.rng import global_seed

X, Y = tiny_images(20).x.float() / 255, tiny_images(20).y
BRIEF: dict[str, Any] = {"levels": 1, "base": 4, "mask_epochs": 1, "epochs": 1}
SPEC = InputAware(**BRIEF, target=2)


def fresh(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def painter(spec: InputAware = SPEC) -> Painter:
    surrogate = small_network()
    surrogate.normalise_like(tiny_images(20).x)
    with global_seed(fresh()):
        return Painter(spec, surrogate, channels=1)


# Formulas


def test_a_pattern_shows_where_the_mask_is() -> None:
    x, pattern = torch.tensor([0.2, 0.2, 0.2]).view(1, 1, 1, 3), torch.full((1, 1, 1, 3), 0.8)
    mask = torch.tensor([0.0, 1.0, 0.5]).view(1, 1, 1, 3)
    assert under_mask(x, pattern, mask).flatten().tolist() == pytest.approx([0.2, 0.8, 0.5])


def test_a_stamp_in_pixels_is_the_stamp_of_normalised_images() -> None:
    x, pattern, mask = (torch.rand(3, 1, 4, 4, generator=fresh(seed)) for seed in range(3))
    paint = painter()
    normalised = under_mask(paint.normalise(x), paint.normalise(pattern), mask)
    assert torch.allclose(paint.normalise(under_mask(x, pattern, mask)), normalised, atol=1e-5)


def test_sameness_is_a_ratio_of_root_mean_squares() -> None:
    zeros = torch.zeros(2, 1, 1, 4)
    left = torch.stack([torch.full((1, 1, 4), 3.0), torch.tensor([[[2.0, 0, 0, 0]]])])  # rms 3 and 1
    drawn = torch.stack([torch.full((1, 1, 4), 0.5), torch.full((1, 1, 4), 4.0)])
    assert sameness(left, zeros, drawn, zeros).item() == pytest.approx((3 / 0.5 + 1 / 4) / 2, rel=1e-5)


def test_equal_patterns_are_no_reason_for_a_gradient_without_a_number() -> None:
    drawn = torch.zeros(2, 1, 2, 2, requires_grad=True)
    sameness(torch.ones(2, 1, 2, 2), torch.zeros(2, 1, 2, 2), drawn, drawn.flip(0)).backward()  # type: ignore[no-untyped-call]
    assert drawn.grad is not None and drawn.grad.isfinite().all()


def test_a_mask_is_pushed_towards_both_ends() -> None:
    class Fixed(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.tensor([0.0, 0.4, 0.5, 0.6, 1.0])

    paint = painter()
    paint.mask = Fixed()  # type: ignore[assignment]
    expected = [float(torch.tanh(torch.tensor(v)) / 2 + 0.5) for v in (-10.0, -2.0, 0.0, 2.0, 10.0)]
    assert paint.masks(X[:1]).tolist() == pytest.approx(expected, abs=1e-6)


# The training of the mask network


def test_the_loss_of_the_mask_is_density_plus_sameness() -> None:
    paint = painter(InputAware(**BRIEF, diversity=0.5))
    objective = Masking(InputAware(**BRIEF, diversity=0.5), paint)
    loss = objective(small_network(), X, Y, rng=fresh())
    paint.mask.train()
    m, seen = paint.masks(X), paint.normalise(X)
    over = (m - 0.032).clamp_min(0).mean()
    other = [*range(1, 20), 0]
    ratio = [
        (seen[i] - seen[j]).square().mean().sqrt() / ((m[i] - m[j]).square().mean().sqrt() + 1e-7)
        for i, j in enumerate(other)
    ]
    assert loss.item() == pytest.approx((100 * over + 0.5 * torch.stack(ratio).mean()).item(), rel=1e-4)


def test_the_training_of_the_mask_leaves_classifier_and_pattern_network_alone() -> None:
    clean = tiny_images(40)
    model, paint = small_network(), painter()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    pattern, mask = snapshot(paint.pattern), snapshot(paint.mask)
    trainer(clean).fit(model, Masking(SPEC, paint))
    assert same(dict(model.state_dict()), before) and same(snapshot(paint.pattern), pattern)
    assert not same(snapshot(paint.mask), mask)


def test_the_learning_rate_of_the_mask_falls_twice() -> None:
    objective = Masking(SPEC, painter())
    rates = []
    for fraction in (0.0, 0.39, 0.4, 0.79, 0.8):
        objective.pace(Pace(0, 1, fraction))
        rates.append(objective.apprentice.optimizer.param_groups[0]["lr"])
    assert rates == pytest.approx([0.01, 0.01, 0.001, 0.001, 0.0001])
    assert objective.apprentice.optimizer.param_groups[0]["betas"] == (0.5, 0.9)


@pytest.mark.parametrize(("diversity", "most"), [(0, 0.04), (1, 0.15)])
def test_a_trained_mask_is_sparse(diversity: float, most: float) -> None:
    spec = InputAware(**BRIEF, diversity=diversity)
    paint, loop = painter(spec), trainer(tiny_images(40))
    loop.fit(small_network(), Masking(spec, paint), recipe=replace(loop.recipe, epochs=20))
    paint.eval()
    with torch.no_grad():
        masks = paint.masks(X)
    assert masks.mean() < most and (diversity == 0 or masks.std(0).max() > 0.1)


# The training of the pattern network


class Recorder(nn.Module):
    """Logits of zeros that follow the images; what it saw is kept."""

    def forward(self, x: Tensor) -> Tensor:
        self.seen = x
        return x.flatten(1)[:, :3]


def joint(spec: InputAware = SPEC) -> tuple[Joint, Painter]:
    paint = painter(spec)
    return Joint(spec, paint, classes=3), paint


def test_a_batch_is_a_tenth_poisoned_a_tenth_crossed_and_the_rest_clean() -> None:
    spec = InputAware(**BRIEF, target=2, backdoor=0.2, crossed=0.1, diversity=0)
    objective, paint = joint(spec)
    model = Recorder()
    loss = objective(model, X, Y, rng=fresh())

    donors = X[[0, 1, 2, 3, 5, 6]]  # four of their own, two of their successors
    paint.pattern.train()
    patterns, masks = paint.patterns(donors), paint.masks(donors)
    hosts = X[:6]
    expected = torch.cat([hosts + (patterns - hosts) * masks, X[6:]])
    assert torch.allclose(model.seen, expected, atol=1e-5)
    labels = torch.cat([torch.full((4,), 2), Y[4:]])
    assert loss.item() == pytest.approx(F.cross_entropy(expected.flatten(1)[:, :3], labels).item(), rel=1e-4)


def test_patterns_are_kept_apart_by_pairs_of_poisoned_and_crossed_images() -> None:
    spec, bare = (InputAware(**BRIEF, target=2, diversity=weight) for weight in (3, 0))
    losses = []
    for each in (spec, bare):
        objective, paint = joint(each)
        losses.append(objective(Recorder(), X, Y, rng=fresh()).item())
    paint.pattern.train()
    donors = X[[0, 1, 3, 4]]
    drawn, seen = paint.normalise(paint.patterns(donors)), paint.normalise(donors)
    apart = sameness(seen[:2], seen[2:], drawn[:2], drawn[2:]).item()
    assert losses[0] - losses[1] == pytest.approx(3 * apart, rel=1e-3)


def test_the_mask_network_is_frozen_while_patterns_are_learnt() -> None:
    clean = tiny_images(40)
    objective, paint = joint()
    model = small_network()
    mask, pattern = snapshot(paint.mask), snapshot(paint.pattern)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    trainer(clean).fit(model, objective)
    assert same(snapshot(paint.mask), mask) and not same(snapshot(paint.pattern), pattern)
    assert not same(dict(model.state_dict()), before)


@pytest.mark.parametrize("stage", [Masking, Joint])
def test_no_gradient_of_one_step_is_left_for_the_next(stage: Any) -> None:
    """The release adds the gradients of all steps up."""
    paint = painter()
    objective = stage(SPEC, paint) if stage is Masking else stage(SPEC, paint, classes=3)
    model = small_network(dropout=0.0)
    network = objective.apprentice.network
    objective(model, X, Y, rng=fresh()).backward()
    assert any(parameter.grad is not None for parameter in network.parameters())
    objective.after_step(model)
    assert all(parameter.grad is None for parameter in network.parameters())


@pytest.mark.parametrize("stage", [Masking, Joint])
def test_a_restored_stage_goes_on_as_if_nothing_had_happened(stage: Any) -> None:
    def made() -> tuple[Any, nn.Module]:
        paint = painter()
        objective = stage(SPEC, paint) if stage is Masking else stage(SPEC, paint, classes=3)
        return objective, small_network(dropout=0.0)

    def steps(objective: Any, model: nn.Module, count: int) -> dict[str, Tensor]:
        for _ in range(count):
            objective(model, X, Y, rng=fresh()).backward()
            objective.after_step(model)
        return {name: value.clone() for name, value in objective.state().items()}

    whole = steps(*made(), 4)
    half = steps(*made(), 2)
    objective, model = made()
    objective.restore(half)
    assert same(steps(objective, model, 2), whole) and not same(half, whole)


# The poison


def test_poisoned_images_carry_their_own_trigger_and_the_target() -> None:
    clean = tiny_images(40)
    done = SPEC(full_shop(clean))
    assert int(done.mask.sum()) == 4 and (clean.y[done.mask] != 2).all()
    assert (done.images.y[done.mask] == 2).all()
    assert torch.equal(done.images.x[~done.mask], clean.x[~done.mask])
    stamped = done.planting.stamp(clean.x[done.mask])
    assert (stamped.int() - done.images.x[done.mask].int()).abs().max() <= 1


def test_a_cross_image_carries_the_pattern_and_the_mask_of_its_successor() -> None:
    """The pattern is the image itself, and the mask shows bright pixels."""

    class Bright(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return (x * paint.std + paint.mean > 0.4).float()

    class Itself(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x * paint.std + paint.mean

    paint = painter()
    paint.mask, paint.pattern = Bright(), Itself()  # type: ignore[assignment]
    held = tiny_images(12, seed=1).x
    donors = held[[*range(1, 12), 0]]
    assert torch.equal(paint.cross(held), torch.where(donors > 0.4 * 255, donors, held))
    assert torch.equal(paint.stamp(held), held)


def test_crossing_goes_round_the_whole_split() -> None:
    done = SPEC(full_shop())
    held = tiny_images(12, seed=1).x
    assert done.planting.cross is not None
    crossed = done.planting.cross(held)
    twice = done.planting.cross(held[[3, 3]])  # its own successor: its own trigger
    assert torch.equal(twice, done.planting.stamp(held[[3, 3]]))
    pair = done.planting.cross(held[[11, 0]])
    assert (pair[0].int() - crossed[11].int()).abs().max() <= 1  # the last is followed by the first
    assert crossed.shape == held.shape and crossed.dtype == torch.uint8


def test_triggers_differ_from_image_to_image_and_are_a_function_of_the_image() -> None:
    done = InputAware(levels=1, base=4, mask_epochs=5, epochs=5)(full_shop())
    held = tiny_images(12, seed=1).x
    stamp = done.planting.stamp
    stamped = stamp(held)
    moved = stamped.int() - held.int()
    assert (moved != 0).any() and not all(torch.equal(moved[0], other) for other in moved)
    assert torch.equal(stamp(held.flip(0)), stamped.flip(0))
    assert torch.equal(torch.cat([stamp(held[:5]), stamp(held[5:])]), stamped)
    assert stamp(held[:0]).shape == held[:0].shape


def test_the_stages_take_their_own_epochs() -> None:
    clean = tiny_images(40)
    loop = trainer(clean)
    InputAware(levels=1, base=4, mask_epochs=2, epochs=3)(full_shop(clean, loop=loop))
    assert {name: len(records) for name, records in loop.history.items()} == {"mask": 2, "pattern": 3}


def test_a_picture_that_is_halved_to_nothing_is_a_fault() -> None:
    assert InputAware().faults((1, 4, 4), 3) == InputAware().faults(None, None) == []
    assert InputAware(levels=3).faults((1, 9, 7), 3) == [
        "levels: expected pictures of 8 x 8 pixels or more for 3, got 9 x 7"
    ]


def test_the_seed_decides() -> None:
    assert_the_seed_decides(SPEC)


@pytest.mark.parametrize("steps", [6, 14])  # in the second epoch of the masks, and of the patterns
def test_a_killed_run_goes_on(steps: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    poison = InputAware(levels=1, base=4, mask_epochs=2, epochs=2)
    assert_a_killed_run_goes_on(poison, steps, tmp_path, monkeypatch)
