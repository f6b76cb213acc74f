"""Architectures of timm: the known names, the stem for small images, and a round trip through files."""

from pathlib import Path
from typing import Any

import pytest
import torch
from oracle_models import CPU
from torch import nn
from torch.nn import functional as F

from deconfound.errors import ConfigError, DataError
from deconfound.models import MODELS
from deconfound.models.classifier import predict
from deconfound.models.timm_models import TimmModel, keep_resolution, known_names
from deconfound.registry import build
from deconfound.steps.weights import load_model
from deconfound.storage import write_json, write_weights

RESNET: dict[str, Any] = {"kind": "timm", "name": "test_resnet"}
VIT: dict[str, Any] = {"kind": "timm", "name": "test_vit", "options": {"img_size": 8, "patch_size": 2}}


def test_the_names_read_from_the_source_are_those_that_timm_lists() -> None:
    from deconfound.torchvision_operators import ensure

    ensure()
    import timm

    listed = set(timm.list_models())
    assert {"resnet18", "test_resnet", "test_vit", "convnext_atto"} <= known_names()
    assert len(listed ^ known_names()) <= 0.01 * len(listed)


@pytest.mark.parametrize("block", [RESNET, VIT | {"small_stem": False}])
def test_a_network_of_timm_learns_and_goes_through_a_file(block: dict[str, Any], tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = build(MODELS, block, at="models.m")((1, 8, 8), 10)
    x, y = torch.rand(16, 1, 8, 8), torch.arange(16) % 10
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    losses = []
    for _ in range(4):
        optimizer.zero_grad()
        loss = F.cross_entropy(model.train()(x), y)
        loss.backward()
        assert all(parameter.grad is not None for parameter in model.parameters())
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]

    write_weights(tmp_path / "model.safetensors", model.state_dict())
    about = {"spec": {"model": block}, "shape": [1, 8, 8], "classes": [str(label) for label in range(10)]}
    write_json(tmp_path / "run.json", about)
    loaded = load_model(tmp_path, CPU)
    assert not loaded.training
    assert torch.equal(predict(loaded, x), predict(model, x))
    assert torch.equal(loaded.head(loaded.features(x)), loaded(x))


def test_weights_of_another_architecture_are_named_as_such(tmp_path: Path) -> None:
    torch.manual_seed(0)
    write_weights(tmp_path / "model.safetensors", TimmModel(name="test_resnet")((1, 8, 8), 10).state_dict())
    about = {"spec": {"model": {"kind": "small_cnn"}}, "shape": [1, 8, 8], "classes": ["0", "1"]}
    write_json(tmp_path / "run.json", about)
    with pytest.raises(DataError, match="do not fit the architecture"):
        load_model(tmp_path, CPU)


@pytest.mark.parametrize(
    ("name", "hint"),
    [("resnet_18", "resnet18"), ("tset_resnet", "test_resnet"), ("resnet18.a1_in1k", "resnet18")],
)
def test_an_unknown_name_gets_the_nearest_known_one(name: str, hint: str) -> None:
    with pytest.raises(ConfigError, match=rf"^models\.m\.name: .*{name}.*did you mean '{hint}"):
        build(MODELS, {"kind": "timm", "name": name}, at="models.m")


def test_a_residual_network_reads_small_pictures_at_their_own_resolution() -> None:
    small, large = (TimmModel(name="resnet18")((3, side, side), 4) for side in (32, 65))
    stem: Any = small.body.model  # type: ignore[attr-defined]
    assert stem.conv1.stride == (1, 1) and stem.conv1.kernel_size == (3, 3)
    assert stem.forward_features(torch.rand(1, 3, 32, 32)).shape == (1, 512, 4, 4)  # 1/8, not 1/32
    assert large.body.model.conv1.stride == (2, 2)  # type: ignore[attr-defined]
    untouched = TimmModel(name="resnet18", small_stem=False)((3, 32, 32), 4)
    assert untouched.body.model.conv1.stride == (2, 2)  # type: ignore[attr-defined]


class Stem(nn.Module):
    """A first convolution, a pooling, a second convolution."""

    def __init__(self, first: nn.Conv2d) -> None:
        super().__init__()
        self.inner = nn.Sequential(first, nn.ReLU())
        self.maxpool = nn.MaxPool2d(2)
        self.later = nn.Conv2d(4, 4, 3, stride=2)


def test_a_wide_first_convolution_is_replaced_by_one_that_keeps_the_picture() -> None:
    model = Stem(nn.Conv2d(3, 4, 7, stride=2, padding=3, bias=False))
    keep_resolution(model)
    first: Any = model.inner[0]
    assert (first.kernel_size, first.stride, first.padding) == ((3, 3), (1, 1), (1, 1))
    assert first.bias is None
    assert model.maxpool(model.inner(torch.rand(1, 3, 9, 9))).shape == (1, 4, 9, 9)
    assert model.later.stride == (2, 2)


def test_a_narrow_first_convolution_keeps_its_weights() -> None:
    model = Stem(nn.Conv2d(3, 4, 3, stride=2, padding=1))
    weight = model.inner[0].weight
    keep_resolution(model)
    assert model.inner[0].weight is weight
    assert model.inner(torch.rand(1, 3, 9, 9)).shape == (1, 4, 9, 9)


def test_a_first_convolution_without_stride_is_left_alone() -> None:
    model = Stem(nn.Conv2d(3, 4, 5, padding=2))
    first = model.inner[0]
    keep_resolution(model)
    assert model.inner[0] is first and first.kernel_size == (5, 5)


def test_a_transformer_keeps_the_patches_that_its_options_ask_for() -> None:
    model = build(MODELS, VIT, at="models.m")((1, 8, 8), 10)
    patches = model.body.model.patch_embed.proj(torch.rand(1, 1, 8, 8))
    assert patches.shape[2:] == (4, 4)  # of 2 x 2 pixels each
