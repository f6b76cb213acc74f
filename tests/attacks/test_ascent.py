"""The one loop, its rules, and the attacks that are PGD with other settings."""

from typing import Any

import pytest
import torch
from oracle_models import linear_problem, small_network
from torch import Tensor, nn

from deconfound.attacks.ascent import Ascent, Steepest, climb
from deconfound.attacks.autoattack import AutoAttack
from deconfound.attacks.bim import BIM
from deconfound.attacks.eot import EOT
from deconfound.attacks.fgsm import FGSM
from deconfound.attacks.mim import MIM
from deconfound.attacks.pgd import PGD
from deconfound.errors import ConfigError
from deconfound.registry import build
from deconfound.threat import ThreatModel


def fresh(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def problem() -> tuple[nn.Module, Tensor, Tensor]:
    model = small_network(dropout=0.0).eval()
    x = torch.rand(40, 1, 4, 4, generator=fresh(3))
    return model, x, model(x).argmax(1)


STOPPING: list[Any] = [
    PGD(eps=0.2, steps=8),
    PGD(eps=0.2, steps=8, restarts=3, score="margin"),
    BIM(eps=0.2, score="dlr"),
    MIM(eps=0.3, norm="l2"),
]


@pytest.mark.parametrize("attack", STOPPING)
def test_early_stop_breaks_whatever_the_last_iterates_break(attack: Any) -> None:
    from dataclasses import replace

    model, x, y = problem()
    whole = model(attack(model, x, y, rng=fresh())).argmax(1) != y
    once = model(replace(attack, early_stop=True)(model, x, y, rng=fresh())).argmax(1) != y
    assert whole.sum() > 0 and not (whole & ~once).any()


def test_the_images_that_are_left_take_the_same_steps_as_if_nobody_had_left() -> None:
    from dataclasses import replace

    model, x, y = problem()
    attack = PGD(eps=0.2, steps=6)
    once = replace(attack, early_stop=True)(model, x, y, rng=fresh())
    whole = attack(model, x, y, rng=fresh())
    stands = model(once).argmax(1) == y
    assert 0 < stands.sum() < 40
    assert torch.allclose(once[stands], whole[stands], atol=1e-6)


def test_the_loop_hands_each_image_its_own_rows_after_others_have_left() -> None:
    x = torch.zeros(4, 1, 1, 1)
    seen: list[list[int]] = []

    def look(z: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        seen.append(rows.tolist())
        return z.flatten(1).sum(1), z.flatten(1).sum(
            1
        ).detach() >= rows / 10 + 0.05  # row k leaves at step k + 1

    found = climb(look, x, x, Steepest(ThreatModel(eps=1), 0.1), steps=3, early_stop=True)
    assert seen == [[0, 1, 2, 3], [0, 1, 2, 3], [1, 2, 3]]
    assert torch.allclose(found.flatten(), torch.tensor([0.1, 0.2, 0.3, 0.3]))


def test_momentum_accumulates_gradients_of_mean_one() -> None:
    x = torch.full((1, 1, 1, 2), 0.5)
    gradients = iter([torch.tensor([3.0, -1.0]), torch.tensor([-1.0, 1.0])])
    fixed: list[Tensor] = []

    def look(z: Tensor, rows: Tensor) -> tuple[Tensor, None]:
        fixed.append(next(gradients))
        return (z.flatten(1) * fixed[-1]).sum(1), None

    found = climb(look, x, x, Steepest(ThreatModel(norm="l2", eps=1), 0.1, momentum=0.5), steps=2)
    first = torch.tensor([1.5, -0.5])  # the gradient over its mean absolute value
    second = torch.tensor([-1.0, 1.0]) + 0.5 * first
    assert torch.allclose(found.flatten() - 0.5, 0.1 * first / first.norm() + 0.1 * second / second.norm())


def test_the_loop_of_a_defense_and_that_of_an_attack_take_the_same_path() -> None:
    model, x, y = linear_problem()
    from deconfound.attacks.scores import cross_entropy

    ascent = Ascent(threat=ThreatModel(eps=0.05), step_size=0.02, steps=4, momentum=0.3)
    one = ascent(lambda z: cross_entropy(model(z), y), x, rng=fresh())
    other = PGD(eps=0.05, step_size=0.02, steps=4, momentum=0.3)(model, x, y, rng=fresh())
    assert torch.equal(one, other)


def test_bim_is_pgd_from_the_image_itself_and_mim_adds_momentum() -> None:
    model, x, y = problem()
    plain: dict[str, Any] = {"eps": 0.1, "steps": 5, "step_size": 0.02, "random_start": False}
    assert torch.equal(
        BIM(eps=0.1, steps=5)(model, x, y, rng=fresh()), PGD(**plain)(model, x, y, rng=fresh())
    )
    mim, pgd = MIM(eps=0.1, steps=5, momentum=0.7), PGD(**plain, momentum=0.7)
    assert torch.equal(mim(model, x, y, rng=fresh()), pgd(model, x, y, rng=fresh()))
    without = MIM(eps=0.1, steps=5, momentum=0)(model, x, y, rng=fresh())
    assert torch.equal(without, PGD(**plain)(model, x, y, rng=fresh()))


class Drawing(nn.Module):
    """A linear model whose gradient is buried in noise that is drawn at each call."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, _, _ = linear_problem()

    def forward(self, x: Tensor) -> Tensor:
        noise = torch.randn(len(x), 12)
        return self.inner(x) + (x.flatten(1) * noise).sum(1, keepdim=True) * torch.tensor([-1.0, 1.0])


def test_the_mean_of_many_gradients_finds_the_direction_that_one_gradient_misses() -> None:
    model, (_, x, y) = Drawing(), linear_problem()
    gains = []
    for samples in (1, 400):
        torch.manual_seed(0)
        attack = EOT(attack={"kind": "fgsm", "eps": 0.05}, samples=samples)
        found = attack(model, x, y, rng=fresh())
        gains.append(((model.inner.margin(found) - model.inner.margin(x)) * (1 - 2 * y)).mean().item())
    best = 0.05 * model.inner.w.norm(p=1).item()
    assert gains[1] > 0.5 * best and gains[1] > 2 * gains[0]


def test_eot_of_one_sample_of_a_model_that_does_not_draw_is_the_attack_itself() -> None:
    model, x, y = problem()
    block = {"kind": "pgd", "eps": 0.1, "steps": 3}
    alone = PGD(eps=0.1, steps=3)(model, x, y, rng=fresh())
    assert torch.equal(EOT(attack=block, samples=1)(model, x, y, rng=fresh()), alone)
    assert torch.allclose(EOT(attack=block, samples=3)(model, x, y, rng=fresh()), alone, atol=1e-6)
    assert EOT(attack=block).threat == ThreatModel(eps=0.1)


def test_only_an_attack_that_ascends_can_be_averaged() -> None:
    from deconfound.attacks import ATTACKS

    for block in ({"kind": "square", "eps": 0.1}, {"kind": "transfer", "attack": "pgd"}):
        with pytest.raises(ConfigError, match=r"attacks\.x\.attack: expected an attack that ascends"):
            build(ATTACKS, {"kind": "eot", "attack": block}, at="attacks.x")


@pytest.mark.parametrize(
    ("version", "members"),
    [
        ("standard", ["apgd_cross_entropy", "apgd_targeted", "fab_targeted", "square"]),
        ("plus", ["apgd_cross_entropy", "apgd_dlr", "fab", "square", "apgd_targeted", "fab_targeted"]),
        ("rand", ["apgd_cross_entropy", "apgd_dlr"]),
    ],
)
def test_autoattack_has_the_members_of_its_version(version: Any, members: list[str]) -> None:
    attack = AutoAttack(eps=0.1, norm="l2", version=version, samples=7)
    found = attack.members()
    assert list(found) == members
    assert all(member.threat == attack.threat for member in found.values())
    if version == "rand":
        assert [member.samples for member in found.values()] == [7, 7]
    if version == "plus":
        assert [found[name].restarts for name in ("apgd_cross_entropy", "apgd_dlr", "fab")] == [5, 5, 5]


def test_autoattack_moves_only_the_images_that_it_breaks() -> None:
    model, x, y = problem()
    found = AutoAttack(eps=0.1, steps=10, queries=50)(model, x, y, rng=fresh())
    broken = model(found).argmax(1) != y
    moved = (found != x).flatten(1).any(1)
    assert torch.equal(broken, moved) and 0 < broken.sum() < 40


def test_autoattack_breaks_whatever_its_first_member_breaks() -> None:
    model, x, y = problem()
    attack = AutoAttack(eps=0.1, steps=10, queries=50)
    first = attack.members()["apgd_cross_entropy"](model, x, y, rng=fresh())
    broken = model(attack(model, x, y, rng=fresh())).argmax(1) != y
    assert not ((model(first).argmax(1) != y) & ~broken).any()


def test_one_step_of_fgsm_and_of_bim_with_one_step_are_the_same() -> None:
    model, x, y = problem()
    assert torch.equal(
        FGSM(eps=0.1)(model, x, y, rng=fresh()), BIM(eps=0.1, steps=1)(model, x, y, rng=fresh())
    )
