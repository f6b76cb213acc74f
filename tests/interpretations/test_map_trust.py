"""Checks of maps mark maps that look away from the network, draw at random, or do not add up, and no right one."""

from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from oracle_models import same, small_network, snapshot, tiny_images
from torch import Generator, Tensor, nn

from deconfound.attributions.faithfulness import cascade, max_sensitivity
from deconfound.attributions.gradients import Saliency
from deconfound.errors import ConfigError
from deconfound.fields import hyperparameters
from deconfound.interpretations.case import Case, Place, Readings
from deconfound.interpretations.trust import MapTrust, below, surely_above
from deconfound.models.classifier import Classifier
from deconfound.registry import build
from deconfound.rng import generator
from deconfound.types import Images

TABLE = {"map_trust": "deconfound.interpretations.trust:MapTrust"}
TRAIN = tiny_images(30, seed=1)


@hyperparameters
class Edges:
    """A map that looks at the image alone."""

    def __call__(self, model: Classifier, x: Tensor, target: Tensor, *, rng: Generator) -> Tensor:
        return x


@hyperparameters
class Random:
    """A map that looks at nothing."""

    def __call__(self, model: Classifier, x: Tensor, target: Tensor, *, rng: Generator) -> Tensor:
        return torch.randn(x.shape, generator=rng)


@hyperparameters
class Opposite:
    """What speaks against the class of a linear network, as if it spoke for it."""

    def __call__(self, model: Classifier, x: Tensor, target: Tensor, *, rng: Generator) -> Tensor:
        return -model.head.weight.detach()[target].view_as(x) * x


@hyperparameters
class Blank:
    """A map of zeros."""

    def __call__(self, model: Classifier, x: Tensor, target: Tensor, *, rng: Generator) -> Tensor:
        return torch.zeros_like(x)


def linear() -> Classifier:
    """Class k is read from row k, with weights as different as rows."""
    model = Classifier(nn.Flatten(), nn.Linear(16, 3), channels=1)
    with torch.no_grad():
        model.head.bias.zero_()
        model.head.weight.copy_(torch.rand(3, 16, generator=generator(0)) - 0.5)
        for label in range(3):
            model.head.weight[label, 4 * label : 4 * label + 4] += 3
    return model.eval()


def case(model: Classifier, **more: Any) -> Case:
    common: dict[str, Any] = {
        "train": TRAIN,
        "test": tiny_images(12),
        "rng": partial(generator, 0),
        "classes": 3,
    }
    return Case(model=model, defense=None, parts={}, **(common | more))


def made(method: dict[str, Any] | str, **changes: Any) -> MapTrust:
    block = {"kind": f"{__name__}:{method}"} if isinstance(method, str) else method
    settings = {"attributions": {"map": block}, "labels": False, "examples": 12, **changes}
    return build(TABLE, {"kind": "map_trust", **settings}, at="x")


def verdict(found: Readings) -> dict[str, float]:
    return {place.metric: value for place, value in found.once.items() if place.condition == "verdict"}


# Verdicts


def test_the_exact_map_of_a_linear_network_passes_all_checks_and_its_opposite_does_not() -> None:
    exact = {"kind": "integrated_gradients", "steps": 1, "baseline": "mean"}
    found = made(exact)(case(linear()))
    passed = ("deletion", "insertion", "weights", "completeness", "seeds")
    assert verdict(found) == {f"passes_{check}": 1 for check in passed} | {"marked": 0}
    assert found.each[Place("map", "baseline", "error")].max() < 1e-5
    wrong = made("Opposite")(case(linear()))
    assert verdict(wrong)["passes_deletion"] == verdict(wrong)["passes_insertion"] == 0
    assert verdict(wrong)["marked"] == 1
    for condition in ("deletion", "insertion"):
        assert found.each[Place("map", condition, "gain")].mean() > 0.05
        assert wrong.each[Place("map", condition, "gain")].mean() < -0.05


def test_a_map_of_the_image_alone_is_marked_by_the_networks_that_learnt_nothing() -> None:
    found = made("Edges", labels=True)(case(small_network(), retrained=lambda images, purpose: linear()))
    assert verdict(found)["passes_weights"] == verdict(found)["passes_labels"] == 0
    assert verdict(found)["passes_seeds"] == 1 and verdict(found)["marked"] == 1
    assert found.each[Place("map", "labels", "agreement")] == pytest.approx(np.ones(12))
    assert "passes_completeness" not in verdict(found)  # it promises no sum


def test_a_random_map_is_marked_by_its_seeds() -> None:
    found = made("Random")(case(linear()))
    assert verdict(found)["passes_seeds"] == 0 and verdict(found)["marked"] == 1
    assert found.each[Place("map", "seeds", "stability")].mean() < 0.5
    assert (
        verdict(made("Random", least_stability=0.0)(case(linear())))["passes_weights"] == 0
    )  # same seed, same map


def test_a_path_with_one_step_through_a_curved_network_does_not_add_up() -> None:
    body = nn.Sequential(nn.Flatten(), nn.Linear(16, 3), nn.Softplus(beta=20))
    model = Classifier(body, nn.Linear(3, 3), channels=1)
    with torch.no_grad():
        body[1].weight.copy_(linear().head.weight)
        body[1].bias.fill_(-3)
        model.head.weight.copy_(torch.eye(3))
    coarse, fine = (made({"kind": "integrated_gradients", "steps": steps})(case(model)) for steps in (1, 200))
    assert verdict(coarse)["passes_completeness"] == 0 and verdict(coarse)["marked"] == 1
    assert verdict(fine)["passes_completeness"] == 1
    shares = coarse.each[Place("map", "baseline", "relative_error")]
    for name, part in (("median", 0.5), ("p95", 0.95)):
        wanted = np.quantile(shares, part)
        assert coarse.once[Place("map", "baseline", f"relative_error_{name}")] == pytest.approx(wanted)
    lax = made({"kind": "integrated_gradients", "steps": 1}, median_error=1e3, p95_error=1e3)(case(model))
    assert verdict(lax)["passes_completeness"] == 1


def test_a_map_of_zeros_has_no_numbers_where_none_can_be_and_says_so() -> None:
    found = made("Blank")(case(linear()))
    assert np.isnan(found.each[Place("map", "seeds", "stability")]).all()
    assert "passes_seeds" not in verdict(found) and "passes_weights" not in verdict(found)
    assert any("the check of seeds has no number" in note for note in found.notes)


def test_a_gain_counts_when_it_is_two_standard_errors_above_the_least() -> None:
    gains = np.array([0.1, 0.2, 0.3, np.nan])
    error = 0.1 / 3**0.5
    assert (
        surely_above(gains, 0.2 - 2.01 * error) is True and surely_above(gains, 0.2 - 1.99 * error) is False
    )
    assert surely_above(gains[2:], 0.0) is None and surely_above(gains[3:], 0.0) is None
    assert below([0.4, float("nan")], 0.5) is True and below([0.4, 0.6], 0.5) is False
    assert below([float("nan")], 0.5) is None


# Readings


def test_layers_are_drawn_anew_from_the_head_downwards_in_the_order_of_their_names() -> None:
    model = small_network()
    found = made({"kind": "saliency"})(case(model))
    layers = [place.condition for place in found.each if place.condition.startswith("weights")]
    assert layers == ["weights_00_head", "weights_01_body_2", "weights_02_body_1"] == sorted(layers)
    about = case(model).first(12)
    target = about.logits(about.x).argmax(1)
    wanted = cascade(Saliency(), model, about.x, target, rng=generator(0, "map trust weights"))
    for condition, values in zip(layers, wanted.values(), strict=True):
        assert np.array_equal(found.each[Place("map", condition, "agreement")], values.numpy())


def test_gains_are_differences_to_random_orders_that_all_maps_share() -> None:
    spec = MapTrust(
        attributions={"one": {"kind": "saliency"}, "two": {"kind": "lrp"}}, labels=False, examples=5
    )
    found = spec(case(linear()))
    for name in ("one", "two"):
        area, random, gain = (
            found.each[Place(name, "deletion", metric)] for metric in ("area", "random_area", "gain")
        )
        assert gain == pytest.approx(random - area) and area.shape == (5,)
        area, random, gain = (
            found.each[Place(name, "insertion", metric)] for metric in ("area", "random_area", "gain")
        )
        assert gain == pytest.approx(area - random)
        curves = found.pictures[f"curves.{name}"]
        assert curves.shape == (4, spec.points) and curves.dtype == np.float32
        assert np.trapezoid(curves[1], dx=1 / (spec.points - 1)) == pytest.approx(area.mean(), abs=1e-6)
    for condition in ("deletion", "insertion"):
        first, second = (found.each[Place(name, condition, "random_area")] for name in ("one", "two"))
        assert np.array_equal(first, second)


def test_what_goes_is_replaced_by_the_baseline_of_the_block() -> None:
    model = linear()
    found = made({"kind": "saliency"}, baseline="zero")(case(model))
    end = model(torch.zeros(1, 1, 4, 4)).softmax(1)[0].detach().numpy()
    target = case(model).logits(case(model).x).argmax(1).numpy()
    assert found.pictures["curves.map"][0, -1] == pytest.approx(end[target].mean(), abs=1e-6)


def test_maps_are_asked_for_the_prediction_or_for_the_label() -> None:
    model, test = small_network(), tiny_images(12)
    about = case(model)
    predicted = about.logits(about.x).argmax(1)
    assert not torch.equal(predicted, test.y)
    for rule, target in (("pred", predicted), ("true", test.y)):
        found = made({"kind": "saliency"}, target=rule)(case(model))
        rng = generator(0, "map trust neighbours")
        wanted = max_sensitivity(Saliency(), model, about.x, target, rng=rng, eps=0.02, samples=3)
        assert found.each[Place("map", "neighbours", "max_sensitivity")] == pytest.approx(wanted.numpy())


def test_the_twin_learns_the_labels_of_the_training_set_at_other_images_and_is_trained_once() -> None:
    asked: list[tuple[Images, str]] = []

    def retrained(images: Images, purpose: str) -> Classifier:
        asked.append((images, purpose))
        return small_network("other")

    methods = {"one": {"kind": "saliency"}, "two": {"kind": "input_x_gradient"}}
    found = MapTrust(attributions=methods)(case(small_network(), retrained=retrained))
    ((images, purpose),) = asked
    assert purpose == "shuffled labels" and torch.equal(images.x, TRAIN.x)
    assert torch.equal(images.y.sort().values, TRAIN.y.sort().values) and not torch.equal(images.y, TRAIN.y)
    assert {place.subject for place in found.each if place.condition == "labels"} == {"one", "two"}
    assert not found.notes


@pytest.mark.parametrize(("labels", "said"), [(True, "nothing can be trained"), (False, "asks for none")])
def test_without_a_twin_there_is_a_note_and_no_verdict_on_labels(labels: bool, said: str) -> None:
    found = made({"kind": "saliency"}, labels=labels)(case(linear()))
    assert said in found.notes[0] and "passes_labels" not in verdict(found)


def test_a_method_that_refuses_the_network_is_named_and_the_others_stay() -> None:
    spec = MapTrust(attributions={"cam": {"kind": "grad_cam"}, "map": {"kind": "saliency"}}, labels=False)
    found = spec(case(small_network()))
    assert any("There are no readings of cam: layer:" in note for note in found.notes)
    assert {place.subject for place in [*found.each, *found.once]} == {"map"}


def test_the_model_is_left_alone_and_the_same_seed_gives_the_same_bytes() -> None:
    model = small_network().train()
    model.body[2].eval()
    before = snapshot(model)
    lime = {"kind": "lime", "samples": 10, "grid": 2}
    spec = MapTrust(
        attributions={"lime": lime, "smooth": {"kind": "smooth_grad"}, "lift": {"kind": "deep_lift"}},
        examples=6,
    )
    about = case(model, retrained=lambda images, purpose: small_network("other"))
    first = spec(about)
    assert same(snapshot(model), before)
    torch.manual_seed(3)
    again = spec(about)
    assert {k: v.tobytes() for k, v in first.each.items()} == {k: v.tobytes() for k, v in again.each.items()}
    assert first.once == again.once and same(first.pictures, again.pictures)
    assert all(values.shape == (6,) for values in first.each.values())


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"points": 1}, "greater than or equal to 2"),
        ({"seeds": 1}, "greater than or equal to 2"),
        ({"attributions": {"a.b": {"kind": "saliency"}}}, "lower-case"),
        ({"attributions": {"ab": {"kind": "salience"}}}, "did you mean 'saliency'"),
    ],
)
def test_faults_of_a_block_are_found_before_it_is_used(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        made({"kind": "saliency"}, **changes)
