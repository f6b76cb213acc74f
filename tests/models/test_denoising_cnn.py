"""The denoising network: its operations by hand, a start that is the plain network, and what LRP makes of it."""

from typing import Any

import pytest
import torch
from oracle_models import same
from pydantic import ValidationError
from torch import nn

from deconfound.attributions.lrp import LRP
from deconfound.errors import UserError
from deconfound.models.classifier import Classifier
from deconfound.models.denoising_cnn import Denoising, DenoisingCNN, Median, NonLocal
from deconfound.models.small_cnn import SmallCNN
from deconfound.models.speed import folded
from deconfound.rng import generator, global_seed

OPERATIONS = ("softmax", "dot_product", "mean", "median", "none")
SMALL: dict[str, Any] = {"widths": (3, 4), "hidden": 5, "until": 2}


def fresh(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def made(**options: Any) -> Classifier:
    with global_seed(generator(0, "init")):
        return DenoisingCNN(**SMALL | options)((1, 8, 8), 3)


def awake(model: Classifier) -> Classifier:
    """The model with blocks that do something, and statistics of batch norms that are not those of the start."""
    for module in model.modules():
        if isinstance(module, Denoising):
            nn.init.ones_(module.norm.weight)
    with torch.no_grad():
        model.train()(torch.rand(16, 1, 8, 8, generator=fresh(9)))
    return model.eval()


def mean_of_windows() -> nn.Module:
    (block,) = [module for module in made(operation="mean").modules() if isinstance(module, Denoising)]
    assert block.operation is not None
    return block.operation


@pytest.mark.parametrize("operation", OPERATIONS)
def test_at_the_start_it_is_the_plain_network_of_the_same_seed(operation: str) -> None:
    with global_seed(generator(0, "init")):
        plain = SmallCNN(**SMALL)((1, 8, 8), 3)
    model, x = made(operation=operation, after=(1, 2)), torch.rand(5, 1, 8, 8, generator=fresh())
    assert torch.equal(model.train()(x), plain.train()(x))
    assert not torch.equal(awake(model)(x), plain.eval()(x))


def test_blocks_stand_after_the_pooling_of_their_stages() -> None:
    model = made(after=(2,))
    kinds = [type(layer).__name__ for layer in model.body.children()]
    assert kinds[:9] == [*("Conv2d", "BatchNorm2d", "ReLU", "MaxPool2d") * 2, "Denoising"]
    assert kinds[9] == "Flatten"
    assert [type(layer) for layer in made(after=(1,)).body.children()].index(Denoising) == 4
    both = [module for module in made(after=(2, 1)).modules() if isinstance(module, Denoising)]
    assert [block.convolution.in_channels for block in both] == [3, 4]


def test_softmax_means_are_as_computed_position_by_position() -> None:
    h = torch.randn(2, 4, 2, 3, generator=fresh())
    operation = NonLocal(4, softmax=True, embed=True)
    theta, phi = (part.weight.detach()[:, :, 0, 0] * 50 for part in (operation.theta, operation.phi))
    with torch.no_grad():
        operation.theta.weight.mul_(50)  # type: ignore[operator, union-attr]
        operation.phi.weight.mul_(50)  # type: ignore[operator, union-attr]
        found = operation(h).flatten(2)
    flat = h.flatten(2)
    assert theta.shape == (2, 4)
    for image in range(2):
        for i in range(6):
            scores = torch.stack(
                [(theta @ flat[image, :, i]) @ (phi @ flat[image, :, j]) / 2**0.5 for j in range(6)]
            )
            expected = sum(weight * flat[image, :, j] for j, weight in enumerate(scores.softmax(0)))
            assert torch.allclose(found[image, :, i], torch.as_tensor(expected), atol=1e-5)


def test_products_of_the_maps_themselves_are_as_computed_position_by_position() -> None:
    h = torch.randn(2, 3, 2, 2, generator=fresh())
    found, flat = NonLocal(3, softmax=False, embed=False)(h).flatten(2), h.flatten(2)
    for image in range(2):
        for i in range(4):
            expected = sum((flat[image, :, i] @ flat[image, :, j]) * flat[image, :, j] / 4 for j in range(4))
            assert torch.allclose(found[image, :, i], torch.as_tensor(expected), atol=1e-5)


def test_a_constant_map_passes_means_and_medians() -> None:
    h = torch.full((1, 4, 5, 5), 0.7)
    for operation in (NonLocal(4, softmax=True, embed=True), mean_of_windows(), Median(3)):
        assert torch.allclose(operation(h), h, atol=1e-6)


def test_the_median_drops_a_spike_and_the_mean_spreads_it() -> None:
    h = torch.zeros(1, 1, 5, 5)
    h[0, 0, 2, 2] = 9
    assert Median(3)(h).abs().max() == 0
    assert torch.allclose(mean_of_windows()(h)[0, 0, 1:4, 1:4], torch.ones(3, 3))
    ramp = torch.arange(5.0).repeat(5, 1)[None, None]
    assert torch.equal(Median(3)(ramp), ramp)  # a monotone picture is its own median, edges too


@pytest.mark.parametrize("operation", OPERATIONS)
def test_every_weight_learns_once_the_scale_has_left_zero(operation: str) -> None:
    model = awake(made(operation=operation, after=(1, 2)))
    model.train()(torch.rand(8, 1, 8, 8, generator=fresh())).square().sum().backward()
    lazy = [name for name, w in model.named_parameters() if w.grad is None or not w.grad.abs().sum()]
    assert not [name for name in lazy if "body.4" in name or "body.9" in name or "head" in name]
    state = made(operation=operation, after=(1, 2)).state_dict()
    assert same(dict(state), dict(made(operation=operation, after=(1, 2)).state_dict()))


@pytest.mark.parametrize("operation", OPERATIONS)
def test_folding_its_batch_norms_changes_no_answer(operation: str) -> None:
    model, x = awake(made(operation=operation)), torch.rand(6, 1, 8, 8, generator=fresh())
    light = folded(model, x[:2])
    assert light is not model and torch.allclose(light(x), model(x), atol=1e-5)


@pytest.mark.parametrize("operation", ["mean", "none"])
def test_relevance_propagation_follows_a_linear_block(operation: str) -> None:
    model = awake(made(operation=operation, bias=False))
    for module in model.modules():  # without shifts nothing keeps relevance for itself
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            nn.init.zeros_(module.bias)
            module.running_mean.zero_()  # type: ignore[union-attr, operator]
    x, target = torch.rand(4, 1, 8, 8, generator=fresh()), torch.tensor([0, 1, 2, 0])
    with torch.no_grad():
        logits = model(x).gather(1, target[:, None]).squeeze(1)
    maps = LRP()(model, x, target, rng=fresh())
    assert torch.allclose(maps.flatten(1).sum(1), logits, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("operation", ["softmax", "dot_product", "median"])
def test_relevance_propagation_refuses_a_block_that_it_cannot_follow(operation: str) -> None:
    model = made(operation=operation)
    with pytest.raises(UserError, match=r"lrp: layer body\.8\.operation"):
        LRP()(model, torch.rand(2, 1, 8, 8), torch.tensor([0, 1]), rng=fresh())


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"after": (3,)}, "after: expected different stages from 1 to 2"),
        ({"after": (1, 1)}, "after: expected different stages from 1 to 2"),
        ({"window": 4}, "window: expected an odd side, got 4"),
        ({"after": ()}, "at least 1"),
        ({"operation": "bilateral"}, "operation"),
    ],
)
def test_blocks_that_fit_nowhere_are_refused(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        DenoisingCNN(**wrong)
