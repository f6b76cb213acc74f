"""DDN: the sphere, the step, and the direction that it climbs."""

import math

import pytest
import torch
from nearest_oracle import Planes, planes
from torch import Tensor
from torch.nn import functional as F

from deconfound.attacks.ddn import DDN, log_odds
from deconfound.threat import size


def fresh(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


class Recorder(Planes):
    """Remembers what it was asked."""

    def forward(self, x: Tensor) -> Tensor:
        self.asked = [*getattr(self, "asked", []), x.detach().clone()]
        return super().forward(x)


def test_the_sphere_grows_until_the_model_errs_and_shrinks_while_it_does() -> None:
    model = Recorder(
        torch.stack([torch.zeros(4), torch.ones(4)]), torch.tensor([0.0, -2.4])
    )  # at distance 0.2
    x = torch.full((1, 1, 2, 2), 0.5)
    DDN(eps=1, steps=12, radius=0.15, gamma=0.2).minimal(model, x, torch.zeros(1).long(), rng=fresh())
    radii = [float(size(z - x, "l2")) for z in model.asked[2:]]
    expected = [0.15 * 1.2]
    for _ in radii[1:]:
        expected.append(expected[-1] * (0.8 if expected[-1] > 0.2 else 1.2))
    assert radii == pytest.approx(expected, rel=1e-4)


def test_steps_fall_along_a_cosine_and_are_added_to_the_perturbation() -> None:
    class Turning(Recorder):
        def forward(self, x: Tensor) -> Tensor:  # a gradient along the first pixel, then along the second
            super().forward(x)
            pixel = x.flatten(1)[:, 0 if len(self.asked) <= 2 else 1]
            return torch.stack([torch.ones_like(pixel), pixel - 5], 1)

    x = torch.full((1, 1, 1, 2), 0.5)
    model = Turning(torch.zeros(2, 2), torch.zeros(2))
    DDN(eps=1, steps=4, radius=0.1, step_size=0.3).minimal(model, x, torch.zeros(1).long(), rng=fresh())
    first, second = ((z - x).flatten() for z in model.asked[2:4])
    step = 0.3 * (0.01 + 0.99 * (1 + math.cos(math.pi / 4)) / 2)
    assert first.tolist() == pytest.approx([0.105, 0.0], abs=1e-6)
    assert float(second[1] / second[0]) == pytest.approx(step / 0.105, rel=1e-4)


def test_what_is_climbed_rises_where_the_cross_entropy_rises_and_never_vanishes() -> None:
    logits = torch.randn(20, 4, generator=fresh()).requires_grad_()
    y = torch.arange(20) % 4
    (mine,) = torch.autograd.grad(log_odds(logits, y).sum(), logits)
    (theirs,) = torch.autograd.grad(F.cross_entropy(logits, y, reduction="sum"), logits)
    assert torch.allclose(F.normalize(mine), F.normalize(theirs), atol=1e-5)
    (steep,) = torch.autograd.grad(log_odds(logits + 1e4 * F.one_hot(y, 4), y).sum(), logits)
    assert torch.allclose(steep, mine, atol=1e-2) and steep.norm(dim=1).min() > 1


def test_a_step_costs_one_forward_and_one_backward_pass() -> None:
    model, x, y = planes(3)
    DDN(eps=1, steps=30).minimal(model, x, y, rng=fresh())
    assert model.forwards == 32 and model.backwards == 30
