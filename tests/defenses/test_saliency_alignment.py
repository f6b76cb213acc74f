"""Saliency alignment: log-odds and cosines by hand, the placebo, and nothing of it at weight zero."""

import math

import pytest
import torch
from oracle_models import linear_problem, same, small_network, tiny_images, workbench
from torch import Tensor
from torch.nn import functional as F

from deconfound.defenses.saliency_alignment import SaliencyAlignment, alignment, another, log_odds
from deconfound.defenses.standard import Standard
from deconfound.recipe import Recipe

RECIPE = Recipe(epochs=2, batch_size=8)
IMAGES = tiny_images(12)
X, Y = IMAGES.x.float() / 255, IMAGES.y


def fresh(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_log_odds_are_those_of_the_softmax() -> None:
    logits = torch.tensor([[1.0, 2.0, -1.0], [0.0, 0.0, 0.0]])
    p = logits.softmax(1)
    expected = [(p[0, 1] / (1 - p[0, 1])).log().item(), -math.log(2)]
    assert log_odds(logits, torch.tensor([1, 2])).tolist() == pytest.approx(expected, rel=1e-5)
    sure = log_odds(torch.tensor([[200.0, 0.0]]), torch.tensor([0]))  # 1 - p_y would be zero
    assert sure.item() == pytest.approx(200)


def test_alignment_is_a_cosine_that_no_scale_changes() -> None:
    maps = torch.tensor([[[[3.0, 4.0]]], [[[1.0, 0.0]]], [[[0.0, 0.0]]]])
    images = torch.tensor([[[[6.0, 8.0]]], [[[1.0, 1.0]]], [[[1.0, 1.0]]]])
    assert alignment(maps, images).tolist() == pytest.approx([1.0, 0.5**0.5, 0.0], abs=1e-6)
    assert torch.allclose(alignment(100 * maps, 0.01 * images), alignment(maps, images), atol=1e-5)


@pytest.mark.parametrize("centred", [False, True])
def test_the_loss_of_a_linear_model_is_as_computed_by_hand(centred: bool) -> None:
    model, x, y = linear_problem()  # the log-odds are +-2 m, with slope +-2 w
    loss = SaliencyAlignment(weight=0.7, centred=centred).objective(model, x, y, rng=fresh())
    aim = x - x.mean((2, 3), keepdim=True) if centred else x
    sign = 2.0 * y - 1
    cosine = sign * F.cosine_similarity(aim.flatten(1), model.w[None].detach())
    expected = F.cross_entropy(model(x), y) + 0.7 * (1 - cosine).mean()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)


def test_the_placebo_aligns_with_another_image_of_the_batch() -> None:
    for count in (2, 3, 9):
        places = another(count, rng=fresh(count))
        assert sorted(places.tolist()) == list(range(count))
        assert (places != torch.arange(count)).all()
    assert another(1, rng=fresh()).tolist() == [0]
    model, x, y = linear_problem()
    loss = SaliencyAlignment(toward="other").objective(model, x, y, rng=fresh(3))
    aim = x[another(len(x), rng=fresh(3))]
    cosine = (2.0 * y - 1) * F.cosine_similarity(aim.flatten(1), model.w[None].detach())
    expected = F.cross_entropy(model(x), y) + (1 - cosine).mean()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)


def test_without_weight_it_is_standard_training_to_the_bit_and_with_it_not() -> None:
    def trained(defense: SaliencyAlignment | Standard) -> dict[str, Tensor]:
        return dict(defense(workbench(RECIPE)[0]).model.state_dict())

    standard, aligned = trained(Standard()), trained(SaliencyAlignment(weight=0.1))
    assert same(trained(SaliencyAlignment(weight=0)), standard)
    assert not same(aligned, standard)
    assert not same(trained(SaliencyAlignment(weight=0.1, toward="other")), aligned)


def test_a_step_down_the_slope_of_the_penalty_lessens_it_by_what_the_slope_says() -> None:
    model = small_network(dropout=0.0).train().double()
    x = X.double()

    def misalignment() -> Tensor:
        both = SaliencyAlignment(weight=1).objective(model, x, Y, rng=fresh())
        return both - F.cross_entropy(model(x), Y)

    before = misalignment()
    gradients = torch.autograd.grad(before, list(model.parameters()), materialize_grads=True)
    assert gradients[0].abs().sum() > 0  # the first layer
    length = sum(gradient.square().sum().item() for gradient in gradients)
    with torch.no_grad():
        for weights, gradient in zip(model.parameters(), gradients, strict=True):
            weights -= 1e-6 * gradient
    assert (before - misalignment()).item() == pytest.approx(1e-6 * length, rel=1e-3)


@pytest.mark.parametrize("scale", [0.0, 1.0, 1e4], ids=["uniform", "ordinary", "saturated"])
def test_loss_and_gradient_are_finite(scale: float) -> None:
    model = small_network(dropout=0.0).train()
    with torch.no_grad():
        model.head.weight.mul_(scale)
    x = X.clone()
    x[0] = 0  # a black image has no direction
    loss = SaliencyAlignment(centred=True).objective(model, x, Y, rng=fresh())
    loss.backward()  # type: ignore[no-untyped-call]
    assert loss.isfinite() and all(w.grad is None or w.grad.isfinite().all() for w in model.parameters())
