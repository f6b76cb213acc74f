"""Carlini & Wagner: tanh space, Adam, and the search for c."""

from typing import Any

import pytest
import torch
from nearest_oracle import Planes, planes
from torch import Tensor

from deconfound.attacks import cw_l2
from deconfound.attacks.ascent import Point
from deconfound.attacks.cw_l2 import Adam, CarliniWagner, from_tanh, to_tanh


def fresh(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_tanh_space_holds_every_image_and_nothing_else() -> None:
    x = torch.tensor([0.0, 1e-3, 0.5, 1.0])
    assert torch.allclose(from_tanh(to_tanh(x)), x, atol=1e-6) and to_tanh(x).isfinite().all()
    assert from_tanh(torch.tensor([-1e9, 1e9])).tolist() == [0, 1]


def test_the_rule_takes_the_steps_of_adam_in_tanh_space() -> None:
    w = torch.tensor([[-0.4, 0.3, 2.0]]).requires_grad_()
    goal = torch.tensor([[0.9, 0.2, 0.5]])
    adam = torch.optim.Adam([w], lr=0.05, eps=cw_l2.GUARD)
    z = from_tanh(w.detach().clone())
    at, move = Point(torch.zeros(1).long(), z, z, torch.zeros(1), torch.zeros_like(z)), Adam(0.05)
    for step in range(30):
        adam.zero_grad()
        (from_tanh(w) - goal).square().sum().backward()
        adam.step()
        at.gradient = -2 * (at.z - goal)
        at.z = move(step, at)
        assert torch.allclose(at.z, from_tanh(w), atol=1e-4)


def test_c_grows_until_the_model_errs_and_is_then_halved_into(monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[float] = []

    class Spy(cw_l2.Run):
        def __init__(self, *args: Any, **options: Any) -> None:
            super().__init__(*args, **options)
            tried.append(float(self.c))
            self.fooled[:] = tried[-1] >= 0.4

        def __call__(self, z: Tensor, places: Tensor) -> tuple[Tensor, Tensor]:
            return (z * 0).flatten(1).sum(1), torch.ones(1, dtype=torch.bool)

    monkeypatch.setattr(cw_l2, "Run", Spy)
    model, x, y = planes(2, count=1)
    CarliniWagner(eps=1, searches=6, initial_c=0.01).minimal(model, x, y, rng=fresh())
    assert tried == pytest.approx([0.01, 0.1, 1, 0.55, 0.325, 0.4375])


def test_the_loss_is_distance_plus_c_times_the_margin_that_is_missing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = Planes(torch.tensor([[0.0, 0.0], [1.0, 0.0]]), torch.tensor([0.0, -0.7]))
    seen: list[Tensor] = []
    call = cw_l2.Run.__call__

    def watched(self: cw_l2.Run, z: Tensor, places: Tensor) -> tuple[Tensor, Tensor]:
        score, done = call(self, z, places)
        pixel = z.detach().flatten(1)[:, 0]
        expected = (z.detach() - x).square().sum() + 3 * (0.7 - pixel).clamp_min(0)
        seen.append(torch.isclose(-score.detach(), expected, atol=1e-5))
        return score, done

    monkeypatch.setattr(cw_l2.Run, "__call__", watched)
    x = torch.tensor([0.5, 0.5]).view(1, 1, 1, 2)
    CarliniWagner(eps=1, steps=60, searches=1, initial_c=3).minimal(
        model, x, torch.zeros(1).long(), rng=fresh()
    )
    assert len(seen) > 20 and all(bool(one) for one in seen)


def test_a_run_drops_images_without_progress() -> None:
    model, x, y = planes(2)
    with torch.no_grad():
        model.w *= 0
        model.b += torch.tensor([5.0, 0.0])
    model.images = 0
    CarliniWagner(eps=1, steps=200, searches=1).minimal(model, x, torch.zeros_like(y), rng=fresh())
    assert model.images <= 42 * len(x)


def test_pixels_at_the_edge_of_the_box_can_move() -> None:
    model = Planes(torch.tensor([[0.0, 0.0], [4.0, -1.0]]), torch.tensor([0.0, 0.0]))
    x = torch.tensor([0.0, 1.0]).view(1, 1, 1, 2)  # 4 a - b = 0 is nearest at a = 4 / 17
    x_adv = CarliniWagner(eps=1).minimal(model, x, torch.zeros(1).long(), rng=fresh())
    assert (x_adv - x).flatten().tolist() == pytest.approx([4 / 17, -1 / 17], abs=0.01)
