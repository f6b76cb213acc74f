"""Batch norms: which layer feeds which, what silencing does, and statistics by hand."""

import pytest
import torch
from oracle_models import same, small_network, snapshot, tiny_images
from repair_benches import convolutional
from torch import Tensor, nn
from torch.nn import functional as F

from deconfound.defenses.batch_norms import batch_norms, feeders, renew_statistics, silence
from deconfound.models.classifier import to_unit
from deconfound.models.timm_models import TimmModel

PROBE = torch.zeros(2, 1, 4, 4)


def test_batch_norms_with_a_scale_are_found_by_name_in_their_order() -> None:
    assert list(batch_norms(convolutional())) == ["body.1", "body.5", "body.9"]
    assert list(batch_norms(small_network())) == ["body.2"]
    assert not batch_norms(nn.Sequential(nn.BatchNorm2d(3, affine=False), nn.LayerNorm(3)))


def test_a_silent_channel_gives_zero_for_every_image_and_the_others_are_as_before() -> None:
    norm = convolutional().get_submodule("body.1")
    x = torch.randn(5, 3, 2, 2, generator=torch.Generator().manual_seed(0))
    before = norm(x)
    silence(norm, torch.tensor([1]))
    after = norm(x)
    assert (after[:, 1] == 0).all() and torch.equal(after[:, [0, 2]], before[:, [0, 2]])
    assert not (before[:, 1] == 0).any()


def test_a_channel_that_keeps_its_shift_gives_that_for_every_image() -> None:
    norm = convolutional().get_submodule("body.1")
    assert isinstance(norm.bias, Tensor)
    shift = norm.bias.detach().clone()
    silence(norm, torch.tensor([2]), shift=False)
    assert shift[2] != 0
    assert torch.equal(norm(torch.randn(5, 3, 2, 2))[:, 2], shift[2].expand(5, 2, 2))


def test_a_silent_channel_of_a_convolution_without_bias_gives_zero() -> None:
    layer = nn.Conv2d(1, 3, 3, bias=False)
    silence(layer, torch.tensor([0, 2]))
    found = layer(torch.rand(2, 1, 4, 4))
    assert (found[:, [0, 2]] == 0).all() and (found[:, 1] != 0).any()


def test_each_batch_norm_is_paired_with_the_layer_that_it_reads() -> None:
    model = convolutional().train()
    before = snapshot(model)
    assert feeders(model, PROBE) == {"body.1": "body.0", "body.5": "body.4", "body.9": "body.8"}
    assert same(snapshot(model), before) and not any(m._forward_hooks for m in model.modules())


def test_a_batch_norm_behind_something_else_has_no_feeder() -> None:
    net = nn.Sequential(nn.BatchNorm2d(1), nn.Conv2d(1, 2, 1), nn.ReLU(), nn.BatchNorm2d(2))
    assert feeders(net, PROBE) == {}


def test_batch_norms_of_a_residual_network_read_their_convolutions() -> None:
    model = TimmModel(name="resnet18")((3, 8, 8), 4)
    found = feeders(model, torch.zeros(2, 3, 8, 8))
    assert len(found) == len(batch_norms(model)) == 20
    assert found["body.model.layer2.0.downsample.1"] == "body.model.layer2.0.downsample.0"
    assert found["body.model.layer4.1.bn2"] == "body.model.layer4.1.conv2"


def test_renewed_statistics_are_the_mean_over_batches() -> None:
    model, images = small_network(), tiny_images(12)
    with torch.no_grad():
        before = F.linear(to_unit(images.x).flatten(1), model.body[1].weight, model.body[1].bias)  # type: ignore[index]
    renew_statistics(model, images, batch_size=4, rng=torch.Generator().manual_seed(0))
    norm = model.body[2]  # type: ignore[index]
    assert torch.allclose(norm.running_mean, before.mean(0), atol=1e-6)
    variance = torch.stack([part.var(0) for part in before.split(4)]).mean(0)
    assert torch.allclose(norm.running_var, variance, atol=1e-6)
    assert norm.momentum == 0.1


@pytest.mark.parametrize("elsewhere", [1, 2])
def test_renewing_asks_no_global_generator(elsewhere: int) -> None:
    model = convolutional()
    torch.manual_seed(elsewhere)
    before = torch.get_rng_state()
    renew_statistics(model, tiny_images(9), batch_size=4, rng=torch.Generator().manual_seed(0))
    assert torch.equal(torch.get_rng_state(), before)
