"""Checks of attributions, on maps that are right, wrong, or do not depend on the network."""

import pytest
import torch
from networks import bias_free, fresh, gradient, images, linear, made, small_cnn, trained
from oracle_models import same, snapshot
from torch import Generator, Tensor

from deconfound.attributions.baselines import Baseline
from deconfound.attributions.faithfulness import (
    cascade,
    completeness_error,
    curves,
    infidelity,
    label_check,
    max_sensitivity,
    resettable,
    seed_stability,
    shuffled_labels,
)
from deconfound.attributions.shift import spearman
from deconfound.errors import UserError
from deconfound.models.classifier import Classifier
from deconfound.types import Images

ZERO = Baseline()


class Edges:
    """A map that looks at the image alone."""

    def __call__(self, model: Classifier, x: Tensor, target: Tensor, *, rng: Generator) -> Tensor:
        return x


class Random:
    """A map that looks at nothing."""

    def __call__(self, model: Classifier, x: Tensor, target: Tensor, *, rng: Generator) -> Tensor:
        return torch.randn(x.shape, generator=rng)


# Deletion and insertion


def test_curves_replace_the_marked_pixels_first_and_end_where_they_must() -> None:
    model, (x, y) = linear(), images(4, 1, 4)
    maps = model.head.weight.detach()[y].view_as(x) * x
    found = curves(model, x, y, maps, rng=fresh(), baseline=ZERO, points=17)
    p = model(x).softmax(1).gather(1, y[:, None])[:, 0].detach()
    blank = model(torch.zeros_like(x)).softmax(1).gather(1, y[:, None])[:, 0].detach()
    for falling in (found.deletion, found.random_deletion):
        assert torch.allclose(falling[:, 0], p) and torch.allclose(falling[:, -1], blank)
    for rising in (found.insertion, found.random_insertion):
        assert torch.allclose(rising[:, 0], blank) and torch.allclose(rising[:, -1], p)
    first = maps.flatten(1).argmax(1)
    less = x.clone()
    less.flatten(1)[torch.arange(4), first] = 0
    wanted = model(less).softmax(1).gather(1, y[:, None])[:, 0].detach()
    assert torch.allclose(found.deletion[:, 1], wanted, atol=1e-6)


def test_a_map_of_a_trained_network_beats_random_orders_and_its_opposite_does_not() -> None:
    model, x, y = trained()
    maps = made("integrated_gradients", steps=20, baseline="mean")(model, x, y, rng=fresh())
    good = {k: float(v.mean()) for k, v in curves(model, x, y, maps, rng=fresh()).areas().items()}
    bad = {k: float(v.mean()) for k, v in curves(model, x, y, -maps, rng=fresh()).areas().items()}
    assert good["deletion"] < good["random_deletion"] - 0.05
    assert good["insertion"] > good["random_insertion"] + 0.05
    assert bad["deletion"] > bad["random_deletion"] and bad["insertion"] < bad["random_insertion"]
    assert good["random_deletion"] == bad["random_deletion"]
    either = curves(model, x, y, maps, rng=fresh(), order="absolute").deletion
    assert torch.equal(either, curves(model, x, y, -maps, rng=fresh(), order="absolute").deletion)


def test_the_area_under_a_constant_curve_is_its_height() -> None:
    model, (x, y) = linear(), images(2, 1, 4)
    model.head.weight.data.zero_()
    model.head.bias.data = torch.tensor([0.0, 0.0, 0.0])
    found = curves(model, x, y, x, rng=fresh(), baseline=ZERO)
    assert all(torch.allclose(area, torch.full((2,), 1 / 3).double()) for area in found.areas().values())
    assert found.deletion.shape == (2, 21)


# Completeness


def test_completeness_error_is_nothing_for_exact_maps_and_all_for_empty_ones() -> None:
    model, (x, y) = bias_free(), images()
    maps = made("shapley", baseline={"kind": "uniform", "draws": 2}, scalar="margin")(
        model, x, y, rng=fresh()
    )
    uniform = Baseline(kind="uniform", draws=2)
    error, share = completeness_error(model, x, y, maps, rng=fresh(), baseline=uniform, scalar="margin")
    assert error.max() < 1e-6
    error, share = completeness_error(model, x, y, maps * 0, rng=fresh(), baseline=uniform, scalar="margin")
    assert torch.allclose(share, torch.ones(5).double()) and error.min() > 0


# Randomised networks


def test_layers_are_reset_from_the_head_downwards() -> None:
    assert resettable(small_cnn()) == ["head", "body.9", "body.8", "body.5", "body.4", "body.1", "body.0"]


def test_maps_of_a_trained_network_do_not_survive_random_weights_but_pictures_of_edges_do() -> None:
    model, x, y = trained()
    before = snapshot(model)
    for kind in ("saliency", "integrated_gradients"):
        found = cascade(made(kind), model, x, y, rng=fresh())
        assert list(found) == resettable(model) and found["head"].shape == (40,)
        assert all(value.mean() < 0.5 for value in found.values()), kind
    assert cascade(made("saliency"), model, x, y, rng=fresh(), measure=spearman)["body.0"].mean() < 0.5
    black = cascade(made("integrated_gradients"), model, x, y, rng=fresh(), measure=spearman)
    assert black["body.0"].mean() > 0.8  # the digits' black border is empty in either map
    assert torch.allclose(cascade(Edges(), model, x, y, rng=fresh())["body.0"], torch.ones(40).double())
    assert same(snapshot(model), before)


def test_the_cascade_keeps_the_draws_of_a_method_apart_from_those_of_the_weights() -> None:
    model, (x, y) = small_cnn(), images()
    found = cascade(Random(), model, x, y, rng=fresh())
    assert all(torch.allclose(value, torch.ones(5).double()) for value in found.values())
    again = cascade(made("saliency"), model, x, y, rng=fresh())
    assert same(again, cascade(made("saliency"), model, x, y, rng=fresh()))
    assert not same(again, cascade(made("saliency"), model, x, y, rng=fresh(1)))


def test_shuffled_labels_are_the_same_labels_at_other_images() -> None:
    x, y = images(60)
    found = shuffled_labels(Images(x, y), rng=fresh())
    assert torch.equal(found.y.sort().values, y.sort().values) and not torch.equal(found.y, y)
    assert torch.equal(found.x, x)


def test_maps_of_two_networks_are_compared_under_the_same_draws() -> None:
    (x, y), model, other = images(), small_cnn(), small_cnn()
    other.head.weight.data = other.head.weight.data.flip(1)
    assert torch.allclose(
        label_check(made("lime"), model, small_cnn(), x, y, rng=fresh()), torch.ones(5).double()
    )
    assert label_check(made("saliency"), model, other, x, y, rng=fresh()).max() < 0.99


# Seeds and neighbours


def test_a_method_that_draws_nothing_is_stable_and_one_that_draws_all_is_not() -> None:
    model, (x, y) = small_cnn(), images()
    assert torch.allclose(seed_stability(made("saliency"), model, x, y, rng=fresh()), torch.ones(5).double())
    assert seed_stability(Random(), model, x, y, rng=fresh()).abs().max() < 0.5
    few, many = (
        seed_stability(made("lime", samples=samples), model, x, y, rng=fresh()).mean()
        for samples in (20, 500)
    )
    assert few < many
    with pytest.raises(UserError, match="at least 2"):
        seed_stability(Random(), model, x, y, rng=fresh(), seeds=1)


def test_the_gradient_of_a_linear_model_predicts_noise_at_any_scale_and_a_wrong_map_does_not() -> None:
    model, (x, y) = linear(), images(4, 1, 4)
    slope = gradient(model, x, y)
    right = infidelity(model, x, y, slope, rng=fresh())
    assert right.shape == (4,) and right.abs().max() < 1e-6
    assert infidelity(model, x, y, 100 * slope, rng=fresh()).abs().max() < 1e-6
    wrong = infidelity(model, x, y, torch.randn(x.shape, generator=fresh()), rng=fresh())
    assert wrong.min() > 1e-5
    assert torch.allclose(
        infidelity(model, x, y, slope.flip(0), rng=fresh(), chunk=32)[1:2],
        infidelity(model, x[1:2], y[1:2], slope.flip(0)[1:2], rng=fresh()),
        atol=1e-7,
    )


def test_infidelity_is_the_mean_squared_error_at_the_best_scale() -> None:
    model, (x, y) = small_cnn(), images(2)
    maps = gradient(model, x, y)
    noise = torch.randn(32, *x.shape[1:], generator=fresh()) * 0.1
    for i, found in enumerate(infidelity(model, x, y, maps, rng=fresh()).tolist()):
        with torch.no_grad():
            fall = model(x[i : i + 1])[0, y[i]] - model(x[i] - noise)[:, y[i]]
        told = (noise * maps[i]).sum((1, 2, 3))
        scale = (told * fall).sum() / told.square().sum()
        assert found == pytest.approx((scale * told - fall).square().mean().item(), abs=1e-6)
    assert infidelity(model, x, y, made("grad_cam")(model, x, y, rng=fresh()), rng=fresh()).shape == (2,)


def test_a_map_of_a_linear_model_has_no_sensitivity_and_others_the_largest_change() -> None:
    (x, y), flat, model = images(3, 1, 4), linear(), small_cnn()
    assert max_sensitivity(made("saliency"), flat, x, y, rng=fresh()).max() < 1e-6
    assert (
        max_sensitivity(Random(), flat, x[:1], y[:1], rng=fresh(), samples=1).max() < 1e-6
    )  # its seed stays
    x, y = images(3)
    found = max_sensitivity(made("saliency"), model, x, y, rng=fresh(), eps=0.1, samples=4)
    rng = fresh()
    torch.randint(2**62, (), generator=rng)
    offsets = (torch.rand(4, *x.shape[1:], generator=rng) * 2 - 1) * 0.1
    own = gradient(model, x, y)
    moved = [(gradient(model, x + one, y) - own).flatten(1).norm(dim=1) for one in offsets]
    assert torch.allclose(found, torch.stack(moved).amax(0) / own.flatten(1).norm(dim=1), atol=1e-5)
    assert max_sensitivity(made("grad_cam"), model, x, y, rng=fresh()).shape == (3,)
