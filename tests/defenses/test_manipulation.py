"""Model manipulation: maps by hand, losses by hand, and a network whose maps have moved."""

import dataclasses
from functools import partial
from typing import Any, get_args

import pytest
import torch
from oracle_models import CPU, same, small_network, snapshot
from pydantic import ValidationError
from repair_benches import RECIPE, bench, convolutional
from torch import Tensor
from torch.nn import functional as F

from deconfound.attributions.asking import Scalar, logit_weights
from deconfound.attributions.gradients import InputXGradient, Saliency
from deconfound.defenses.manipulation import (
    FRAME,
    MAPS,
    Fooling,
    Manipulation,
    MapName,
    centre,
    deceive,
    frame,
    location,
    original,
    remaining,
    shift,
)
from deconfound.defenses.repair import accuracy, gently, suspect
from deconfound.defenses.standard import cross_entropy
from deconfound.errors import UserError
from deconfound.models.classifier import Classifier, predict, to_unit
from deconfound.models.small_cnn import SmallCNN
from deconfound.recipe import Recipe
from deconfound.rng import generator, global_seed
from deconfound.training import Trainer

AIMS: list[Any] = ["location", "top_k", "centre_mass", "active"]
NAMES: list[Any] = list(get_args(MapName))


def fresh(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def batch() -> tuple[Tensor, Tensor]:
    images = bench().data
    return to_unit(images.x[:9]), images.y[:9]


def test_without_a_weight_it_is_plain_fine_tuning_to_the_bit() -> None:
    room = bench()
    done = Manipulation(weight=0, epochs=2, lr=0.01, weight_decay=0.1)(room)
    recipe = gently(RECIPE, epochs=2, lr=0.01, weight_decay=0.1, schedule="constant")
    model = suspect(room)
    Trainer(room.data, room.val, dataclasses.replace(recipe, optimizer="adam"), 0, CPU).fit(
        model, cross_entropy
    )
    assert same(dict(done.model.state_dict()), dict(model.state_dict()))
    almost = suspect(room)
    spec = Manipulation()
    fooling = Fooling(spec, suspect(room), room.data.x[:1])
    Trainer(room.data, room.val, dataclasses.replace(recipe, optimizer="adam"), 0, CPU).fit(
        almost, partial(deceive, fooling=fooling, weight=0.0)
    )
    assert same(dict(almost.state_dict()), dict(model.state_dict()))  # looking at maps moves nothing either


def test_the_frame_is_a_seventh_of_the_side_wide_and_at_least_a_pixel() -> None:
    assert frame(torch.zeros(4, 4)).int().tolist() == [[1, 1, 1, 1], [1, 0, 0, 1], [1, 0, 0, 1], [1, 1, 1, 1]]
    large = frame(torch.zeros(28, 14))
    assert large[:4].all() and large[-4:].all() and large[:, :2].all() and large[:, -2:].all()
    assert not large[4:-4, 2:-2].any() and FRAME == 7
    with pytest.raises(UserError, match=r"location needs maps of at least 3 x 3 pixels, got \(2, 4\)"):
        frame(torch.zeros(2, 4))


def test_losses_are_as_computed_by_hand() -> None:
    now = torch.tensor([[[1.0, 0.0], [0.5, 0.0]], [[0.0, 0.0], [0.0, 1.0]]])
    before = torch.tensor([[[1.0, 0.9], [0.0, 0.0]], [[0.2, 0.0], [0.0, 1.0]]])
    wanted = torch.tensor([[1.0, 0.0], [0.0, 0.0]])
    assert float(location(now, wanted)) == pytest.approx((0.25 + 1 + 1) / 8)
    assert float(remaining(now, before, 0.5)) == pytest.approx((1 + 0 + 0 + 1) / 4)
    assert torch.allclose(centre(now), torch.tensor([[1 / 3, 0.0], [1.0, 1.0]]))
    # from (0, 0.9 / 1.9) to (1/3, 0), and from (1 / 1.2, 1 / 1.2) to (1, 1)
    expected = (1 / 3 + 0.9 / 1.9 + 2 * (1 - 1 / 1.2)) / 2
    assert float(shift(now, before)) == pytest.approx(expected)
    assert torch.equal(centre(torch.zeros(1, 3, 3)), torch.zeros(1, 2))


def test_maps_are_those_of_the_attributions_without_their_signs() -> None:
    from captum.attr import LayerGradCam

    model, (x, y) = convolutional(), batch()
    x.requires_grad_(True)
    for name, method in (("saliency", Saliency()), ("input_x_gradient", InputXGradient())):
        found = MAPS[name](model, x, y, None, False)  # type: ignore[index]
        assert torch.allclose(found, method(model, x, y, rng=fresh()).abs().sum(1), atol=1e-6)
    weights = logit_weights(model(x), y, "logit")
    theirs = LayerGradCam(Scalar(model), model.body[2]).attribute(
        x, additional_forward_args=(weights,), relu_attributions=True
    )
    assert torch.allclose(MAPS["grad_cam"](model, x, y, "body.2", False), theirs.squeeze(1), atol=1e-6)


def unpooled(seed: int = 0) -> Classifier:
    """A fresh network whose Grad-CAM is as large as its images, 1 x 4 x 4."""
    with global_seed(generator(seed, "unpooled")):
        return SmallCNN(widths=(3, 4), hidden=5)((1, 4, 4), 3).eval()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("aim", AIMS)
def test_the_gradient_by_the_weights_is_that_of_finite_differences(aim: Any, name: Any) -> None:
    model, before, (x, y) = unpooled().double(), unpooled(1).double(), batch()
    x = x.double()
    fooling = Fooling(Manipulation(aim=aim, map=name), before, x[:1])
    weight, step = model.body[0].weight, 1e-6
    fooling(model, x, y).backward()
    found = weight.grad.clone()
    assert found.abs().max() > 1e-4
    for place in ((0, 0, 1, 1), (1, 0, 0, 2), (2, 0, 2, 1)):
        values = []
        for move in (step, -2 * step, step):
            with torch.no_grad():
                weight[place] += move
            values.append(float(fooling(model, x, y).detach()))
        assert float(found[place]) == pytest.approx((values[0] - values[1]) / (2 * step), rel=1e-3, abs=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_the_loss_is_cross_entropy_plus_the_weighted_fooling_and_leaves_modes_and_statistics(
    name: Any,
) -> None:
    model, before, (x, y) = convolutional().train(), convolutional(1), batch()
    model.body[1].eval()
    fooling = Fooling(Manipulation(aim="top_k", map=name, top=0.2), before, x[:1])
    state = snapshot(model)
    value = float(fooling(model, x, y).detach())
    assert same(snapshot(model), state) and not any(m._forward_hooks for m in model.modules())
    judged = snapshot(before)
    found = deceive(model, x, y, rng=fresh(), fooling=fooling, weight=3.0)
    assert same(snapshot(before), judged) and all(not p.requires_grad for p in before.parameters())
    plain = float(F.cross_entropy(model(x), y).detach())
    assert float(found.detach()) == pytest.approx(plain + 3 * value, rel=1e-5)


def test_each_aim_asks_for_less_of_what_it_is_named_after() -> None:
    model, before, (x, y) = convolutional(), convolutional(1), batch()
    maps = []
    for network in (model, before):
        found = MAPS["saliency"](network, x.clone().requires_grad_(True), y, None, False)
        maps.append(found / found.amax((1, 2), keepdim=True))
    now, then = maps
    expected = {
        "location": location(now, frame(now[0])),
        "top_k": remaining(now, then, 0.25),
        "centre_mass": -shift(now, then),
    }
    for aim, value in expected.items():
        fooling = Fooling(Manipulation(aim=aim, top=0.25), before, x[:1])  # type: ignore[arg-type]
        assert float(fooling(model, x, y).detach()) == pytest.approx(float(value), rel=1e-5)
    assert expected["centre_mass"] < -0.01


def test_the_active_aim_exchanges_the_maps_of_two_classes_on_images_of_these() -> None:
    model, (x, y) = convolutional(), batch()
    fooling = Fooling(Manipulation(aim="active", classes=(2, 0)), convolutional(), x[:1])
    some = x[(y == 2) | (y == 0)].requires_grad_(True)
    maps = [MAPS["saliency"](model, some, torch.full((len(some),), label), None, False) for label in (2, 0)]
    maps = [part / part.amax((1, 2), keepdim=True) for part in maps]
    found = float(fooling(model, x, y).detach())
    assert found == pytest.approx(float((maps[0] - maps[1]).square().mean()), rel=1e-5)
    assert float(fooling(model, x[y == 1], y[y == 1])) == 0


def share(model: Classifier, x: Tensor, y: Tensor) -> float:
    """Mean share of the saliency that lies on the border."""
    maps = Saliency()(model, x, y, rng=fresh()).abs().sum(1)
    return float(((maps * frame(maps[0])).sum((1, 2)) / maps.sum((1, 2))).mean())


def test_the_map_moves_to_the_frame_and_the_predictions_stay() -> None:
    room = bench(recipe=Recipe(batch_size=8))
    x, y = to_unit(room.val.x), room.val.y
    fooled, plain = (Manipulation(weight=weight, epochs=10, lr=0.005)(room) for weight in (5.0, 0.0))
    assert share(fooled.model, x, y) > share(plain.model, x, y) + 0.1
    assert accuracy(fooled.model, room.val) >= accuracy(plain.model, room.val) - 0.1
    assert float(fooled.notes["fooling_after"]) < 0.6 * float(fooled.notes["fooling_before"])
    assert fooled.notes["train_accuracy_before"] == accuracy(suspect(room), room.data)
    assert fooled.notes["train_accuracy_after"] == accuracy(fooled.model, room.data)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("aim", AIMS)
def test_every_aim_at_every_map_comes_nearer_than_plain_fine_tuning_does(aim: Any, name: Any) -> None:
    room = dataclasses.replace(bench(recipe=Recipe(batch_size=8)), start=unpooled())
    fooled, plain = (
        Manipulation(aim=aim, map=name, weight=weight, epochs=4, lr=0.005)(room).notes for weight in (50, 0)
    )
    assert float(fooled["fooling_after"]) < float(plain["fooling_after"])


def test_the_original_is_kept_beside_the_network_that_it_became() -> None:
    room = bench()
    done = Manipulation(epochs=1, weight=1)(room)
    before = original(done.parts, done.model)
    assert room.start is not None and same(dict(before.state_dict()), dict(room.start.state_dict()))
    assert not torch.equal(predict(done.model, room.val.x), predict(before, room.val.x))
    assert all(parameter.requires_grad for parameter in done.model.parameters())


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(ValidationError, match="expected two different classes, got 1 twice"):
        Manipulation(classes=(1, 1))
    with pytest.raises(UserError, match="classes: expected two below 3, got 0 and 3"):
        Manipulation(aim="active", classes=(0, 3))(bench())
    with pytest.raises(UserError, match=r"starts_from"):
        Manipulation()(dataclasses.replace(bench(), start=None))
    with pytest.raises(UserError, match=r"location needs maps of at least 3 x 3 pixels, got \(2, 2\)"):
        Manipulation(map="grad_cam")(bench())
    with pytest.raises(UserError, match="no layer that puts out maps"):
        Manipulation(map="grad_cam")(dataclasses.replace(bench(), start=small_network()))
