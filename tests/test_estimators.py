"""NAMID's estimators against loops and hand-made cases, and what their training may and may not touch."""

import json
import math
from dataclasses import asdict
from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from deconfound import estimator_training, estimators
from deconfound.estimator_training import train_estimators
from deconfound.estimators import (
    Bound,
    Estimators,
    EstimatorSpec,
    GlobalNet,
    LocalNet,
    Training,
    profile,
    row_estimates,
)
from deconfound.fields import hyperparameters
from deconfound.profiles import (
    Profile,
    Selection,
    contrastive_losses,
    eq5_losses,
    gaps,
    masked_cosine,
    masked_mean,
    max_only_losses,
    select,
)

BOUNDS: list[Bound] = ["released", "donsker_varadhan"]


def normal(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def tiny(training: Training = "contrastive", **changes: object) -> EstimatorSpec:
    values: dict[str, object] = {"hidden": 16, "widths": (4, 8), "epochs": 4, "batch_size": 32, "lr": 0.01}
    return EstimatorSpec(training=training, **{"milestones": ()} | values | changes)  # type: ignore[arg-type]


def fresh(seed: int = 0, shape: tuple[int, int, int] = (1, 8, 8), classes: int = 3) -> Estimators:
    torch.manual_seed(seed)
    made = Estimators(tiny(), shape, classes)
    with torch.no_grad():  # a layer norm that does something, so that a mistake there is seen
        for name, tensor in made.named_parameters():
            if ".scale." in name:
                tensor.add_(0.3 * torch.randn_like(tensor))
    return made


# The networks


@pytest.mark.parametrize(("side", "places"), [(32, 64), (28, 49), (16, 16), (8, 16), (5, 4), (2, 1)])
def test_a_pattern_becomes_a_vector_per_place(side: int, places: int) -> None:
    net = LocalNet((3, side, side), width_in=(4, 8), hidden=10).eval()
    assert net.locations == places
    assert net(torch.rand(2, 3, side, side)).shape == (2, places, 10)
    assert net(torch.rand(1, 3, side, side)).shape == (1, places, 10)


def test_large_images_pass_two_convolutions_of_stride_two_and_small_ones_keep_their_size_once() -> None:
    def steps(side: int) -> list[tuple[object, ...]]:
        convolutions = [m for m in LocalNet((1, side, side), hidden=8).map if isinstance(m, nn.Conv2d)]
        return [(m.out_channels, m.kernel_size[0], m.stride[0], m.padding[0], m.bias) for m in convolutions]

    assert steps(32) == [(64, 4, 2, 1, None), (128, 4, 2, 1, None)]
    assert steps(8) == [(64, 3, 1, 1, None), (128, 4, 2, 1, None)]


def test_an_image_of_one_pixel_is_refused() -> None:
    with pytest.raises(ValueError, match="2 x 2"):
        LocalNet((1, 1, 8), hidden=4)


@pytest.mark.parametrize(("features", "hidden"), [(3, 8), (8, 3)])
def test_the_shortcut_begins_as_a_noisy_identity(features: int, hidden: int) -> None:
    weight = GlobalNet(features, hidden).shortcut.weight.detach()
    identity = torch.eye(hidden, features)
    assert weight.diagonal().eq(1).all()
    rest = (weight - identity)[identity == 0]
    assert rest.abs().max() <= 0.01 and rest.unique().numel() == rest.numel()


def test_the_block_is_the_residual_of_one_by_one_convolutions() -> None:
    net = LocalNet((1, 8, 8), width_in=(4, 6), hidden=10)
    block = net.block
    x = torch.rand(5, 1, 8, 8)
    picture = net.map(x)  # (5, 6, 4, 4)
    inner = F.conv2d(picture, block.inner.weight[:, :, None, None])
    inner = F.batch_norm(inner, None, None, training=True).relu()
    outer = F.conv2d(inner, block.outer.weight[:, :, None, None], block.outer.bias)
    total = outer + F.conv2d(picture, block.shortcut.weight[:, :, None, None])
    total = (total - total.mean(1, keepdim=True)) / (total.var(1, keepdim=True, correction=0) + 1e-5).sqrt()
    assert torch.allclose(net(x), total.flatten(2).transpose(1, 2), atol=1e-5)


@pytest.mark.parametrize("bound", BOUNDS)
def test_a_gradient_reaches_logits_and_weights_but_no_pattern(bound: Bound) -> None:
    made = fresh().natural
    logits = normal(6, 3, dtype=torch.float32).requires_grad_()
    pattern = torch.rand(6, 1, 8, 8, requires_grad=True)
    made.estimate(logits, pattern, bound=bound).sum().backward()
    assert pattern.grad is None
    assert logits.grad is not None and logits.grad.abs().min() > 0
    assert all(p.grad is not None and p.grad.isfinite().all() for p in made.parameters())


# Estimates from features


def loop(outputs: Tensor, local: Tensor, bound: Bound, bank: Tensor | None = None) -> Tensor:
    """The estimate, one example and one place at a time."""
    values = []
    for i in range(len(outputs)):
        places = []
        for place in range(local.shape[1]):
            others = [local[j] for j in range(len(local)) if j != i] if bank is None else list(bank)
            total = sum(math.exp(float(outputs[i] @ other[place])) for other in others)
            if bound == "released":
                total += 1
            places.append(float(outputs[i] @ local[i, place]) - math.log(total / len(others)))
        values.append(sum(places) / len(places))
    return torch.tensor(values, dtype=torch.float64)


@pytest.mark.parametrize("bound", BOUNDS)
def test_estimates_are_those_of_a_double_loop(bound: Bound) -> None:
    outputs, local = normal(7, 5), normal(7, 4, 5, seed=1)
    assert torch.allclose(row_estimates(outputs, local, bound=bound), loop(outputs, local, bound))
    bank = normal(9, 4, 5, seed=2)
    banked = row_estimates(outputs, local, bound=bound, bank=bank)
    assert torch.allclose(banked, loop(outputs, local, bound, bank))


@pytest.mark.parametrize("count", [2, 5, 40])
def test_a_critic_of_zeros_tells_nothing_but_the_released_form_has_an_offset(count: int) -> None:
    outputs, local = torch.zeros(count, 5, dtype=torch.float64), normal(count, 4, 5)
    assert row_estimates(outputs, local, bound="donsker_varadhan").abs().max() < 1e-12
    released = row_estimates(outputs, local, bound="released")
    assert torch.allclose(released, torch.full_like(released, -math.log(count / (count - 1))), atol=1e-12)
    banked = row_estimates(outputs, local, bound="released", bank=local)
    assert torch.allclose(banked, torch.full_like(banked, -math.log((count + 1) / count)), atol=1e-12)


@pytest.mark.parametrize("bound", BOUNDS)
def test_permuted_batches_give_permuted_estimates_and_equal_places_count_once(bound: Bound) -> None:
    outputs, local = normal(8, 5), normal(8, 4, 5, seed=1)
    found = row_estimates(outputs, local, bound=bound)
    order = torch.randperm(8, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(row_estimates(outputs[order], local[order], bound=bound), found[order])
    one = local[:, :1]
    repeated = row_estimates(outputs, one.expand(-1, 4, -1), bound=bound)
    assert torch.allclose(repeated, row_estimates(outputs, one, bound=bound))


@pytest.mark.parametrize("bound", BOUNDS)
def test_with_a_bank_a_row_depends_on_no_other_row_and_without_one_it_does(bound: Bound) -> None:
    outputs, local, bank = normal(6, 5), normal(6, 4, 5, seed=1), normal(9, 4, 5, seed=2)
    whole = row_estimates(outputs, local, bound=bound, bank=bank)
    alone = [row_estimates(outputs[i : i + 1], local[i : i + 1], bound=bound, bank=bank) for i in range(6)]
    assert torch.allclose(torch.cat(alone), whole)
    half = row_estimates(outputs[:3], local[:3], bound=bound)
    assert (half - row_estimates(outputs, local, bound=bound)[:3]).abs().min() > 1e-3


@pytest.mark.parametrize("bound", BOUNDS)
@pytest.mark.parametrize("banked", [False, True])
def test_estimates_and_gradients_do_not_depend_on_how_many_scores_fit_at_once(
    bound: Bound, banked: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run() -> list[Tensor]:
        outputs, local = normal(7, 5).requires_grad_(), normal(7, 4, 5, seed=1).requires_grad_()
        bank = normal(6, 4, 5, seed=2) if banked else None
        found = row_estimates(outputs, local, bound=bound, bank=bank)
        (found * torch.arange(7.0)).sum().backward()
        assert outputs.grad is not None and local.grad is not None
        return [found, outputs.grad, local.grad]

    whole = run()
    monkeypatch.setattr(estimators, "SCORES", 60)  # two rows at a time
    assert all(map(torch.allclose, run(), whole))


def test_no_part_holds_more_scores_than_the_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def rows(outputs: Tensor, own: Tensor, others: Tensor, *rest: object) -> Tensor:
        seen.append(len(outputs) * len(others) * others.shape[1])
        return outputs.sum(1)

    monkeypatch.setattr(estimators, "SCORES", 100)
    monkeypatch.setattr(estimators, "_row_estimates", rows)
    row_estimates(normal(7, 5), normal(7, 4, 5))
    assert max(seen) <= 100 and sum(seen) == 7 * 7 * 4


@pytest.mark.parametrize(
    ("outputs", "local", "bank"),
    [
        ((3, 5), (4, 2, 5), None),
        ((3, 5), (3, 5), None),
        ((1, 5), (1, 2, 5), None),
        ((1, 5), (1, 2, 5), (0, 2, 5)),
        ((3, 5), (3, 2, 5), (4, 3, 5)),
    ],
)
def test_features_that_do_not_fit_are_refused(
    outputs: tuple[int, ...], local: tuple[int, ...], bank: tuple[int, ...] | None
) -> None:
    with pytest.raises(ValueError, match="expected"):
        row_estimates(
            torch.zeros(outputs), torch.zeros(local), bank=None if bank is None else torch.zeros(bank)
        )


# Profiles and their losses


@pytest.mark.parametrize("bound", BOUNDS)
@pytest.mark.parametrize("banked", [False, True])
def test_a_profile_is_the_four_estimates_of_pattern_and_output(bound: Bound, banked: bool) -> None:
    made = fresh().eval()
    clean, adversarial = normal(6, 3, dtype=torch.float32), normal(6, 3, seed=1, dtype=torch.float32)
    x, noise = torch.rand(6, 1, 8, 8), 0.1 * normal(6, 1, 8, 8, seed=2, dtype=torch.float32)
    others = torch.rand(5, 1, 8, 8)
    banks = made.banks(others, 0.1 * others) if banked else None
    natural = made.natural.local(others) if banked else None
    noisy = made.adversarial.local(0.1 * others) if banked else None
    found = profile(made, clean, adversarial, x, noise, bound=bound, banks=banks)
    expected = (
        made.natural.estimate(clean, x, bound=bound, bank=natural),
        made.natural.estimate(adversarial, x, bound=bound, bank=natural),
        made.adversarial.estimate(clean, noise, bound=bound, bank=noisy),
        made.adversarial.estimate(adversarial, noise, bound=bound, bank=noisy),
    )
    assert all(map(torch.allclose, found, expected))
    for a, b in pairwise(found):
        assert (a - b).abs().max() > 1e-3


def test_without_noise_the_profiles_of_clean_and_adversarial_images_agree() -> None:
    made = fresh().eval()
    logits, x = normal(6, 3, dtype=torch.float32), torch.rand(6, 1, 8, 8)
    found = profile(made, logits, logits.clone(), x, torch.zeros_like(x))
    assert torch.equal(found.natural_clean, found.natural_adversarial)
    assert torch.equal(found.adversarial_clean, found.adversarial_adversarial)
    every = torch.ones(6, dtype=torch.bool)
    for u, v in (found[:2], found[2:]):
        assert masked_cosine(u, v, every).item() == pytest.approx(1, abs=1e-6)


@given(st.integers(0, 2**32), st.floats(1e-3, 1e3), st.floats(1e-3, 1e3))
def test_the_masked_cosine_is_the_cosine_of_the_subset_and_ignores_positive_scale(
    seed: int, first: float, second: float
) -> None:
    u, v = normal(12, seed=seed), normal(12, seed=seed + 1)
    mask = normal(12, seed=seed + 2) > 0
    mask[0] = True
    found = masked_cosine(u, v, mask)
    assert found.item() == pytest.approx(F.cosine_similarity(u[mask], v[mask], dim=0).item(), abs=1e-9)
    assert masked_cosine(first * u, second * v, mask).item() == pytest.approx(found.item(), abs=1e-9)
    assert masked_cosine(-u, v, mask).item() == pytest.approx(-found.item(), abs=1e-9)


@pytest.mark.parametrize("case", ["empty mask", "first zero", "second zero", "both zero"])
def test_the_masked_cosine_with_a_zero_vector_is_zero_and_so_is_its_gradient(case: str) -> None:
    u, v = normal(5), normal(5, seed=1)
    mask = torch.tensor([True, True, False, True, False])
    if case == "empty mask":
        mask = torch.zeros(5, dtype=torch.bool)
    if case in ("first zero", "both zero"):
        u = torch.where(mask, 0, u)
    if case in ("second zero", "both zero"):
        v = torch.where(mask, 0, v)
    u.requires_grad_(), v.requires_grad_()
    found = masked_cosine(u, v, mask)
    found.backward()
    assert found.item() == 0
    assert u.grad is not None and v.grad is not None
    assert (u.grad == 0).all() and (v.grad == 0).all()


def test_values_outside_the_mask_have_no_gradient_and_may_be_infinite() -> None:
    mask = torch.tensor([True, True, False])
    u, v = torch.tensor([1.0, 2.0, math.inf], requires_grad=True), torch.tensor([2.0, -1.0, 5.0])
    (masked_cosine(u, v, mask) + masked_mean(u, mask)).backward()
    assert u.grad is not None and u.grad[2] == 0 and u.grad.isfinite().all()
    assert masked_mean(u, mask).item() == 1.5 and masked_mean(u, ~mask & mask).item() == 0


def test_examples_are_selected_by_their_largest_logit() -> None:
    right, wrong = [2.0, 1.0], [-1.0, 5.0]
    clean = torch.tensor([right, right, wrong, wrong])
    adversarial = torch.tensor([right, wrong, right, wrong])
    found = select(clean, adversarial, torch.zeros(4, dtype=torch.long))
    assert [mask.tolist() for mask in found] == [
        [True, True, False, False],
        [False, True, False, False],
        [True, False, False, False],
        [False, True, False, True],
    ]
    assert found.at(torch.tensor([1, 3])).fooled.tolist() == [True, False]


def vectors(count: int = 10, seed: int = 0) -> Profile:
    return Profile(*(normal(count, seed=seed + part).requires_grad_() for part in range(4)))


def masks(count: int = 10) -> Selection:
    """Images 0 to 5 are right, 2 to 5 of them fooled; 8 and 9 are wrong and stay so."""
    index = torch.arange(count)
    return Selection(
        index < 6, (index >= 2) & (index < 6), index < 2, (index >= 2) & ((index < 6) | (index > 7))
    )


@pytest.mark.parametrize("seed", range(6))  # cosines of both signs
def test_the_contrastive_losses_are_those_of_the_specification_written_with_negative_values(
    seed: int,
) -> None:
    found, chosen = vectors(seed=seed), masks()
    n1, n2, a2, a1 = (-v.detach().numpy() for v in found)  # V = -E; natural, moved, before, adversarial
    omega, robust, correct = range(2, 6), range(0, 2), 6

    def cosine(u: Tensor, v: Tensor, chosen: range) -> float:
        dot = sum(u[i] * v[i] for i in chosen)
        return float(dot / math.sqrt(sum(u[i] ** 2 for i in chosen) * sum(v[i] ** 2 for i in chosen)))

    natural = 5 * abs(cosine(n1, n2, omega)) + sum(n1[i] for i in omega) / correct
    natural += 0.5 * (5 * abs(1 - cosine(n1, n2, robust)) + sum(n1[i] for i in robust) / correct)
    noisy = 5 * abs(cosine(a1, a2, omega)) + sum(a1[i] for i in omega) / 4
    noisy += 0.5 * (8 * abs(1 - cosine(a2, a1, robust)) - 0.1 * sum(a1[i] for i in robust) / 2)
    losses = contrastive_losses(found, chosen)
    assert losses.natural.item() == pytest.approx(natural)
    assert losses.adversarial.item() == pytest.approx(noisy)


def test_without_a_right_image_the_contrastive_losses_maximise_over_the_batch() -> None:
    found, none = vectors(), torch.zeros(10, dtype=torch.bool)
    losses = contrastive_losses(found, Selection(none, none, none, ~none))
    assert losses.natural.item() == pytest.approx(-found.natural_clean.mean().item())
    assert losses.adversarial.item() == pytest.approx(-found.adversarial_adversarial.mean().item())


def test_equation_five_raises_what_belongs_together_and_lowers_the_rest_on_fooled_images_only() -> None:
    found, chosen = vectors(), masks()
    losses = eq5_losses(found, chosen)
    (losses.natural + losses.adversarial).backward()
    quarter = torch.where(chosen.fooled, 0.25, 0.0).double()
    signs = Profile(*(v.grad for v in found))  # type: ignore[arg-type]
    assert torch.allclose(signs.natural_clean, -quarter) and torch.allclose(
        signs.natural_adversarial, quarter
    )
    assert torch.allclose(signs.adversarial_clean, quarter)
    assert torch.allclose(signs.adversarial_adversarial, -quarter)
    assert losses.natural.item() == pytest.approx(
        (found.natural_adversarial - found.natural_clean)[2:6].mean().item()
    )
    assert gaps(found, chosen) == pytest.approx(
        {"fooled": 4, "natural_gap": -losses.natural.item(), "adversarial_gap": -losses.adversarial.item()}
    )


def test_plain_maximisation_reads_right_images_for_one_pair_and_wrong_adversarial_ones_for_the_other() -> (
    None
):
    found, chosen = vectors(), masks()
    losses = max_only_losses(found.natural_clean, found.adversarial_adversarial, chosen)
    assert losses.natural.item() == pytest.approx(-found.natural_clean[:6].mean().item())
    wrong = [2, 3, 4, 5, 8, 9]
    assert losses.adversarial.item() == pytest.approx(-found.adversarial_adversarial[wrong].mean().item())


@pytest.mark.parametrize("empty", ["fooled", "robust", "wrong", "correct"])
def test_every_loss_and_its_gradient_is_finite_when_a_selection_is_empty(empty: str) -> None:
    found = vectors()
    chosen = masks()._replace(**{empty: torch.zeros(10, dtype=torch.bool)})
    plain = max_only_losses(found.natural_clean, found.adversarial_adversarial, chosen)
    losses = torch.stack([*contrastive_losses(found, chosen), *eq5_losses(found, chosen), *plain])
    losses.sum().backward()
    assert losses.isfinite().all()
    assert all(v.grad is not None and v.grad.isfinite().all() for v in found)
    if empty == "fooled":
        assert (losses[2:4] == 0).all() and gaps(found, chosen) == {"fooled": 0}


# Training


class Target(nn.Module):
    """Three linear logits with batch norm, so that a forward pass in training mode leaves a trace."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(64, affine=False)
        self.out = nn.Linear(64, 3)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.out(self.norm(x.flatten(1)))
        return logits


def problem(count: int = 160) -> tuple[Target, Tensor, Tensor, Tensor]:
    """A network, images, adversarial images and labels; about half the images are fooled."""
    torch.manual_seed(0)
    centres = torch.rand(3, 1, 8, 8)
    y = torch.arange(count) % 3
    x = (0.5 * centres[y] + 0.5 * torch.rand(count, 1, 8, 8)).clamp(0, 1)
    model = Target()
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    for _ in range(60):
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
    model.eval().zero_grad()
    inside = x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(F.cross_entropy(model(inside), y, reduction="sum"), inside)
    reach = 0.25 * torch.rand(count, 1, 1, 1)
    return model, x, (x + reach * gradient.sign()).clamp(0, 1), y


MODEL, X, X_ADV, Y = problem()


def train(spec: EstimatorSpec, seed: int = 0, **options: object) -> Estimators:
    rng = torch.Generator().manual_seed(seed)
    return train_estimators(spec, MODEL, X, X_ADV, Y, rng=rng, **options)  # type: ignore[arg-type]


def state(module: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in module.state_dict().items()}


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_the_problem_of_these_tests_has_fooled_and_robust_images() -> None:
    with torch.no_grad():
        chosen = select(MODEL(X), MODEL(X_ADV), Y)
    assert chosen.fooled.float().mean() > 0.2 and chosen.robust.float().mean() > 0.2


@pytest.mark.parametrize("bound", BOUNDS)
def test_shuffled_patterns_tell_less_of_unseen_outputs_than_their_own(bound: Bound) -> None:
    spec = tiny("max_only", epochs=15, bound=bound)
    made = train_estimators(spec, MODEL, X[:128], X_ADV[:128], Y[:128], rng=torch.Generator().manual_seed(0))
    with torch.no_grad():
        logits = MODEL(X[128:])
        own = made.natural.estimate(logits, X[128:], bound=bound)
        shuffled = made.natural.estimate(logits, X[128:].roll(1, 0), bound=bound)
    assert own.mean() > shuffled.mean() + 0.2


@pytest.mark.parametrize("training", ["eq5", "contrastive"])
def test_training_on_the_difference_opens_both_gaps_on_unseen_images(training: Training) -> None:
    rng = torch.Generator().manual_seed(0)
    held = (X[128:], X_ADV[128:], Y[128:])
    made = train_estimators(
        tiny(training, epochs=12), MODEL, X[:128], X_ADV[:128], Y[:128], rng=rng, held=held
    )
    assert [record["epoch"] for record in made.history] == list(range(1, 13))
    assert made.history[-1]["natural_gap"] > 0 and made.history[-1]["adversarial_gap"] > 0
    losses = [record["natural_loss"] + record["adversarial_loss"] for record in made.history]
    assert losses[-1] < losses[0]
    with torch.no_grad():
        found = profile(made, MODEL(X[128:]), MODEL(X_ADV[128:]), X[128:], X_ADV[128:] - X[128:])
        expected = gaps(found, select(MODEL(X[128:]), MODEL(X_ADV[128:]), Y[128:]))
    assert {name: made.history[-1][name] for name in expected} == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("mode", [True, False])
def test_training_estimators_leaves_the_network_the_mode_and_the_global_generator_alone(mode: bool) -> None:
    MODEL.train(mode)
    before, draws = state(MODEL), torch.random.get_rng_state()
    flags = [p.requires_grad for p in MODEL.parameters()]
    made = train(tiny(epochs=1))
    assert same(state(MODEL), before) and MODEL.training == mode
    assert [p.requires_grad for p in MODEL.parameters()] == flags
    assert all(p.grad is None for p in MODEL.parameters())
    assert torch.equal(torch.random.get_rng_state(), draws)
    assert not made.training
    MODEL.eval()


def test_reading_a_profile_changes_nothing_in_evaluation_mode_and_buffers_in_training_mode() -> None:
    made = fresh().eval()
    before, arguments = state(made), (MODEL(X).detach(), MODEL(X_ADV).detach(), X, X_ADV - X)
    profile(made, *arguments), made.banks(X, X_ADV - X)
    assert same(state(made), before)
    profile(made.train(), *arguments)
    assert not same(state(made), before)


@pytest.mark.parametrize("training", ["contrastive", "eq5", "max_only", "random"])
def test_the_same_generator_gives_the_same_estimators_and_another_one_others(training: Training) -> None:
    spec = tiny(training, epochs=2)
    assert same(state(train(spec)), state(train(spec)))
    assert not same(state(train(spec)), state(train(spec, seed=1)))


def test_every_way_of_training_leads_elsewhere() -> None:
    ways: list[Training] = ["contrastive", "eq5", "max_only", "random"]
    found = [state(train(tiny(way, epochs=1))) for way in ways]
    assert not any(same(a, b) for i, a in enumerate(found) for b in found[:i])


def test_random_estimators_keep_their_first_weights_and_take_statistics_of_the_data() -> None:
    made, trained = train(tiny("random")), train(tiny("contrastive", epochs=1, lr=1e-12))
    for (name, a), b in zip(made.named_parameters(), trained.parameters(), strict=True):
        assert torch.allclose(a, b, atol=1e-9), name
    assert made.history == []
    norm = made.natural.local_net.map[1]
    assert isinstance(norm, nn.BatchNorm2d) and norm.momentum == 0.1
    maps = made.natural.local_net.map[0](X)
    assert torch.allclose(norm.running_mean, maps.mean((0, 2, 3)), atol=1e-5)  # type: ignore[arg-type]


def test_a_uint8_image_is_read_as_its_fraction_of_255() -> None:
    bytes_x, bytes_adv = (X * 255).round().byte(), (X_ADV * 255).round().byte()
    rng = [torch.Generator().manual_seed(0) for _ in range(2)]
    a = train_estimators(tiny(epochs=1), MODEL, bytes_x, bytes_adv, Y, rng=rng[0])
    b = train_estimators(tiny(epochs=1), MODEL, bytes_x / 255, bytes_adv / 255, Y, rng=rng[1])
    assert same(state(a), state(b))


def test_plain_maximisation_reads_no_output_that_it_does_not_maximise() -> None:
    spec, adversarial = tiny("max_only", epochs=1), X_ADV.roll(1, 0)
    rng = [torch.Generator().manual_seed(0) for _ in range(2)]
    a = train_estimators(spec, MODEL, X, X_ADV, Y, rng=rng[0])
    b = train_estimators(spec, MODEL, X, adversarial, Y, rng=rng[1])
    assert same(state(a.natural), state(b.natural)) and not same(state(a.adversarial), state(b.adversarial))


def test_every_batch_is_full_and_an_epoch_sees_an_image_once_at_most(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Tensor] = []

    def record(
        made: Estimators, clean: Tensor, adversarial: Tensor, x: Tensor, *rest: object, **more: object
    ) -> Profile:
        seen.append(x)
        return profile(made, clean, adversarial, x, *rest, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(estimator_training, "profile", record)
    train(tiny(epochs=2, batch_size=48))  # 160 = 3 * 48 + 16
    assert [len(x) for x in seen] == [48] * 6
    first, second = (torch.cat(seen[i : i + 3]).flatten(1) for i in (0, 3))
    assert len(first.unique(dim=0)) == 144 and not torch.equal(first, second)


def test_fewer_images_than_a_batch_are_refused_before_any_training() -> None:
    with pytest.raises(ValueError, match="batch_size"):
        train(tiny(batch_size=161))


def test_the_learning_rate_falls_at_the_milestones() -> None:
    spec = EstimatorSpec()
    assert [spec.lr_at(epoch) for epoch in (0, 9, 10, 19, 20, 24)] == pytest.approx(
        [1e-2, 1e-2, 1e-3, 1e-3, 1e-4, 1e-4]
    )
    short, long = train(tiny(epochs=1)), train(tiny(epochs=3, milestones=(1,), factor=1e-12))
    for a, b in zip(short.parameters(), long.parameters(), strict=True):
        assert torch.allclose(a, b, atol=1e-6)
    assert not torch.allclose(next(train(tiny(epochs=3)).parameters()), next(short.parameters()), atol=1e-3)


def test_weights_travel_as_a_state() -> None:
    made, other = train(tiny(epochs=1)), fresh(seed=5).eval()
    other.load_state_dict(made.state_dict())
    with torch.no_grad():
        arguments = (MODEL(X), MODEL(X_ADV), X, X_ADV - X)
        assert all(map(torch.equal, profile(made, *arguments), profile(other, *arguments)))


@hyperparameters
class Holder:
    """estimator: what a defense embeds."""

    estimator: EstimatorSpec = EstimatorSpec()


def test_hyper_parameters_travel_as_json_also_inside_others() -> None:
    spec = EstimatorSpec(
        hidden=64, widths=(16, 32), training="eq5", bound="donsker_varadhan", milestones=(3,)
    )
    stored = json.loads(json.dumps(asdict(Holder(estimator=spec))))
    assert Holder(**stored) == Holder(estimator=spec)
    with pytest.raises(ValueError, match="batch_size"):
        EstimatorSpec(batch_size=1)


def test_the_defaults_are_the_released_ones() -> None:
    spec = EstimatorSpec()
    assert (spec.hidden, spec.widths, spec.epochs, spec.batch_size, spec.lr) == (
        2048,
        (64, 128),
        25,
        400,
        1e-2,
    )
    assert (spec.milestones, spec.factor, spec.bound, spec.training) == (
        (10, 20),
        0.1,
        "released",
        "contrastive",
    )
