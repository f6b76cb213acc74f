"""The substitute: what it asks of the model, how its images grow, and whether what it finds transfers."""

import pytest
import torch
from oracle_models import Linear, linear_problem, small_network
from torch import Tensor, nn

from deconfound.attacks.substitute import Known, Substitute, agreement, augmented
from deconfound.models.classifier import predict
from deconfound.threat import ThreatModel


def fresh(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


class Mute(nn.Module):
    """A model that says 1 for its label and 0 for the others, counts what it is asked, and has no gradient to give."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner, self.asked = inner, 0

    def forward(self, x: Tensor) -> Tensor:
        assert not (torch.is_grad_enabled() and x.requires_grad)
        self.asked += len(x)
        logits = self.inner(x).detach()
        return nn.functional.one_hot(logits.argmax(1), logits.shape[1]).float()


def batch(count: int = 60) -> tuple[Tensor, Tensor]:
    return torch.rand(count, 1, 4, 4, generator=fresh()), torch.arange(count) % 3


@pytest.mark.parametrize("network", ["mlp", "cnn"])
def test_labels_are_all_that_it_takes_from_the_model(network: str) -> None:
    model, (x, y) = small_network(), batch()
    attack = Substitute(eps=0.1, seeds=20, rounds=2, fits=5, network=network, width=4)
    assert torch.equal(attack(model, x, y, rng=fresh(1)), attack(Mute(model).eval(), x, y, rng=fresh(1)))


@pytest.mark.parametrize(("seeds", "rounds", "expected"), [(20, 0, 20), (20, 2, 80), (100, 1, 120)])
def test_it_asks_about_the_seeds_and_as_many_again_with_every_round(
    seeds: int, rounds: int, expected: int
) -> None:
    (x, y), model = batch(), Mute(small_network())
    found = Substitute(eps=0.1, seeds=seeds, rounds=rounds, fits=2, width=4).learnt(model, x, y, rng=fresh())
    assert found.asked == model.asked == len(found.known.x) == expected
    assert torch.equal(found.known.x[: min(seeds, 60)], x[:seeds])
    assert torch.equal(found.known.labels, predict(model, found.known.x).argmax(1))
    before = model.asked
    Substitute(eps=0.1, seeds=seeds, rounds=rounds, fits=2, width=4)(model, x, y, rng=fresh())
    assert model.asked - before == expected  # the ascent itself asks nothing


def test_a_new_image_lies_a_step_up_the_probability_of_its_label() -> None:
    student = Linear(torch.tensor([1.0, -2.0, 0.0, 0.5]))
    x = torch.tensor([[0.5, 0.5, 0.5, 0.95], [0.5, 0.02, 0.5, 0.5]]).view(2, 1, 2, 2)
    found = augmented(student, Known(x, torch.tensor([1, 0])), 0.1).flatten(1)
    assert torch.allclose(found, torch.tensor([[0.6, 0.4, 0.5, 1.0], [0.4, 0.12, 0.5, 0.4]]))


def test_a_step_is_seen_where_the_probability_has_long_vanished() -> None:
    student = Linear(torch.full((4,), 200.0))
    x = torch.full((1, 1, 2, 2), 0.9)  # the model says 0, the student is sure of 1
    assert torch.allclose(augmented(student, Known(x, torch.tensor([0])), 0.1), x - 0.1)


def test_the_student_of_a_linear_model_agrees_with_it_and_what_fools_the_one_fools_the_other() -> None:
    rng = fresh(3)
    model, x = Linear(torch.randn(16, generator=rng)), torch.rand(300, 1, 4, 4, generator=rng)
    model.w.data *= 0.5 / (x.flatten(1) @ model.w.data).mean()
    y = (model.margin(x) > 0).long().detach()
    attack = Substitute(eps=0.06, seeds=100, rounds=2, fits=30, width=16, lr=0.01, steps=10)
    agrees = agreement(model, attack.learnt(model, x, y, rng=fresh(1)).student, x[100:])
    assert agrees.shape == (200,) and agrees.double().mean() > 0.85
    broken = predict(model, attack(model, x, y, rng=fresh(1))).argmax(1) != y
    signs = attack.eps * (torch.rand(x.shape, generator=fresh(2)) - 0.5).sign()
    noise = predict(model, (x + signs).clamp(0, 1)).argmax(1) != y
    assert broken[100:].double().mean() > 2 * noise[100:].double().mean() + 0.1


@pytest.mark.parametrize("network", ["mlp", "cnn"])
def test_the_student_learns_what_it_was_told(network: str) -> None:
    x, y = batch(30)
    model = Mute(nn.Sequential(nn.Flatten(), nn.Linear(16, 3, bias=False)))
    model.inner[1].weight.data = torch.eye(4)[:3].repeat_interleave(
        4, 1
    )  # class k is the brightness of row k
    attack = Substitute(eps=0.1, seeds=30, rounds=0, fits=40, network=network, width=8, lr=0.02)
    student = attack.learnt(model, x, y, rng=fresh()).student
    assert agreement(model, student, x).double().mean() > 0.9


def test_agreement_is_of_labels() -> None:
    one, other = Linear(torch.tensor([1.0, 0.0])), Linear(torch.tensor([0.0, 2.0]))
    x = torch.tensor([[0.9, 0.9], [0.9, 0.1], [0.1, 0.9], [0.1, 0.1]]).view(4, 1, 1, 2)
    assert agreement(one, other, x).tolist() == [True, False, False, True]


def test_images_after_the_seeds_teach_nothing_and_are_attacked_all_the_same() -> None:
    model, (x, y) = small_network(), batch()
    attack = Substitute(eps=0.1, seeds=20, rounds=1, fits=5, width=4)
    one = attack.learnt(model, x, y, rng=fresh()).student
    other = attack.learnt(model, torch.cat([x[:20], 1 - x[20:]]), y, rng=fresh()).student
    assert torch.equal(predict(one, x), predict(other, x))
    found = attack(model, x, y, rng=fresh())
    assert (found != x).flatten(1).any(1).all()


def test_the_ascent_leaves_the_true_labels_not_those_that_the_student_was_taught() -> None:
    model, x, y = linear_problem()
    attack = Substitute(eps=0.05, seeds=64, rounds=1, width=8, fits=20, steps=10)
    student = attack.learnt(model, x, 1 - y, rng=fresh()).student  # the labels are not looked at
    left = [
        predict(student, attack(model, x, labels, rng=fresh())).diff(dim=1).flatten() for labels in (y, 1 - y)
    ]
    assert ((left[1] - left[0]) * (2 * y - 1) >= 0).all() and (left[1] != left[0]).double().mean() > 0.7


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_the_budget_is_that_of_the_norm(norm: str) -> None:
    model, (x, y) = small_network(), batch(10)
    attack = Substitute(eps=0.2, norm=norm, rounds=0, fits=2, width=4)
    found = attack(model, x, y, rng=fresh())
    assert attack.threat == ThreatModel(norm=norm, eps=0.2) and attack.threat.contains(x, found).all()


def test_a_flat_seed_does_not_divide_by_nothing() -> None:
    x, y = torch.full((3, 1, 4, 4), 0.5), torch.tensor([0, 1, 2])
    assert Substitute(eps=0.1, rounds=1, fits=2, width=4)(small_network(), x, y, rng=fresh()).isfinite().all()
