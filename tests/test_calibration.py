"""Calibration of the bounds where information is known, and NAMID's decomposition by exact enumeration."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from deconfound import calibration
from deconfound.calibration import (
    BOUNDS,
    Critics,
    calibrate,
    correlation,
    gaussian_information,
    gaussians,
    interactions,
    level,
    readings,
    verdict,
)
from deconfound.calibration_spec import Calibration
from deconfound.decomposition import Decomposition, coupling, decompose, entropy, information, synergy
from deconfound.errors import ConfigError
from deconfound.information import donsker_varadhan, info_nce, nguyen_wainwright_jordan, rows
from deconfound.rng import generator
from deconfound.steps import calibrate as step

LOG2 = math.log(2)


def small(**changes: Any) -> Calibration:
    values: dict[str, Any] = {"levels": (0.0, 1.0), "steps": 150, "seeds": 2, "batches": 20, "hidden": 16}
    return Calibration(**values | changes)


# Gaussians


@given(st.floats(0, 8), st.integers(1, 20))
def test_the_correlation_of_an_information_has_that_information(nats: float, dimension: int) -> None:
    assert gaussian_information(correlation(nats, dimension), dimension) == pytest.approx(nats, abs=1e-6)


def test_one_dimension_of_correlation_one_half_has_minus_half_the_logarithm_of_three_quarters() -> None:
    assert gaussian_information(0.5, 1) == pytest.approx(-0.5 * math.log(0.75))
    assert gaussian_information(0.5, 6) == pytest.approx(-3 * math.log(0.75))


def test_draws_have_the_correlation_that_was_asked_for_in_each_dimension_and_no_other() -> None:
    streams = [torch.Generator().manual_seed(seed) for seed in range(2)]
    x, y = gaussians(torch.tensor([0.0, 0.6, 0.9]), streams, count=20_000, dimension=2)
    assert x.shape == y.shape == (6, 20_000, 2)
    for place, rho in enumerate([0.0, 0.6, 0.9] * 2):
        found = torch.corrcoef(torch.cat([x[place], y[place]], 1).T)
        expected = torch.eye(4) + rho * (torch.eye(4).roll(2, 0))
        assert torch.allclose(found, expected, atol=0.03)
        assert torch.allclose(torch.cat([x[place], y[place]], 1).var(0), torch.ones(4), atol=0.05)
    assert torch.equal(x[0], x[1]) and not torch.equal(x[0], x[3])  # levels share draws, seeds do not


# The critics


def test_critics_that_are_trained_side_by_side_do_not_touch_each_other() -> None:
    spec = small(levels=(0.5, 1.0, 2.0))
    critics = Critics(spec, [torch.Generator().manual_seed(seed) for seed in range(2)])
    x, y = (torch.randn(6, 5, 2, generator=torch.Generator().manual_seed(seed)) for seed in (0, 1))
    scores = critics(x, y)
    assert scores.shape == (6, 5, 5)
    scores[4].sum().backward()
    for weight in [*critics.weights, *critics.biases]:
        touched = weight.grad.flatten(1).abs().sum(1) > 0  # type: ignore[union-attr]
        assert touched.tolist() == [False] * 4 + [True, False]
    for weight in critics.weights:  # the levels of a seed begin alike, seeds differ
        assert torch.equal(weight[0], weight[2]) and not torch.equal(weight[0], weight[3])


def test_a_score_is_the_inner_product_of_two_networks_that_see_one_variable_each() -> None:
    critics = Critics(small(levels=(0.5, 1.0)), [torch.Generator().manual_seed(0)])
    with torch.no_grad():
        for bias in critics.biases:
            bias.normal_(generator=torch.Generator().manual_seed(1))

    def network(v: Tensor, first: int) -> Tensor:
        for layer in range(first, first + 3):
            v = v @ critics.weights[layer][1] + critics.biases[layer][1]
            v = v.relu() if layer < first + 2 else v
        return v

    x, y = torch.randn(2, 4, 2), torch.randn(2, 4, 2)
    expected = network(x[1], 0) @ network(y[1], 3).T / math.sqrt(8)
    assert torch.allclose(critics(x, y)[1], expected, atol=1e-5)


def test_without_training_the_readings_are_those_of_the_first_critics() -> None:
    spec = small(lr=1e-30, steps=1, batches=3)
    values = readings(spec, BOUNDS["donsker_varadhan"])
    assert values.shape == (3, 2, 2) and values.dtype == torch.float64
    assert values[:, :, 0].mean() < 0  # the bound of a critic that knows nothing, on independent draws


@pytest.mark.parametrize("name", BOUNDS)
def test_training_finds_one_nat_and_nothing_where_there_is_nothing(name: str) -> None:
    values = readings(small(steps=400, hidden=32, dimension=1), BOUNDS[name]).mean(0)
    assert values[:, 0].abs().max() < 0.1
    assert values[:, 1].max() == pytest.approx(1, abs=0.15)
    if name != "nguyen_wainwright_jordan":  # a critic of this bound may learn late, see the verdicts
        assert values[:, 1].min() == pytest.approx(1, abs=0.15)


def test_info_nce_never_exceeds_the_logarithm_of_the_batch_and_the_released_form_does() -> None:
    spec = small(levels=(1.0, 8.0), batch_size=8, steps=300)
    capped = readings(spec, BOUNDS["info_nce"])
    assert capped.max() <= math.log(8) + 1e-5
    assert readings(spec, BOUNDS["namid_released"])[:, :, 1].mean() > 2 * 8


def test_a_level_does_not_depend_on_the_others() -> None:
    alone = readings(small(levels=(1.0, 2.0), steps=20), BOUNDS["info_nce"])
    among = readings(small(levels=(0.0, 1.0, 2.0, 4.0), steps=20), BOUNDS["info_nce"])
    assert torch.allclose(alone, among[:, :, 1:3], atol=1e-3)


def test_every_seed_has_first_weights_and_draws_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def record(seed: int, *purpose: str | int) -> torch.Generator:
        asked.append((seed, *purpose))
        return generator(seed, *purpose)

    monkeypatch.setattr(calibration, "generator", record)
    readings(small(seed=7, steps=1, batches=2), BOUNDS["info_nce"])
    assert sorted(asked) == [(7, "calibration", kind, seed) for kind in ("draws", "init") for seed in (0, 1)]


def test_every_bound_is_read_with_its_own_formula() -> None:
    scores = torch.randn(6, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    expected = {
        "info_nce": info_nce(scores),
        "donsker_varadhan": donsker_varadhan(scores),
        "nguyen_wainwright_jordan": nguyen_wainwright_jordan(scores),
        "jensen_shannon": nguyen_wainwright_jordan(scores + 1),
        "row_donsker_varadhan": rows(scores).mean(),
        "namid_released": rows(scores, released=True).mean(),
    }
    assert expected.keys() == BOUNDS.keys()
    for name, way in BOUNDS.items():
        assert way.read(scores).item() == pytest.approx(expected[name].item())


# Verdicts


def made(truth: float, estimate: float | None, sd: float = 0.1, *, usable: bool = False) -> dict[str, Any]:
    return {"truth": truth, "estimate": estimate, "sd": sd, "usable": usable}


def test_a_level_is_summarised_over_seeds_with_the_spread_of_a_single_batch_beside() -> None:
    values = torch.tensor([[1.8, 2.1], [2.0, 2.3]], dtype=torch.float64)  # batches x seeds
    found = level(2.0, values, 0.1)
    assert found["estimate"] == pytest.approx(2.05) and found["bias"] == pytest.approx(0.05)
    assert found["seeds"] == pytest.approx([1.9, 2.2])
    assert found["sd"] == pytest.approx(0.2 / math.sqrt(2))
    half = 12.7062 * 0.3 / 2  # Student, one degree of freedom; standard error 0.3 / sqrt(2) / sqrt(2)
    assert [found["low"], found["high"]] == pytest.approx([2.05 - half, 2.05 + half], rel=1e-4)
    assert not found["usable"]


@pytest.mark.parametrize(
    ("truth", "estimate", "spread", "usable"),
    [
        (2.0, 2.1, 0.0, True),
        (2.0, 2.21, 0.0, False),
        (2.0, 1.79, 0.0, False),
        (2.0, 2.0, 0.05, False),
        (0.0, 0.04, 0.0, True),
        (0.0, 0.06, 0.0, False),
    ],
)
def test_a_level_is_usable_when_the_whole_interval_is_near_the_truth(
    truth: float, estimate: float, spread: float, usable: bool
) -> None:
    values = torch.tensor([[estimate - spread, estimate + spread]] * 3, dtype=torch.float64)
    assert level(truth, values, 0.1)["usable"] is usable


@pytest.mark.parametrize("value", [math.inf, math.nan])
def test_a_reading_that_is_not_finite_leaves_no_number(value: float) -> None:
    found = level(1.0, torch.tensor([[1.0, 1.0], [1.0, value]], dtype=torch.float64), 0.1)
    assert found["estimate"] is None and found["seeds"] is None and not found["usable"]
    assert verdict([made(0, 0, usable=True), {**found, "truth": 2.0}])["shape"] == "diverges"


@pytest.mark.parametrize(
    ("levels", "expected"),
    [
        ([made(1, 1, usable=True), made(2, 1.9, usable=True)], (2, "follows")),
        ([made(1, 1, usable=True), made(2, 1.4)], (1, "saturates")),
        ([made(1, 0.6), made(2, 2, usable=True)], (None, "follows")),
        ([made(1, 1, usable=True), made(2, 3.1)], (1, "diverges")),
        ([made(1, 1, usable=True), made(2, -9, sd=2.1)], (1, "unstable")),
        ([made(1, 1, sd=1.1, usable=True), made(2, 2, usable=True)], (2, "unstable")),
        ([made(1, 1, sd=1.1, usable=True), made(2, 200, sd=99)], (1, "diverges")),
    ],
)
def test_a_verdict_says_how_far_a_bound_is_usable_and_what_happens_beyond(
    levels: list[dict[str, Any]], expected: tuple[float | None, str]
) -> None:
    found = verdict(levels)
    assert (found["usable_to"], found["shape"]) == expected
    assert found["slope"] == pytest.approx(levels[1]["estimate"] - levels[0]["estimate"])


def test_a_gap_in_usable_levels_ends_the_usable_range() -> None:
    levels = [made(1, 1, usable=True), made(2, 1), made(3, 3, usable=True)]
    assert verdict(levels)["usable_to"] == 1


def test_levels_that_do_not_increase_are_refused() -> None:
    with pytest.raises(ValueError, match="increasing"):
        Calibration(levels=(1.0, 1.0))


def test_a_calibration_is_the_same_every_time_and_is_written_with_its_settings(tmp_path: Path) -> None:
    spec = {"levels": [0, "1/2"], "steps": 3, "seeds": 2, "batches": 2, "hidden": 4, "batch_size": 4}
    step.run(spec=spec, out=tmp_path / "a.json")
    step.run(spec=spec, out=tmp_path / "b.json")
    text = (tmp_path / "a.json").read_text()
    assert text == (tmp_path / "b.json").read_text()
    found = json.loads(text)
    assert found["spec"]["levels"] == [0.0, 0.5] and found["spec"]["lr"] == 0.01
    assert found["capacity"] == pytest.approx(math.log(4))
    assert [bound["name"] for bound in found["bounds"]] == list(BOUNDS)
    assert all(len(row["seeds"]) == 2 for bound in found["bounds"] for row in bound["levels"])
    assert "commit" in found["provenance"]
    other = calibrate(
        Calibration(levels=(0, 0.5), steps=3, seeds=2, batches=2, hidden=4, batch_size=4, seed=1)
    )
    assert other["bounds"] != found["bounds"]
    with pytest.raises(ConfigError, match=r"calibration\.stepz"):
        step.run(spec={"stepz": 3}, out=tmp_path / "c.json")


# The decomposition


def random_joint(seed: int, *, deterministic: bool, by_sum: bool) -> tuple[Tensor, Tensor]:
    """p(x, n, z) of 4 images, 3 noises (with zeros), 5 outputs, x + n on a line."""
    rng = torch.Generator().manual_seed(seed)
    weights = torch.rand(4, 3, generator=rng, dtype=torch.float64)
    weights[0, 1] = 0
    merged = torch.arange(4)[:, None] + torch.arange(3)[None, :]
    shape = (6, 5) if by_sum else (4, 3, 5)
    channel = torch.rand(shape, generator=rng, dtype=torch.float64)
    if deterministic:
        channel = (channel == channel.amax(-1, keepdim=True)).double()
    channel = channel / channel.sum(-1, keepdim=True)
    if by_sum:
        channel = channel[merged]
    return (weights / weights.sum())[:, :, None] * channel, merged


@given(st.integers(0, 2**32), st.booleans(), st.booleans())
def test_the_theorem_holds_exactly_on_random_joint_distributions(
    seed: int, deterministic: bool, by_sum: bool
) -> None:
    found = decompose(*random_joint(seed, deterministic=deterministic, by_sum=by_sum))
    right = found.natural + found.adversarial - found.interaction
    right += found.noise_given_parts - found.noise_given_sum
    assert abs(found.total - right) < 1e-10
    if by_sum:  # an output of the sum: the entropies cancel, and the corollary misses the interaction
        assert abs(found.noise_given_parts - found.noise_given_sum) < 1e-10
        assert abs(found.residual + found.interaction) < 1e-10
    if deterministic:
        assert abs(found.noise_given_parts) < 1e-10


def test_the_terms_of_the_theorem_are_not_all_zero_on_such_distributions() -> None:
    found = decompose(*random_joint(0, deterministic=False, by_sum=False))
    assert min(map(abs, found)) > 1e-3
    assert abs(found.noise_given_parts - found.noise_given_sum) > 1e-3


@given(st.integers(0, 2**32))
def test_noise_that_is_a_function_of_the_image_makes_the_corollary_wrong_by_all_it_tells(seed: int) -> None:
    joint, merged = random_joint(seed, deterministic=True, by_sum=True)
    chosen = torch.randint(3, (4,), generator=torch.Generator().manual_seed(seed))
    joint = torch.where((torch.arange(3)[None, :] == chosen[:, None])[:, :, None], joint, 0)
    if joint.sum() < 1e-3:
        return
    found = decompose(joint / joint.sum(), merged)
    assert found.total == pytest.approx(found.natural, abs=1e-10)
    assert found.residual == pytest.approx(-found.adversarial, abs=1e-10)


@pytest.mark.parametrize("strength", [0.0, 0.3, 1.0])
def test_an_output_that_shows_only_whether_two_bits_differ_is_missed_by_the_corollary(
    strength: float,
) -> None:
    found = synergy(strength)
    assert found.total == pytest.approx((2 - strength) * LOG2)
    assert found.natural == found.adversarial == pytest.approx((1 - strength) * LOG2)
    assert found.residual == pytest.approx(strength * LOG2, abs=1e-12)


@pytest.mark.parametrize("strength", [0.0, 0.3, 1.0])
def test_noise_that_copies_the_image_is_counted_twice_by_the_corollary(strength: float) -> None:
    same = (1 + strength) / 2
    binary = -sum(p * math.log(p) for p in (same, 1 - same) if p > 0)
    found = coupling(strength)
    assert found.natural == pytest.approx(LOG2) and found.adversarial == pytest.approx(LOG2)
    assert found.residual == pytest.approx(binary - LOG2, abs=1e-12)


def test_the_rows_of_both_families_grow_in_residual_from_zero() -> None:
    found = interactions()
    assert {row["family"] for row in found} == {"synergy", "coupling"} and len(found) == 12
    for family, sign in (("synergy", 1), ("coupling", -1)):
        residuals = [sign * row["residual"] for row in found if row["family"] == family]
        assert residuals[0] == pytest.approx(0, abs=1e-12) and residuals == sorted(residuals)
        assert residuals[-1] == pytest.approx(LOG2)


def test_entropy_and_information_of_fair_bits() -> None:
    fair = torch.full((2, 2), 0.25, dtype=torch.float64)
    assert entropy(fair) == pytest.approx(2 * LOG2) and information(fair) == pytest.approx(0, abs=1e-12)
    assert information(torch.eye(2, dtype=torch.float64) / 2) == pytest.approx(LOG2)


def test_probabilities_that_do_not_add_to_one_are_refused() -> None:
    with pytest.raises(ValueError, match="add to 1"):
        decompose(torch.full((2, 2, 2), 0.25, dtype=torch.float64), torch.arange(4).view(2, 2))


def test_the_residual_is_what_the_two_kept_terms_leave() -> None:
    assert Decomposition(3.0, 1.0, 0.5, 0, 0, 0).residual == 1.5
