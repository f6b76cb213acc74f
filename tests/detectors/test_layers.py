"""Places of the networks here, and activations against the modules that they come from."""

from typing import Any

import pytest
import torch
from oracle_models import same, small_network, snapshot
from suspects import identity
from torch import Tensor

from deconfound.detectors.layers import (
    activations,
    collected,
    edited,
    gradients,
    places,
    positions,
    spread,
    units,
)
from deconfound.models.classifier import Classifier, predict
from deconfound.models.small_cnn import SmallCNN
from deconfound.models.timm_models import TimmModel
from deconfound.models.wide_resnet import WideResNet
from deconfound.rng import generator, global_seed


def network(kind: Any, side: int = 8) -> Classifier:
    with global_seed(generator(0, "init")):
        model: Classifier = kind((3, side, side), 4)
    return model


def pixels(count: int = 5, side: int = 8) -> Tensor:
    return torch.rand(count, 3, side, side, generator=generator(0, "pixels"))


def test_a_convolution_is_read_after_activation_and_pooling() -> None:
    model = network(
        SmallCNN(widths=(3, 5), hidden=6)
    )  # conv, norm, ReLU, pool; conv, norm, ReLU; flatten, linear ...
    assert places(model, pixels()) == ("body.3", "body.6", "body")


def test_residual_blocks_are_places() -> None:
    model = network(WideResNet(depth=10))
    assert places(model, pixels()) == (
        "body.0",
        "body.1",
        "body.2",
        "body",
    )  # the last block ends as the body


def test_stages_of_a_library_s_network_count_block_by_block() -> None:
    found = places(network(TimmModel(name="resnet18"), side=32), pixels(side=32))
    assert found[0] == "body.model.maxpool" and found[-1] == "body" and len(found) == 9
    assert found[1] == "body.model.layer1.0"


def test_blocks_of_a_transformer_are_places_and_their_tokens_are_averaged() -> None:
    options = {"img_size": 8, "patch_size": 4, "embed_dim": 12, "depth": 3, "num_heads": 2}
    model = network(TimmModel(name="vit_tiny_patch16_224", options=options))
    found = places(model, pixels())
    assert found[-1] == "body" and "body.model.blocks.0" in found
    assert [h.shape for h in collected(model, found, pixels())] == [(5, 12)] * len(found)


@pytest.mark.parametrize("model", [identity(4, 3), small_network()])
def test_a_body_of_one_block_has_one_place(model: Classifier) -> None:
    x = torch.rand(3, 1, 2, 2) if model.head.in_features == 4 else torch.rand(3, 1, 4, 4)
    assert places(model, x) == ("body",)


def test_activations_are_means_over_positions_of_what_the_modules_return() -> None:
    model, x = network(SmallCNN(widths=(3, 5), hidden=6)).eval(), pixels()
    (first, last), logits = activations(model, ("body.3", "body"), x)
    with torch.no_grad():
        assert torch.allclose(first, model.body[:4]((x - 0) / 1).mean((2, 3)))
        assert torch.equal(last, model.features(x)) and torch.equal(logits, model(x))
    (kept,) = collected(model, ("body",), (255 * x).to(torch.uint8))
    assert kept.dtype == torch.float64 and kept.shape == (5, 6)


@pytest.mark.parametrize("kind", [SmallCNN(widths=(3, 5), hidden=6), WideResNet(depth=10, dropout=0.1)])
def test_looking_leaves_a_network_as_it_was(kind: Any) -> None:
    model, x = network(kind).train(), pixels()
    before = snapshot(model)
    names = places(model, x)
    activations(model, names, x)
    gradients(model, names[0], x, torch.zeros(5, dtype=torch.int64))
    edited(model, {names[0]: lambda h: 0 * h}, x)
    with pytest.raises(ZeroDivisionError):
        edited(model, {names[0]: lambda h: h / (1 // 0)}, x)
    assert same(snapshot(model), before)
    assert not any(module._forward_hooks for module in model.modules())


def test_an_edit_that_changes_nothing_changes_nothing_and_one_at_the_end_is_the_head_s_input() -> None:
    model, x = network(WideResNet(depth=10)).eval(), pixels()
    assert torch.allclose(edited(model, {"body.1": lambda h: h.clone()}, x), predict(model, x), atol=1e-6)
    bias = edited(model, {"body": torch.zeros_like}, x)
    assert torch.allclose(bias, model.head.bias.expand(5, -1))


def test_gradients_are_what_the_logit_grows_by_when_a_unit_does() -> None:
    model, x = network(SmallCNN(widths=(3, 5), hidden=6)).eval().double(), pixels().double()
    target = torch.tensor([0, 1, 2, 3, 0])
    found = gradients(model, "body.6", x, target)
    assert found.shape == (5, 5) and not found.requires_grad
    for unit in range(5):
        step = torch.zeros(1, 5, 1, 1, dtype=torch.float64)
        step[:, unit] = 1e-6
        above, below = (
            edited(model, {"body.6": lambda h, by=s * step: h + by}, x).gather(1, target[:, None])[:, 0]
            for s in (1, -1)
        )
        assert torch.allclose((above - below) / 2e-6, found[:, unit], atol=1e-5)
    weights = gradients(model, "body", x, target)
    assert torch.allclose(weights, model.head.weight[target])


def test_gradients_reach_the_pixels() -> None:
    model, x = network(SmallCNN(widths=(3, 5), hidden=6)), pixels().requires_grad_()
    (first, _), _ = activations(model, ("body.3", "body"), x)
    first.sum().backward()
    assert x.grad is not None and x.grad.abs().sum() > 0


def test_units_positions_and_spread_know_maps_features_and_tokens() -> None:
    maps, features, tokens = torch.rand(2, 3, 4, 5), torch.rand(2, 3), torch.rand(2, 7, 3)
    assert torch.allclose(units(maps), maps.mean((2, 3))) and positions(maps) == 20
    assert torch.equal(units(features), features) and positions(features) == 1
    assert torch.allclose(units(tokens), tokens.mean(1)) and positions(tokens) == 7
    for h in (maps, features, tokens):
        factor = torch.tensor([[1.0, 2.0, 0.0]] * 2)
        assert torch.allclose(units(h * spread(factor, h)), units(h) * factor)
