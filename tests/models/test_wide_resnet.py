"""The wide residual network: its size, its resolution and its start can be counted by hand."""

import math

import pytest
import torch
from pydantic import ValidationError
from torch import nn

from deconfound.models.classifier import Classifier
from deconfound.models.wide_resnet import WideResNet
from deconfound.rng import generator, global_seed


def made(**spec: int) -> Classifier:
    with global_seed(generator(0, "init")):
        return WideResNet(**spec)((3, 32, 32), 10)  # type: ignore[arg-type]


def test_a_wrn_16_1_has_the_weights_that_its_layers_add_up_to() -> None:
    convolutions = 3 * 16 * 9 + 4 * 16 * 16 * 9
    convolutions += 16 * 32 * 9 + 3 * 32 * 32 * 9 + 16 * 32
    convolutions += 32 * 64 * 9 + 3 * 64 * 64 * 9 + 32 * 64
    norms = 2 * (4 * 16 + (16 + 3 * 32) + (32 + 3 * 64) + 64)
    model = made()
    assert sum(p.numel() for p in model.parameters()) == convolutions + norms + 64 * 10 + 10
    assert model.head.in_features == 64  # the embedding of CBD, whose critic reads 128 numbers


def test_a_wrn_28_10_has_thirty_six_and_a_half_million_weights() -> None:
    with torch.device("meta"):
        model = WideResNet(depth=28, width=10)((3, 32, 32), 10)
    assert round(sum(p.numel() for p in model.parameters()) / 1e6, 1) == 36.5


def test_the_last_two_groups_halve_the_picture() -> None:
    model = made()
    sides = []
    for module in model.body:  # type: ignore[attr-defined]
        module.register_forward_hook(lambda m, i, o: sides.append(o.shape[-1]) if o.ndim == 4 else None)
    model(torch.rand(2, 3, 32, 32))
    assert sides == [32, 32, 32, 16, 16, 8, 8, 8, 8, 1]


def test_a_block_whose_convolutions_are_zero_passes_its_input_on() -> None:
    block = made().body[1].eval()  # type: ignore[index]
    for convolution in (block.conv1, block.conv2):
        nn.init.zeros_(convolution.weight)
    x = torch.randn(2, 16, 8, 8)
    assert torch.equal(block(x), x)


def test_a_shortcut_that_changes_the_shape_reads_the_activation() -> None:
    block = made().body[3].eval()  # type: ignore[index]
    nn.init.zeros_(block.conv2.weight)
    x = torch.randn(2, 16, 8, 8)
    assert torch.allclose(block(x), block.shortcut(torch.relu(block.norm1(x))))


def test_convolutions_start_with_the_variance_of_their_outputs() -> None:
    model = made(width=4)
    for module in model.modules():
        if isinstance(module, nn.Conv2d) and module.weight.numel() > 5000:
            fan = module.kernel_size[0] ** 2 * module.out_channels
            assert float(module.weight.detach().std()) == pytest.approx(math.sqrt(2 / fan), rel=0.05)


@pytest.mark.parametrize("depth", [4, 9, 17])
def test_a_depth_that_is_not_six_n_plus_four_is_refused(depth: int) -> None:
    with pytest.raises(ValidationError, match="expected 10, 16, 22, 28, 34"):
        WideResNet(depth=depth)
