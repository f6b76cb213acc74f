"""JSMA: the pair it picks, the pixels it may change, and when it ends."""

from itertools import combinations
from typing import get_args

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from nearest_oracle import Planes, planes
from oracle_models import small_network
from torch import Tensor

from deconfound.attacks import jsma
from deconfound.attacks.jsma import JSMA, Aim, best_pair, targets
from deconfound.errors import NoGradientError


def fresh(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def brute_force(alpha: Tensor, beta: Tensor, free: Tensor) -> tuple[int, int] | None:
    """The definition, pair by pair, of one image (D,)."""
    best, most = None, 0.0
    for p, q in combinations(range(len(alpha)), 2):
        gain, loss = float(alpha[p] + alpha[q]), float(beta[p] + beta[q])
        if free[p] and free[q] and gain > 0 and loss < 0 and -gain * loss > most:
            best, most = (p, q), -gain * loss
    return best


@given(st.integers(1, 9), st.integers(0, 10_000), st.booleans())
def test_the_pair_is_the_one_that_brute_force_finds(pixels: int, seed: int, few: bool) -> None:
    rng = fresh(seed)
    alpha, beta = torch.randn(4, pixels, generator=rng), torch.randn(4, pixels, generator=rng)
    free = torch.rand(4, pixels, generator=rng) < (0.4 if few else 0.9)
    pair, exists = best_pair(alpha, beta, free, candidates=pixels)
    for row in range(4):
        expected = brute_force(alpha[row], beta[row], free[row])
        assert bool(exists[row]) == (expected is not None)
        if expected is not None:
            assert tuple(pair[row].tolist()) == expected


def test_of_many_pixels_the_most_promising_are_compared_and_saturated_ones_never() -> None:
    alpha, beta = torch.tensor([[5.0, 0.1, 3.0, 2.0]]), torch.tensor([[-5.0, -0.1, -3.0, -2.0]])
    free = torch.tensor([[False, True, True, True]])
    pair, exists = best_pair(alpha, beta, free, candidates=2)
    assert pair.tolist() == [[2, 3]] and exists.all()


def test_images_are_split_into_portions_without_a_trace(monkeypatch: pytest.MonkeyPatch) -> None:
    alpha, beta = torch.randn(7, 6, generator=fresh()), torch.randn(7, 6, generator=fresh(1))
    free = torch.ones(7, 6, dtype=torch.bool)
    whole = best_pair(alpha, beta, free, 6)
    monkeypatch.setattr(jsma, "PAIRS", 2 * 36)
    parts = best_pair(alpha, beta, free, 6)
    assert torch.equal(whole[0], parts[0]) and torch.equal(whole[1], parts[1])


@pytest.mark.parametrize("seed", range(8))
def test_on_six_pixels_a_round_moves_the_best_pair_of_a_linear_model(seed: int) -> None:
    w = torch.randn(3, 6, generator=fresh(seed))
    model = Planes(w, torch.tensor([100.0, 0.0, 0.0]))  # nothing fools it, so the round is not cut short
    x = torch.rand(1, 1, 2, 3, generator=fresh(seed)) * 0.5
    attack = JSMA(eps=0.34, aim="next", theta=0.25)  # 2 of 6 pixels: one round, towards class 1
    moved = (attack(model, x, torch.zeros(1).long(), rng=fresh()) - x).flatten()
    expected = brute_force(w[1], w[0] + w[2], torch.ones(6, dtype=torch.bool))
    wanted = torch.zeros(6)
    if expected is not None:
        wanted[list(expected)] = 0.25
    assert torch.allclose(moved, wanted, atol=1e-6)


@pytest.mark.parametrize("aim", get_args(Aim))
@pytest.mark.parametrize("eps", [0.0, 0.1, 0.3, 0.5, 1.0])
def test_no_more_pixels_change_than_two_per_round_and_each_stays_in_the_box(aim: Aim, eps: float) -> None:
    model, x = small_network().eval(), torch.rand(12, 1, 4, 4, generator=fresh())
    y = model(x).argmax(1)
    z = JSMA(eps=eps, aim=aim, theta=0.7)(model, x, y, rng=fresh())
    changed = (z != x).flatten(1).sum(1)
    assert changed.max() <= 2 * int(16 * eps / 2) and z.min() >= 0 and z.max() <= 1
    assert bool(changed.any()) == (eps > 0.1)


def test_in_colour_a_pixel_is_all_its_channels() -> None:
    w = torch.zeros(2, 3, 2, 2)
    w[1, :, 0, 0] = torch.tensor([1.0, -0.2, 1.0])  # together the best, one channel points down
    w[1, :, 1, 1] = 0.3
    model = Planes(torch.cat([-w[1:], w[1:]]).flatten(1), torch.tensor([100.0, 0.0]))
    x = torch.full((1, 3, 2, 2), 0.5)
    z = JSMA(eps=0.5)(model, x, torch.zeros(1).long(), rng=fresh())
    assert z[0, :, [0, 1], [0, 1]].eq(1).all() and z[0, :, [0, 1], [1, 0]].eq(0.5).all()


def test_a_saturated_channel_says_nothing_about_its_pixel() -> None:
    w = torch.zeros(2, 2, 1, 3)
    w[1, 0] = torch.tensor([9.0, 1.0, 1.0])
    w[1, 1] = torch.tensor([-1.0, 0.0, 0.0])
    model = Planes(torch.cat([-w[1:], w[1:]]).flatten(1), torch.tensor([100.0, 0.0]))
    x = torch.full((1, 2, 1, 3), 0.5)
    x[0, 0, 0, 0] = 1  # the large weight is spent; what can still move would lower the target
    z = JSMA(eps=1.0)(model, x, torch.zeros(1).long(), rng=fresh())
    assert (z != x).any(1).flatten().tolist() == [False, True, True]


def test_it_stops_at_the_first_error_whatever_the_target() -> None:
    model = Planes(
        torch.tensor([[-3.0, -3, -0.1, -0.1], [1.0, 1, 0.6, 0.6], [1.0, 0, 0, 0]]),
        torch.tensor([1.5, -9, 0]),
    )
    x = torch.zeros(1, 1, 2, 2)
    z = JSMA(eps=1.0, aim="next")(model, x, torch.zeros(1).long(), rng=fresh())
    assert model(z).argmax() == 2 and (z != x).sum() == 2  # the aim was 1, and there was room for two rounds
    model.b.data[0] = 100.0
    assert (JSMA(eps=1.0, aim="next")(model, x, torch.zeros(1).long(), rng=fresh()) != x).all()


def test_an_image_on_which_the_model_errs_already_is_left_as_it_is() -> None:
    model, x, y = planes(4)
    wrong = (y + 1) % 4
    assert torch.equal(JSMA(eps=1.0)(model, x, wrong, rng=fresh()), x)


def test_without_an_admissible_pair_nothing_moves_and_the_search_ends() -> None:
    model = Planes(torch.tensor([[1.0] * 16, [1.0] * 16]), torch.tensor([1.0, 0.0]))  # all rise alike
    x = torch.full((1, 1, 4, 4), 0.5)
    z = JSMA(eps=1.0)(model, x, torch.zeros(1).long(), rng=fresh())
    assert torch.equal(z, x) and model.forwards == 4  # clean, two looks, and the verdict


def test_all_aims_break_what_any_aim_breaks() -> None:
    model, x, y = planes(5, count=60)
    broken = {
        aim: model(JSMA(eps=0.5, aim=aim, theta=0.3)(model, x, y, rng=fresh())).argmax(1) != y
        for aim in get_args(Aim)
    }
    assert broken["all"].sum() > broken["least_likely"].sum()
    for found in broken.values():
        assert (broken["all"] | ~found).all()


def test_aims_are_wrong_classes_in_their_order() -> None:
    logits, y = torch.tensor([[3.0, 1.0, 2.0, 0.0], [0.0, 1.0, 2.0, 3.0]]), torch.tensor([0, 3])
    found = {aim: targets(logits, y, aim, rng=fresh()).tolist() for aim in get_args(Aim)}
    assert found["all"] == [[2, 1, 3], [2, 1, 0]]
    assert found["likeliest"] == [[2], [2]] and found["least_likely"] == [[3], [0]]
    assert found["next"] == [[1], [0]]
    many = targets(torch.zeros(600, 4), torch.arange(600) % 4, "random", rng=fresh()).flatten()
    shift = (many - torch.arange(600)) % 4
    assert torch.bincount(shift, minlength=4)[0] == 0 and torch.bincount(shift)[1:].min() > 150


def test_a_model_without_a_gradient_is_refused() -> None:
    class Flat(Planes):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x).detach()

    model = Flat(torch.zeros(2, 16), torch.tensor([1.0, 0.0]))
    with pytest.raises(NoGradientError):
        JSMA(eps=1.0)(model, torch.zeros(1, 1, 4, 4), torch.zeros(1).long(), rng=fresh())
