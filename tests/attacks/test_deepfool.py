"""DeepFool: its overshoot, its choice of a class, and how soon it ends."""

import pytest
import torch
from nearest_oracle import Planes, planes
from oracle_models import linear_problem

from deconfound.attacks.deepfool import DeepFool


def fresh(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("overshoot", [0.02, 0.1])
def test_the_answer_lies_behind_the_boundary_by_the_overshoot(overshoot: float) -> None:
    model = Planes(
        torch.tensor([[0.0, 0.0], [3.0, 4.0]]), torch.tensor([0.0, -4.0])
    )  # from (0.5, 0.5): 0.1 away
    x = torch.full((1, 1, 1, 2), 0.5)
    x_adv = DeepFool(eps=1, overshoot=overshoot).minimal(model, x, torch.zeros(1).long(), rng=fresh())
    way = 0.1 * (1 + overshoot)
    assert (x_adv - x).flatten().tolist() == pytest.approx([0.6 * way, 0.8 * way], abs=3e-4)


@pytest.mark.parametrize(("norm", "winner"), [("l2", 1), ("linf", 2)])
def test_the_norm_decides_which_boundary_is_nearest(norm: str, winner: int) -> None:
    w = torch.tensor([[0.0] * 4, [1.0, 0.0, 0.0, 0.0], [0.6, 0.6, 0.6, 0.6]])  # dual norms 1, 1 and 1.2, 2.4
    gap = torch.tensor([0.0, -0.1, -0.15])  # l2: 0.1 and 0.125; linf: 0.1 and 0.0625
    x = torch.full((1, 1, 2, 2), 0.5)
    model = Planes(w, gap - w.sum(1) * 0.5)
    x_adv = DeepFool.__call__(DeepFool(eps=1, norm=norm), model, x, torch.zeros(1).long(), rng=fresh())  # type: ignore
    assert model(x_adv).argmax() == winner


def test_a_linear_model_is_left_after_one_step() -> None:
    linear, x, y = linear_problem()
    model = Planes(torch.stack([-linear.w, linear.w]).detach(), torch.tensor([0.5, -0.5]))
    x_adv = DeepFool(eps=1).minimal(model, x, y, rng=fresh())
    assert model.forwards == 3 and (model(x_adv).argmax(1) != y).all()  # clean, first look, and the answer


@pytest.mark.parametrize(("candidates", "passes"), [(1, 1), (2, 3), (9, 4)])
def test_candidates_bound_the_backward_passes_of_a_step(candidates: int, passes: int) -> None:
    model, x, y = planes(4)
    DeepFool(eps=1, steps=1, candidates=candidates).minimal(model, x, y, rng=fresh())
    assert model.backwards == passes
