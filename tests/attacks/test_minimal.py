"""What every attack of minimal norm promises: exact distances of linear models, verified answers, untouched rest."""

from typing import Any

import pytest
import torch
from nearest_oracle import Planes, exact, planes
from oracle_models import DUAL, Linear, linear_problem, small_network
from torch import Tensor, nn

from deconfound.attacks.boundary import FAR
from deconfound.attacks.cw_l2 import CarliniWagner
from deconfound.attacks.ddn import DDN
from deconfound.attacks.deepfool import DeepFool
from deconfound.attacks.fab import FAB
from deconfound.attacks.minimal import Closest
from deconfound.attacks.victim import attacking
from deconfound.errors import AttackError, NoGradientError
from deconfound.models.classifier import predict
from deconfound.threat import size

ATTACKS: dict[str, Any] = {
    "FAB linf": FAB(eps=0.05, steps=60),
    "FAB l2": FAB(eps=0.15, norm="l2", steps=60),
    "untargeted FAB": FAB(eps=0.05, steps=60, targeted=False),
    "CW": CarliniWagner(eps=0.15),
    "DDN": DDN(eps=0.15, steps=300),
    "DeepFool linf": DeepFool(eps=0.05, norm="linf"),
    "DeepFool l2": DeepFool(eps=0.15),
}
QUICK = ATTACKS | {"CW": CarliniWagner(eps=0.15, steps=120, searches=5, step_size=0.05), "DDN": DDN(eps=0.15)}
precisely = pytest.mark.parametrize("attack", ATTACKS.values(), ids=ATTACKS)
each = pytest.mark.parametrize("attack", QUICK.values(), ids=QUICK)


def fresh(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def excess(attack: Any) -> float:
    """By which part of the distance an answer may be too long."""
    if isinstance(attack, DeepFool):
        return attack.overshoot + 1e-3
    return 2e-3 if isinstance(attack, FAB) else 0.02


@precisely
def test_the_distance_to_a_single_boundary_is_exact(attack: Any) -> None:
    model, x, y = linear_problem()
    radius = (model.margin(x).abs() / model.w.norm(p=DUAL[attack.threat.norm])).detach()

    x_adv = attack.minimal(model, x, y, rng=fresh())

    found = size(x_adv - x, attack.threat.norm)
    assert (model(x_adv).argmax(1) != y).all()
    assert (found >= radius * (1 - 1e-4)).all()
    assert (found <= radius * (1 + excess(attack)) + 1e-3).all()


@precisely
def test_exactly_the_images_within_eps_are_broken(attack: Any) -> None:
    model, x, y = linear_problem()
    radius = (model.margin(x).abs() / model.w.norm(p=DUAL[attack.threat.norm])).detach()

    x_adv = attack(model, x, y, rng=fresh())

    broken = model(x_adv).argmax(1) != y
    clear = (radius - attack.eps).abs() > attack.eps * excess(attack)
    assert torch.equal(broken[clear], (radius < attack.eps)[clear]) and 10 < broken.sum() < 54
    assert torch.equal(x_adv[~broken], x[~broken])
    assert attack.threat.contains(x, x_adv).all()


@pytest.mark.parametrize("classes", [2, 3, 5])
@precisely
def test_with_several_classes_the_nearest_boundary_counts(attack: Any, classes: int) -> None:
    model, x, y = planes(classes)
    x_adv = attack.minimal(model, x, y, rng=fresh())
    found, least = size(x_adv - x, attack.threat.norm), exact(model, x, y, attack.threat.norm)
    assert (model(x_adv).argmax(1) != y).all() and x_adv.min() >= 0 and x_adv.max() <= 1
    assert (found >= least * (1 - 1e-4)).all()
    if classes > 2 and isinstance(
        attack, CarliniWagner | DDN
    ):  # what they climb mixes classes, or ends at another one
        assert found.sum() <= 1.12 * least.sum()
    else:
        assert (found <= least * (1 + excess(attack)) + 1e-3).all()


@each
def test_images_on_which_the_model_errs_are_returned_as_they_are(attack: Any) -> None:
    model, x, y = linear_problem()
    flipped = torch.arange(64) % 3 == 0
    x_adv = attack.minimal(model, x, torch.where(flipped, 1 - y, y), rng=fresh())
    assert torch.equal(x_adv[flipped], x[flipped])
    assert torch.equal(attack(model, x, torch.where(flipped, 1 - y, y), rng=fresh())[flipped], x[flipped])
    assert (x_adv != x)[~flipped].flatten(1).any(1).all()


@each
def test_without_a_gradient_the_images_stay_and_nothing_is_nan(attack: Any) -> None:
    x, y = linear_problem()[1], torch.zeros(64).long()
    with torch.no_grad():
        flat = Planes(torch.zeros(3, 12), torch.tensor([1.0, 0.0, -1.0]))
    for found in (attack.minimal(flat, x, y, rng=fresh()), attack(flat, x, y, rng=fresh())):
        assert torch.equal(found, x)


class Switched(nn.Module):
    """Logits that depend on images with a bright first pixel only, and steeply."""

    def forward(self, x: Tensor) -> Tensor:
        m = 1e4 * (x.flatten(1)[:, 1] - 0.9) * (x.flatten(1)[:, 0] > 0.5)
        return torch.stack([torch.ones_like(m), m + 1 - 1e-3], 1)


@each
def test_images_without_a_gradient_do_not_disturb_the_others(attack: Any) -> None:
    x = torch.full((2, 1, 2, 2), 0.6)
    x[0, 0, 0, 0] = 0.0
    x_adv = attack.minimal(Switched(), x, torch.zeros(2).long(), rng=fresh())
    assert torch.equal(x_adv[0], x[0])
    assert x_adv.isfinite().all() and x_adv[1, 0, 0, 1] > 0.9


@each
def test_logits_that_do_not_depend_on_the_image_are_refused(attack: Any) -> None:
    class Deaf(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.tensor([[1.0, 0.0, 0.0]]).repeat(len(x), 1)

    with pytest.raises(NoGradientError):
        attack(Deaf(), linear_problem()[1], torch.zeros(64).long(), rng=fresh())


@each
def test_a_boundary_outside_the_box_is_not_found(attack: Any) -> None:
    model, x, y = linear_problem()
    unreachable = Planes(torch.stack([-model.w, model.w]).detach(), torch.tensor([9.0, -9.0]))
    zero = torch.zeros_like(y)
    assert torch.equal(attack.minimal(unreachable, x, zero, rng=fresh()), x)


@each
def test_every_answer_is_verified_on_a_network(attack: Any) -> None:
    model = small_network().eval()
    x = torch.rand(40, 1, 4, 4, generator=fresh())
    y = predict(model, x).argmax(1)
    x_adv = attack.minimal(model, x, y, rng=fresh())
    moved = (x_adv != x).flatten(1).any(1)
    assert torch.equal(predict(model, x_adv).argmax(1) != y, moved) and moved.float().mean() > 0.8
    assert x_adv.min() >= 0 and x_adv.max() <= 1
    near = size(x_adv - x, attack.threat.norm) <= attack.eps
    assert torch.equal(attack(model, x, y, rng=fresh())[near], x_adv[near])


@each
def test_no_image_influences_another_and_the_generator_decides(attack: Any) -> None:
    model = small_network()
    x = torch.rand(6, 1, 4, 4, generator=fresh())
    y = predict(model, x).argmax(1)
    together = attack.minimal(model, x, y, rng=fresh())
    apart = [attack.minimal(model, x[i : i + 1], y[i : i + 1], rng=fresh()) for i in range(6)]
    assert torch.allclose(together, torch.cat(apart), atol=2e-3)
    assert torch.equal(together, attack.minimal(model, x, y, rng=fresh()))


@pytest.mark.parametrize(
    "attack",
    [
        FAB(eps=0.05, steps=15, early_stop=True),
        FAB(eps=0.05, steps=10, restarts=3, early_stop=True),
        FAB(eps=0.3, norm="l1", steps=15, early_stop=True),
        FAB(eps=0.15, norm="l2", steps=15, targeted=False, early_stop=True),
        DDN(eps=0.4, steps=60, early_stop=True),
        CarliniWagner(eps=0.15, steps=40, searches=5, early_stop=True),
    ],
    ids=repr,
)
def test_an_early_stop_saves_passes_and_changes_no_verdict(attack: Any) -> None:
    patient = type(attack)(**{**vars(attack), "early_stop": False})
    model, x, y = planes(4, count=60)
    first = attack(model, x, y, rng=fresh())
    quick, model.images = model.images, 0
    second = patient(model, x, y, rng=fresh())
    broken = model(first).argmax(1) != y
    assert torch.equal(broken, model(second).argmax(1) != y) and 5 < broken.sum() < 55
    assert quick < 0.9 * model.images
    assert attack.threat.contains(x, first).all()


@each
def test_faulty_images_are_refused_even_where_nothing_is_to_do(attack: Any) -> None:
    model, x, y = linear_problem()
    with pytest.raises(AttackError, match="pixels in"):
        type(attack)(eps=0)(model, x + 1, y, rng=fresh())


def test_the_closest_of_all_adversarial_images_is_kept() -> None:
    x, y = torch.full((3, 1, 1, 1), 0.5), torch.zeros(3).long()
    model = Linear(torch.ones(1))
    rows = torch.tensor([2, 0])
    with attacking(model, x, y) as victim:
        found = Closest(victim, x, "linf", reach=0.1)
        for move, wrong in (
            (0.3, [True, True]),
            (0.2, [True, False]),
            (0.25, [True, True]),
            (0.05, [False, True]),
        ):
            found.offer(rows, x[rows] + move, torch.tensor(wrong))
    assert (found.best - x).flatten().tolist() == pytest.approx([0.05, 0, 0.2])
    assert found.distance.tolist() == pytest.approx([0.05, torch.inf, 0.2])
    assert found.wrong.tolist() == [True, False, False] and found.standing().tolist() == [1, 2]
    assert found.distance[1] > FAR
