"""Measures of shift, on maps drawn by hand and on maps that must not differ."""

import pytest
import torch
from networks import fresh
from scipy import stats
from torch import Tensor

from deconfound.attributions.shift import (
    SHIFTS,
    absolute_cosine,
    another_of_the_class,
    centre_shift,
    cosine,
    gini,
    local_top_k,
    mass_distance,
    noisy_twin,
    normalised,
    shifts,
    signed_spearman,
    sparsity_change,
    spearman,
    top_k,
)
from deconfound.errors import UserError

NEAR_ONE = ["spearman", "signed_spearman", "top_k", "local_top_k", "cosine", "absolute_cosine"]


def noise(seed: int, count: int = 6, channels: int = 3, side: int = 20) -> Tensor:
    return torch.randn(count, channels, side, side, generator=fresh(seed))


def points(*places: tuple[int, int], side: int = 6, count: int = 1) -> Tensor:
    found = torch.zeros(count, 1, side, side)
    for row, column in places:
        found[:, :, row, column] = 1
    return found


def test_identical_maps_do_not_differ_in_any_measure() -> None:
    found = shifts(noise(0), noise(0))
    assert set(found) == set(SHIFTS) and all(value.shape == (6,) for value in found.values())
    for name, value in found.items():
        wanted = torch.full((6,), float(name in NEAR_ONE), dtype=torch.float64)
        assert torch.allclose(value, wanted, atol=1e-6), name


@pytest.mark.parametrize("name", SHIFTS)
def test_the_size_of_a_map_does_not_matter_and_rows_are_their_own(name: str) -> None:
    a, b = noise(0), noise(1)
    found = SHIFTS[name](a, b)
    assert torch.allclose(SHIFTS[name](a, 100 * b), found, atol=1e-6)
    assert torch.allclose(SHIFTS[name](a.flip(0), b.flip(0)), found.flip(0), atol=1e-12)
    assert torch.allclose(SHIFTS[name](a[2:3], b[2:3]), found[2:3], atol=1e-12)


@pytest.mark.parametrize("name", SHIFTS)
def test_measures_are_symmetric_but_a_change_of_sparsity_changes_its_sign(name: str) -> None:
    a, b = noise(0), noise(1).pow(3)
    sign = -1 if name == "sparsity_change" else 1
    assert torch.allclose(SHIFTS[name](a, b), sign * SHIFTS[name](b, a), atol=1e-12)


def test_independent_maps_agree_by_chance_alone() -> None:
    found = {name: float(value.mean()) for name, value in shifts(noise(0, 40), noise(1, 40)).items()}
    assert (
        abs(found["spearman"]) < 0.02 and abs(found["signed_spearman"]) < 0.02 and abs(found["cosine"]) < 0.02
    )
    assert found["top_k"] == pytest.approx(0.1, abs=0.02)
    assert found["local_top_k"] > 3 * found["top_k"]  # chance grows with the window


def test_rank_correlation_is_that_of_scipy_with_ties() -> None:
    a, b = noise(0, 3, 1, 5).round(), noise(1, 3, 1, 5).round()
    for i, value in enumerate(spearman(a, b).tolist()):
        wanted = stats.spearmanr(a[i].abs().flatten(), b[i].abs().flatten()).statistic
        assert value == pytest.approx(wanted, abs=1e-12)
    for i, value in enumerate(signed_spearman(a, b).tolist()):
        assert value == pytest.approx(stats.spearmanr(a[i].flatten(), b[i].flatten()).statistic, abs=1e-12)


def test_channels_are_summed_after_taking_absolute_values() -> None:
    cancelling = torch.cat([noise(0, 2, 1), -noise(0, 2, 1)], 1)
    assert torch.allclose(spearman(cancelling, noise(0, 2, 1).expand(-1, 2, -1, -1)), torch.ones(2).double())
    assert (cosine(cancelling, -cancelling) + 1).abs().max() < 1e-9
    assert (absolute_cosine(cancelling, -cancelling) - 1).abs().max() < 1e-9


def test_top_k_counts_the_pixels_that_both_have() -> None:
    a, b = points((0, 0), (0, 2), (5, 5), (3, 3)), points((0, 0), (0, 3), (5, 4), (1, 1))
    assert top_k(a, b, 4 / 36).item() == 0.25
    assert (
        local_top_k(a, b, 4 / 36, 1).item() == 1 - 1 / 8
    )  # (3, 3) alone has no neighbour; (1, 1) has (0, 0), (0, 2)
    assert local_top_k(a, b, 4 / 36, 0).item() == 0.25
    assert local_top_k(a, b, 4 / 36, 2).item() == 1
    assert top_k(a, b, 1e-9).item() == 1  # never fewer than one pixel: the first of the ties


def test_mass_and_its_centre_move_as_far_as_the_map() -> None:
    a, b = points((0, 0)), points((3, 4)) * 7
    assert mass_distance(a, b).item() == 2 and centre_shift(a, b).item() == 5
    half = points((0, 0), (3, 4))
    assert mass_distance(a, half).item() == 1 and centre_shift(a, half).item() == 2.5


def test_the_gini_index_is_0_for_a_flat_map_and_nearly_1_for_a_point() -> None:
    flat, point = torch.ones(1, 2, 6, 6), points((2, 2))
    assert gini(flat).item() == pytest.approx(0, abs=1e-12) and gini(point).item() == pytest.approx(35 / 36)
    assert sparsity_change(flat, point.expand(1, 2, 6, 6)).item() == pytest.approx(35 / 36)


def test_what_is_not_defined_is_not_a_number() -> None:
    found = shifts(torch.zeros(1, 1, 5, 5), noise(0, 1, 1, 5))
    for name in set(SHIFTS) - {"top_k", "local_top_k"}:
        assert found[name].isnan().all(), name
    with pytest.raises(UserError, match="same shape"):
        shifts(noise(0), noise(0)[:2])


# Controls


@pytest.mark.parametrize("eps", [0.0, 0.03, 0.3])
def test_noise_of_the_same_size_in_the_largest_pixel(eps: float) -> None:
    x = torch.rand(8, 3, 6, 6, generator=fresh()) * 0.4 + 0.3
    sizes = torch.linspace(0, eps, 8).view(-1, 1, 1, 1)
    x_adv = x + sizes * torch.rand(x.shape, generator=fresh(1)).round()
    delta = noisy_twin(x, x_adv, norm="linf", rng=fresh()) - x
    assert torch.allclose(delta.abs(), sizes.expand_as(x), atol=1e-6)
    assert torch.equal(noisy_twin(x, x_adv, norm="linf", rng=fresh()) - x, delta)
    edge = noisy_twin(x.round(), (x.round() + 0.1).clamp(0, 1), norm="linf", rng=fresh())
    assert edge.min() >= 0 and edge.max() <= 1


def test_noise_of_the_same_length_even_where_the_box_cuts_it() -> None:
    x = torch.rand(6, 3, 6, 6, generator=fresh()).round()  # every pixel at an edge
    x_adv = x.clone()
    x_adv[:, 0, 0] = 0.5
    twin = noisy_twin(x, x_adv, norm="l2", rng=fresh())
    wanted = (x_adv - x).flatten(1).norm(dim=1)
    assert torch.allclose((twin - x).flatten(1).norm(dim=1), wanted, atol=1e-5)
    assert twin.min() >= 0 and twin.max() <= 1
    still = noisy_twin(x, x, norm="l2", rng=fresh())
    assert torch.allclose(still, x, atol=1e-6)


def test_the_floor_pairs_every_image_with_another_one_of_its_class() -> None:
    y = torch.tensor([2, 0, 1, 0, 2, 1, 2, 0])
    places = another_of_the_class(y, rng=fresh())
    assert torch.equal(y[places], y) and (places != torch.arange(8)).all()
    assert places.sort().values.tolist() == list(range(8))
    with pytest.raises(UserError, match="class 5"):
        another_of_the_class(torch.tensor([0, 0, 5]), rng=fresh())


def test_a_normalised_measure_is_1_at_the_noise_and_0_at_the_floor() -> None:
    floor, noise_ = torch.tensor([0.2, 0.2, 0.3]), torch.tensor([0.8, 0.8, 0.3])
    found = normalised(torch.tensor([0.8, 0.2, 0.5]), floor=floor, noise=noise_)
    assert found[:2].tolist() == [1, 0] and found[2].isnan()
    assert normalised(torch.tensor(0.5), floor=floor[0], noise=noise_[0]).item() == pytest.approx(0.5)
