"""APGD: the schedule of the paper, step sizes that halve when they should, and exact worst cases."""

import pytest
import torch
from oracle_models import DUAL, Linear, linear_problem, small_network
from torch import Tensor, nn

from deconfound.attacks.apgd import APGD, Halving, checkpoints
from deconfound.attacks.apgd_targeted import TargetedAPGD
from deconfound.attacks.ascent import Point, climb
from deconfound.attacks.scores import SCORES, margin
from deconfound.threat import Norm, ThreatModel

NORMS: tuple[Norm, ...] = ("linf", "l2", "l1")


def fresh(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_the_checkpoints_of_a_hundred_steps_are_those_of_the_paper() -> None:
    assert sorted(checkpoints(100)) == [22, 41, 57, 70, 80, 87, 93, 99]
    assert sorted(checkpoints(1)) == [] and sorted(checkpoints(5)) == [1, 2, 3, 4]


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("eps", [0.0, 0.01, 0.03, 0.1])
def test_it_finds_the_exact_worst_case_of_a_linear_model(norm: Norm, eps: float) -> None:
    model, x, y = linear_problem()
    radius = model.margin(x).abs() / model.w.norm(p=DUAL[norm])
    found = APGD(eps=eps, norm=norm, steps=60)(model, x, y, rng=fresh())
    gained = (model.margin(found) - model.margin(x)) * (1 - 2 * y)
    assert torch.allclose(gained, eps * model.w.norm(p=DUAL[norm]).expand(64), rtol=0.02, atol=1e-6)
    clear = (radius - eps).abs() > 0.02 * eps + 1e-6
    assert torch.equal((model(found).argmax(1) != y)[clear], (radius < eps)[clear])


class Planes(nn.Module):
    """K random linear scores: the distance to each wrong class is exact."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.randn(classes, 12, generator=fresh(classes)) / 6)

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1) @ self.w.T


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("classes", [2, 3, 4, 7])
def test_the_targeted_form_breaks_exactly_the_images_within_reach_of_some_wrong_class(
    classes: int, norm: Norm
) -> None:
    model, eps = Planes(classes), 0.08 if norm == "linf" else 0.25
    x = torch.rand(200, 3, 2, 2, generator=fresh(1)) * 0.5 + 0.25
    logits = model(x).detach()
    y = logits.argmax(1)
    gap = logits.gather(1, y[:, None]) - logits
    length = (model.w[y][:, None] - model.w[None]).norm(p=DUAL[norm], dim=2).detach()
    radius = torch.where(gap > 0, gap / length.clamp_min(1e-9), torch.inf).amin(1)
    found = TargetedAPGD(eps=eps, norm=norm, steps=40, targets=classes)(model, x, y, rng=fresh())
    clear = (radius - eps).abs() > 0.002
    assert 0 < (radius < eps).sum() < 200
    assert torch.equal((model(found).argmax(1) != y)[clear], (radius < eps)[clear])


@pytest.mark.parametrize("score", ["cross_entropy", "margin", "dlr"])
def test_what_it_returns_scores_no_less_than_its_start_or_plain_ascent_with_as_many_steps(score: str) -> None:
    model = small_network(dropout=0.0).eval()
    x, y = torch.rand(30, 1, 4, 4, generator=fresh()), torch.arange(30) % 3
    attack = APGD(eps=0.1, steps=20, score=score)
    start = attack.threat.random_start(x, rng=fresh(5))
    found = attack(model, x, y, rng=fresh(5))
    assert (SCORES[score](model(found), y) >= SCORES[score](model(start), y) - 1e-6).all()


def test_more_restarts_never_lower_the_margin() -> None:
    model = small_network(dropout=0.0).eval()
    x, y = torch.rand(30, 1, 4, 4, generator=fresh()), torch.arange(30) % 3
    margins = [
        margin(model(APGD(eps=0.1, steps=5, restarts=n)(model, x, y, rng=fresh(2))), y) for n in (1, 2, 4)
    ]
    assert (margins[1] >= margins[0]).all() and (margins[2] >= margins[1]).all()


def walk(values: list[float], steps: int = 100) -> Point:
    """A point of one image after a walk on which the score took the given values, step by step."""
    rule = Halving(ThreatModel(eps=0.1), steps, 0.75)
    x = torch.full((1, 1, 1, 2), 0.5)
    at = Point(torch.arange(1), x, x.clone(), torch.zeros(1), torch.ones_like(x))
    for step, value in enumerate(values):
        at.value = torch.tensor([value])
        at.z = rule(step, at)
    return at


def test_the_first_step_has_size_two_eps_and_stays_as_long_as_the_score_rises() -> None:
    rising = [float(i) for i in range(43)]
    assert walk(rising[:1]).memory["size"].item() == pytest.approx(0.2)
    assert walk(rising).memory["size"].item() == pytest.approx(0.2)


def test_a_score_that_rises_too_seldom_halves_the_step_at_the_checkpoint_and_goes_back_to_the_best() -> None:
    seldom = [0.0, 5.0] + [1.0] * 21  # one rise in 22 steps
    before, after = walk(seldom[:22]), walk(seldom[:23])
    assert before.memory["size"].item() == pytest.approx(0.2)
    assert after.memory["size"].item() == pytest.approx(0.1)
    assert torch.equal(after.memory["previous"], after.memory["best"])


def test_three_quarters_of_rises_are_not_enough_and_one_more_is() -> None:
    # from step 22 to 41 there are 19 comparisons; 0.75 of them are 14.25
    head = [float(i) for i in range(23)]
    for rises, halved in ((14, True), (15, False)):
        tail = [23.0 + i for i in range(rises)] + [0.0] * (19 - rises)
        size = walk(head + tail).memory["size"].item()
        assert size == pytest.approx(0.1 if halved else 0.2), rises


def test_a_best_score_that_stands_still_since_the_last_check_halves_the_step_unless_it_was_just_halved() -> (
    None
):
    head = [0.0, 50.0] + [1.0 + i for i in range(21)]  # rises 21 of 22 times, after a high value
    onwards = [30.0 + i / 10 for i in range(19)]  # rises on, and never reaches the best again
    assert walk(head).memory["size"].item() == pytest.approx(0.2)
    assert walk(head + onwards).memory["size"].item() == pytest.approx(0.1)
    last = [40.0 + i / 10 for i in range(16)]
    assert walk(head + onwards + last).memory["size"].item() == pytest.approx(0.1)


def test_the_best_iterate_may_be_the_last_one() -> None:
    x = torch.full((1, 1, 1, 2), 0.5)
    rule = Halving(ThreatModel(eps=0.1), 3, 0.75)
    found = climb(lambda z, rows: (z.flatten(1).sum(1), None), x, x, rule, steps=3)
    assert torch.allclose(found, x + 0.1)


def test_an_image_on_which_the_model_errs_is_left_where_it_first_did() -> None:
    model, x, y = Linear(torch.full((12,), 0.1)), torch.full((40, 3, 2, 2), 0.43), torch.ones(40).long()
    once = APGD(eps=0.3, steps=30, early_stop=True)(model, x, y, rng=fresh())
    far = APGD(eps=0.3, steps=30)(model, x, y, rng=fresh())
    assert (model(once).argmax(1) == 0).all()
    start = ThreatModel(eps=0.3).random_start(x, rng=fresh())
    erring = model(start).argmax(1) == 0
    assert 0 < erring.sum() < 40 and torch.equal(once[erring], start[erring])
    assert (model.margin(once) >= model.margin(far) - 1e-6).all()
