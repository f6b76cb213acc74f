"""The feature adversary: whom it approaches, how near it comes, and what restarts add."""

from typing import Any

import pytest
import torch
from oracle_models import Linear, small_network
from torch import Tensor, nn

from deconfound.attacks.feature_adversary import FeatureAdversary, guides
from deconfound.errors import AttackError
from deconfound.models.classifier import Classifier, eval_mode
from deconfound.threat import Norm, ThreatModel


def fresh(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def pixels_as_features() -> Classifier:
    """Features are the four pixels themselves; two classes."""
    head = nn.Linear(4, 2)
    with torch.no_grad():
        head.weight.copy_(torch.tensor([[1.0, 0, 0, 0], [0, 1.0, 0, 0]]))
        head.bias.zero_()
    return Classifier(nn.Flatten(), head, channels=1)


def batch() -> tuple[Classifier, Tensor, Tensor]:
    return small_network(), torch.rand(12, 1, 4, 4, generator=fresh()), torch.arange(12) % 3


def distances(model: Classifier, x: Tensor, y: Tensor, z: Tensor, guide: Any = "nearest") -> Tensor:
    with eval_mode(model), torch.no_grad():
        goal, _ = guides(model.features(x), y, guide)
        return (model.features(z) - goal).norm(dim=1)


def test_the_guide_is_the_nearest_image_of_another_class() -> None:
    features, y = torch.tensor([[0.0], [1.0], [4.0], [3.5]]), torch.tensor([0, 0, 1, 2])
    goal, exists = guides(features, y, "nearest")
    assert goal.flatten().tolist() == [3.5, 3.5, 3.5, 4.0] and exists.all()


def test_or_the_nearest_mean_of_another_class() -> None:
    features, y = torch.tensor([[0.0], [1.0], [4.0], [6.0], [9.0]]), torch.tensor([5, 5, 1, 1, 2])
    goal, exists = guides(features, y, "class_mean")
    assert (
        goal.flatten().tolist() == [5.0, 5.0, 0.5, 9.0, 5.0] and exists.all()
    )  # 6 is 3 from 9, 5.5 from 0.5


@pytest.mark.parametrize("guide", ["nearest", "class_mean"])
def test_the_guide_does_not_depend_on_the_order_of_the_batch(guide: Any) -> None:
    features, y = torch.randn(9, 5, generator=fresh()), torch.arange(9) % 4
    order = torch.randperm(9, generator=fresh())
    goal, _ = guides(features, y, guide)
    turned, _ = guides(features[order], y[order], guide)
    assert torch.allclose(turned, goal[order], atol=1e-6)


def test_a_batch_of_one_class_has_no_guide_and_does_not_move() -> None:
    model, x, y = batch()
    attack = FeatureAdversary(eps=0.2)
    assert torch.equal(attack(model, x, torch.zeros_like(y), rng=fresh()), x)
    assert torch.equal(attack(model, x[:1], y[:1], rng=fresh()), x[:1])


def test_where_features_are_pixels_the_image_comes_as_near_as_the_ball_allows() -> None:
    model = pixels_as_features()
    x = torch.tensor([[0.6, 0.4, 0.5, 0.2], [0.4, 0.6, 0.5, 0.25]]).view(2, 1, 2, 2)
    z = FeatureAdversary(eps=0.1, steps=100)(model, x, torch.tensor([0, 1]), rng=fresh())
    expected = torch.tensor([[0.5, 0.5, 0.5, 0.25], [0.5, 0.5, 0.5, 0.2]]).view(2, 1, 2, 2)
    assert torch.allclose(z, expected, atol=2.6e-3)  # one step


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_it_comes_nearer_and_stays_in_the_ball(norm: Norm) -> None:
    model, x, y = batch()
    eps = {"linf": 0.1, "l2": 0.3, "l1": 1.0}[norm]
    z = FeatureAdversary(eps=eps, norm=norm, steps=30)(model, x, y, rng=fresh())
    assert ThreatModel(norm=norm, eps=eps).contains(x, z).all()
    before, after = distances(model, x, y, x), distances(model, x, y, z)
    assert (after <= before).all() and after.mean() < 0.8 * before.mean()


@pytest.mark.parametrize("guide", ["nearest", "class_mean"])
def test_restarts_never_move_away_from_the_guide(guide: Any) -> None:
    model, x, y = batch()
    nearest = distances(model, x, y, x, guide)
    for restarts in (1, 2, 4, 8):
        attack = FeatureAdversary(eps=0.1, steps=3, restarts=restarts, guide=guide)
        now = distances(model, x, y, attack(model, x, y, rng=fresh()), guide)
        assert (now <= nearest + 1e-6).all()
        if restarts == 8:
            assert (now < nearest - 1e-4).any()
        nearest = now


def test_of_the_iterates_the_nearest_is_returned() -> None:
    model = pixels_as_features()
    x = torch.tensor([[0.6, 0.5, 0.5, 0.5], [0.4, 0.5, 0.5, 0.5]]).view(2, 1, 2, 2)
    attack = FeatureAdversary(eps=0.5, steps=2, step_size=0.15)  # 0.6, 0.45, 0.3 on the way to 0.4
    z = attack(model, x, torch.tensor([0, 1]), rng=fresh())
    assert z[:, 0, 0, 0].tolist() == pytest.approx([0.45, 0.55])


def test_a_step_too_long_does_not_lose_what_an_earlier_one_found() -> None:
    model, x, y = batch()
    z = FeatureAdversary(eps=0.3, steps=20, step_size=0.5)(model, x, y, rng=fresh())
    assert (distances(model, x, y, z) <= distances(model, x, y, x) + 1e-6).all()


def test_with_early_stop_an_image_stays_where_the_model_first_errs() -> None:
    model, x, y = batch()
    with torch.no_grad():
        y = model.eval()(x).argmax(1)
    late = FeatureAdversary(eps=0.5, steps=40)(model, x, y, rng=fresh())
    soon = FeatureAdversary(eps=0.5, steps=40, early_stop=True, restarts=2)(model, x, y, rng=fresh())
    fooled = model(soon).argmax(1) != y
    assert fooled.sum() >= (model(late).argmax(1) != y).sum() > 0
    assert ((soon - x).abs().amax((1, 2, 3)) < (late - x).abs().amax((1, 2, 3)))[fooled].any()


def test_a_model_without_features_is_refused() -> None:
    with pytest.raises(AttackError, match="expected features and logits by `both`"):
        FeatureAdversary(eps=0.1)(Linear(torch.ones(4)), torch.rand(2, 1, 2, 2), torch.arange(2), rng=fresh())
