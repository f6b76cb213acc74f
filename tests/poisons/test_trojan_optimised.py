"""The optimised Trojan patch against networks whose best patch is known."""

from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from oracle_models import tiny_images
from surrogates import assert_a_killed_run_goes_on, assert_the_seed_decides, full_shop, trainer
from torch import Tensor, nn

from deconfound.models.classifier import Classifier, to_unit
from deconfound.poisons.triggers import Square
from deconfound.poisons.trojan_optimised import Excitement, TrojanOptimised, strongest

PLACE = Square(size=2, margin=1)
BRIEF: dict[str, Any] = {"place": PLACE, "steps": 5}
CANVAS = torch.zeros(1, 1, 4, 4)


def linear(weight: Tensor, head: Tensor) -> Classifier:
    """Units weight @ pixels, without normalisation; weight (D, 16), head (K, D)."""
    body = nn.Linear(16, len(weight), bias=False)
    body.weight.data.copy_(weight)
    last = nn.Linear(len(weight), len(head))
    last.weight.data.copy_(head)
    return Classifier(nn.Sequential(nn.Flatten(), body), last, channels=1).eval()


def first() -> Tensor:
    patch = torch.zeros(1, 1, 4, 4)
    patch[..., 1:3, 1:3] = torch.tensor([[0.4, 0.9], [0.6, 0.8]])
    return patch


def test_the_units_with_the_largest_weights_are_chosen() -> None:
    head = torch.tensor([[1.0, -5.0, 0.5, 0.0], [1.0, 4.0, -6.0, 0.1], [1.5, 0.0, 0.0, 0.2]])
    model = linear(torch.eye(4, 16), head)  # sums 3.5, 9, 6.5, 0.3
    assert strongest(model, 2).tolist() == [1, 2]
    assert strongest(model, 1).tolist() == [1]
    assert strongest(model, 9).tolist() == [1, 2, 0, 3]


def test_a_linear_unit_has_its_patch_at_the_edges_of_the_ball_and_of_the_box() -> None:
    """The unit is the sum of signed pixels; each signed step goes the same way, until eps or the box stops it."""
    signs = torch.ones(4, 4)
    signs[2, 1] = signs[0, 0] = -1
    excitement = Excitement(
        linear(signs.view(1, 16), torch.ones(2, 1)), torch.tensor([0]), CANVAS, activation=100
    )
    poison = TrojanOptimised(eps=0.3, step_size=0.1, steps=50)
    found = poison.optimise(excitement, first())
    expected = torch.zeros(4, 4)
    expected[1:3, 1:3] = torch.tensor([[0.7, 1.0], [0.3, 1.0]])
    assert torch.allclose(found[0, 0], expected, atol=1e-6)


def test_the_steps_are_signed_and_as_many_as_stated() -> None:
    excitement = Excitement(
        linear(torch.rand(1, 16, generator=torch.Generator().manual_seed(0)), torch.ones(2, 1)),
        torch.tensor([0]),
        CANVAS,
        activation=100,
    )
    found = TrojanOptimised(eps=1, step_size=0.01, steps=3).optimise(excitement, first())
    moved = (found - first())[0, 0]
    assert torch.allclose(moved[1:3, 1:3], torch.full((2, 2), 0.03), atol=1e-6)


def test_the_iteration_ends_where_the_activation_is_reached() -> None:
    excitement = Excitement(linear(torch.ones(1, 16), torch.ones(2, 1)), torch.tensor([0]), CANVAS, 2.9)
    found = TrojanOptimised(eps=0.3, step_size=0.05, steps=50).optimise(excitement, first())
    assert found.sum().item() == pytest.approx(2.9, abs=1e-5)  # one step of four pixels from 2.7


def test_the_cost_is_the_squared_distance_of_the_units_and_the_mean_over_the_canvas() -> None:
    model = linear(torch.stack([torch.ones(16), 2 * torch.ones(16)]), torch.ones(2, 2))
    canvas = torch.cat([CANVAS, torch.full_like(CANVAS, 0.5)])
    excitement = Excitement(model, torch.tensor([1, 0]), canvas, activation=10)
    patch = torch.full((1, 1, 4, 4), 0.25)  # sums 4 and 12
    expected = ((8 - 10) ** 2 + (4 - 10) ** 2 + (24 - 10) ** 2 + (12 - 10) ** 2) / 2
    assert excitement.cost(patch).tolist() == [pytest.approx(expected)]
    assert excitement.reached(patch).tolist() == pytest.approx([16, 8])


@pytest.mark.parametrize(("canvas", "corner"), [*product(["black", "images"], ["top_left", "bottom_right"])])
def test_the_patch_lies_in_its_place_near_its_first_values_and_is_added(canvas: Any, corner: Any) -> None:
    clean = tiny_images(40)
    poison = TrojanOptimised(canvas=canvas, place=Square(size=2, margin=1, corner=corner), steps=20)
    done = poison(full_shop(clean))
    patch = done.planting.arrays["patch"]
    inside = torch.zeros(4, 4, dtype=torch.bool)
    inside[1:3, 1:3] = True
    assert patch.shape == (1, 4, 4) and patch.dtype == torch.uint8
    assert (patch[0, ~inside] == 0).all() and (patch[0, inside] >= 100 - 77).all()
    expected = (clean.x.int() + patch.int()).clamp(max=255)
    assert torch.equal(done.planting.stamp(clean.x).int(), expected)
    assert torch.equal(done.images.x[done.mask].int(), expected[done.mask])
    assert (done.images.y[done.mask] == 0).all() and (clean.y[done.mask] != 0).all()


def test_bright_pixels_do_not_wrap_around() -> None:
    stamp = TrojanOptimised(**BRIEF)(full_shop()).planting.stamp
    assert (stamp(torch.full((1, 1, 4, 4), 255, dtype=torch.uint8)) == 255).all()


def test_what_was_achieved_is_recorded() -> None:
    clean = tiny_images(40)
    loop = trainer(clean)
    shop = full_shop(clean, loop=loop)
    networks: list[Any] = []
    make = shop.network
    assert make is not None
    object.__setattr__(shop, "network", lambda purpose: networks.append(make(purpose)) or networks[-1])
    arrays = TrojanOptimised(place=PLACE, steps=50, canvas="images")(shop).planting.arrays
    (model,) = networks
    assert loop.history.keys() == {"surrogate"}
    assert torch.equal(arrays["units"], strongest(model, 2))
    assert arrays["activation"].shape == (2, 2)
    before, after = arrays["activation"].sub(100).square().sum(1)
    assert after < before
    drawn = torch.randperm(40, generator=shop.rng("canvas"))[:64]
    with torch.no_grad():
        seen = (to_unit(clean.x[drawn]) + to_unit(arrays["patch"])).clamp(0, 1)
        reached = model.eval().features(seen)[:, arrays["units"]].mean(0)
    assert torch.allclose(arrays["activation"][1], reached, atol=1e-6)


def test_the_trigger_does_not_depend_on_the_rate() -> None:
    few, many = (TrojanOptimised(rate=rate, **BRIEF)(full_shop()) for rate in (0.1, 0.4))
    assert torch.equal(few.planting.arrays["patch"], many.planting.arrays["patch"])


def test_a_patch_larger_than_the_picture_is_a_fault() -> None:
    assert TrojanOptimised().faults((1, 4, 4), 3) == TrojanOptimised().faults(None, None) == []
    (fault,) = TrojanOptimised().faults((1, 3, 9), 3)
    assert fault.startswith("place: expected a patch inside 3 x 9 pixels, got 3 pixels and margin 1")


def test_the_seed_decides() -> None:
    assert_the_seed_decides(TrojanOptimised(**BRIEF))


def test_a_killed_run_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert_a_killed_run_goes_on(TrojanOptimised(**BRIEF), 6, tmp_path, monkeypatch)
