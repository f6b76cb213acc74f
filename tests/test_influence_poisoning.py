"""Influence poisoning: the head and its curvature, influence against training again, and what k moved images do."""

import numpy as np
import pytest
import torch
from oracle_models import same, snapshot
from torch import Tensor, nn
from torch.nn import functional as F

from deconfound.errors import UserError
from deconfound.influence_poisoning import (
    Head,
    delivered,
    fit_head,
    frozen_head,
    influence_by_pixels,
    most_influential,
    poison_by_influence,
    predicted_change,
    pull,
    refitted,
    with_bias,
)
from deconfound.models.classifier import Classifier
from deconfound.rng import generator, global_seed
from deconfound.types import Images

CLASSES, L2, SIDE = 3, 1e-2, 4


def fresh(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def network(width: int = 6) -> Classifier:
    """A frozen body without kinks on 1 x 4 x 4 images."""
    with global_seed(generator(0, "body")):
        body = nn.Sequential(nn.Flatten(), nn.Linear(SIDE * SIDE, width), nn.Tanh())
        return Classifier(body, nn.Linear(width, CLASSES), channels=1).eval()


def pictures(count: int = 200, seed: int = 0) -> Images:
    """Row k is brighter in class k, by little enough that classes overlap."""
    rng = np.random.default_rng(seed)
    y = np.arange(count) % CLASSES
    x = rng.integers(0, 160, (count, 1, SIDE, SIDE))
    x[np.arange(count), 0, y] += 60
    return Images(torch.from_numpy(x.astype(np.uint8)), torch.from_numpy(y))


def problem(count: int = 200) -> tuple[Classifier, Images, Head]:
    model, train = network(), pictures(count)
    return model, train, frozen_head(model, train, l2=L2)


def objective(head: Head, flat: Tensor) -> Tensor:
    """What the head minimises, at weights (K * (D + 1),)."""
    logits = head.h @ flat.view_as(head.weight).T
    return F.cross_entropy(logits, head.y) + head.l2 / 2 * flat.square().sum()


def test_the_head_is_where_the_slope_is_flat_and_its_curvature_is_that_of_autograd() -> None:
    _, train, head = problem()
    assert head.weight.shape == (CLASSES, 7) and (head.h[:, -1] == 1).all()
    flat = head.weight.flatten().requires_grad_(True)
    (slope,) = torch.autograd.grad(objective(head, flat), flat)
    assert slope.abs().max() < 1e-9
    expected = torch.autograd.functional.hessian(lambda w: objective(head, w), flat.detach())
    assert torch.allclose(head.curvature(), expected, atol=1e-10)
    right = (head.logits(head.h).argmax(1) == train.y).double().mean()
    assert 0.6 < right < 1


def test_a_far_start_ends_where_a_near_one_does() -> None:
    _, _, head = problem(60)
    far = fit_head(head.h, head.y, CLASSES, l2=L2, start=100 * torch.randn(3, 7, generator=fresh()).double())
    near = fit_head(head.h, head.y, CLASSES, l2=L2, start=head.weight)
    assert torch.allclose(far.weight, near.weight, atol=1e-7)
    with pytest.raises(UserError, match="l2: expected a positive penalty"):
        fit_head(head.h, head.y, CLASSES, l2=0.0)


def test_influence_on_a_target_predicts_what_leaving_an_image_out_does() -> None:
    model, _, head = problem(200)
    target = with_bias(model.features(pictures(3, seed=1).x / 255).double().detach())
    for row in range(3):
        h, y = target[row : row + 1], torch.tensor([row])
        predicted = -pull(head, head.toward(h, y), head.h, head.y) / 200
        actual = []
        for out in range(200):
            keep = torch.arange(200) != out
            again = fit_head(head.h[keep], head.y[keep], CLASSES, l2=L2 * 200 / 199, start=head.weight)
            actual.append(float(again.losses(h, y) - head.losses(h, y)))
        assert np.corrcoef(predicted.numpy(), actual)[0, 1] > 0.95
        assert float(predicted.abs().sum()) == pytest.approx(np.abs(actual).sum(), rel=0.1)


def test_influence_by_pixels_is_the_slope_of_the_predicted_change() -> None:
    model, train, head = problem(60)
    model = model.double()
    h = with_bias(model.features(train.x[:1].double() / 255)).detach()
    solved = head.toward(h, torch.tensor([1]))
    rows, step = torch.tensor([4, 9, 20]), 1e-5
    x = train.x[rows].double() / 255
    found = influence_by_pixels(head, solved, model.features, x, train.y[rows])
    assert found.shape == x.shape

    def change(z: Tensor) -> float:
        return 60 * predicted_change(head, solved, rows, with_bias(model.features(z)).detach())

    for image, row, column in ((0, 0, 0), (0, 3, 1), (1, 2, 2), (2, 1, 3)):
        nudge = torch.zeros_like(x)
        nudge[image, 0, row, column] = step
        slope = (change(x + nudge) - change(x - nudge)) / (2 * step)
        assert float(found[image, 0, row, column]) == pytest.approx(slope, rel=1e-4, abs=1e-8)


def test_the_predicted_change_is_close_to_the_actual_one_over_many_targets() -> None:
    model, train, head = problem()
    targets = pictures(30, seed=2)
    found = [
        poison_by_influence(
            model, train, x, int(y), k=2, eps=0.2, steps=3, l2=L2, rng=fresh(int(y)), head=head
        )
        for x, y in zip(*targets, strict=True)
    ]
    predicted, actual = [one.predicted for one in found], [one.actual for one in found]
    assert np.corrcoef(predicted, actual)[0, 1] > 0.9
    assert np.mean(actual) > 0.5 * np.mean(predicted) > 0
    assert min(actual) > 0 and np.mean(actual) > 4 * np.abs(np.mean([one.noise for one in found]))


def test_what_is_reported_is_what_training_on_the_delivered_images_gives() -> None:
    model, train, head = problem()
    before = snapshot(model)
    x, y = pictures(5, seed=3).x[4], 1
    found = poison_by_influence(model, train, x, y, k=5, eps=0.2, steps=4, l2=L2, rng=fresh())
    assert same(snapshot(model), before)
    assert found.x.dtype == torch.uint8 and found.rows.shape == (5,) and len(found.rows.unique()) == 5
    assert (found.x.int() - train.x[found.rows].int()).abs().max() == 51
    poisoned = train.x.clone()
    poisoned[found.rows] = found.x
    again = frozen_head(model, Images(poisoned, train.y), l2=L2)
    h = with_bias(model.features(x[None] / 255).detach().double())
    goal = torch.tensor([y])
    assert found.loss == pytest.approx(float(head.losses(h, goal)))
    assert found.actual == pytest.approx(float(again.losses(h, goal) - head.losses(h, goal)), abs=1e-7)
    assert (found.before, found.after) == (int(head.logits(h).argmax()), int(again.logits(h).argmax()))
    twin = poison_by_influence(model, train, x, y, k=5, eps=0.2, steps=4, l2=L2, rng=fresh(), head=head)
    assert same(tuple(twin), tuple(found))


def nearest(model: Classifier, head: Head, images: Images) -> int:
    """The image that the head gets right by least."""
    h = with_bias(model.features(images.x / 255).detach().double())
    p = head.logits(h).softmax(1)
    own = p.gather(1, images.y[:, None]).squeeze(1)
    rival = p.scatter(1, images.y[:, None], 0).amax(1)
    return int((own - rival).masked_fill(own < rival, 2).argmin())


def test_a_target_that_is_barely_right_is_lost_and_one_that_was_wrong_does_not_count() -> None:
    model, train, head = problem(100)
    tests = pictures(60, seed=4)
    row = nearest(model, head, tests)
    label = int(tests.y[row])
    found = poison_by_influence(
        model, train, tests.x[row], label, k=10, eps=0.3, steps=5, l2=L2, rng=fresh(), head=head
    )
    assert found.before == label != found.after and found.flipped
    wrong = (label + 1) % CLASSES
    other = poison_by_influence(
        model, train, tests.x[row], wrong, k=1, eps=0.3, steps=2, l2=L2, rng=fresh(), head=head
    )
    assert other.before != wrong and not other.flipped


def test_without_room_nothing_moves() -> None:
    model, train, head = problem(60)
    found = poison_by_influence(
        model, train, train.x[0], 0, k=3, eps=0.0, steps=2, l2=L2, rng=fresh(), head=head
    )
    assert torch.equal(found.x, train.x[found.rows]) and not found.flipped
    assert found.predicted == pytest.approx(0, abs=1e-7) and found.actual == pytest.approx(0, abs=1e-7)
    with pytest.raises(UserError, match="k: expected from 1 to 60 training images, got 61"):
        poison_by_influence(model, train, train.x[0], 0, k=61, eps=0.1, steps=2, rng=fresh())


def test_the_images_that_move_are_those_with_the_largest_influence_by_pixels() -> None:
    model, train, head = problem(60)
    solved = head.toward(head.h[:1], head.y[:1])
    sizes = influence_by_pixels(head, solved, model.features, train.x / 255, train.y).abs().sum((1, 2, 3))
    rows = most_influential(head, solved, model.features, train, 7, torch.device("cpu"))
    assert rows.tolist() == sorted(sizes.argsort(descending=True)[:7].tolist())


def test_refitting_on_the_same_images_changes_nothing() -> None:
    _, _, head = problem(60)
    rows = torch.tensor([3, 8])
    assert torch.equal(refitted(head, rows, head.h[rows], start=head.weight).weight, head.weight)


def test_delivered_images_are_bytes_inside_the_ball_and_the_box() -> None:
    x = torch.tensor([0.0, 100.0, 250.0, 30.0]).view(1, 1, 2, 2) / 255
    z = x + torch.tensor([0.1, -0.1, 0.1, 0.004]).view(1, 1, 2, 2)
    # 0.1 is 25.5 levels: rounding away from x would leave the ball
    assert delivered(x, z, 0.1).flatten().tolist() == [25, 75, 255, 31]
    assert torch.equal(delivered(x, z, 0.0), (x * 255).round().to(torch.uint8))
