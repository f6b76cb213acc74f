"""Normalise, features, head; and the modes in which a model is borrowed."""

from pathlib import Path

import pytest
import torch
from oracle_models import Linear, same, small_network, snapshot, tiny_images
from torch import nn

from deconfound.models.classifier import Classifier, eval_mode, frozen, in_order, placed, predict, to_unit
from deconfound.models.small_cnn import SmallCNN
from deconfound.storage import write_weights


def test_logits_are_the_head_of_the_features_of_the_normalised_image() -> None:
    body = nn.Flatten()
    model = Classifier(body, nn.Linear(8, 3), channels=2)
    model.mean.copy_(torch.tensor([0.5, 0.25]))
    model.std.copy_(torch.tensor([0.5, 0.125]))
    x = torch.tensor([0.75, 0.5]).view(1, 2, 1, 1).expand(4, 2, 2, 2)
    expected = torch.tensor([0.5] * 4 + [2.0] * 4).expand(4, 8)
    assert torch.equal(model.features(x), expected)
    assert torch.equal(model(x), model.head(expected))


class Seen(nn.Module):
    """Flattens, and keeps what it was given."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.x = x
        return x.flatten(1)


@pytest.mark.parametrize(("side", "last"), [(8, False), (15, False), (16, True), (32, True)])
def test_wide_pictures_enter_a_network_on_a_cpu_with_the_channels_last(side: int, last: bool) -> None:
    body = Seen()
    model = Classifier(body, nn.Linear(3 * side * side, 2), channels=3)
    x = torch.rand(2, 3, side, side)
    features = model.features(x)
    assert body.x.is_contiguous(memory_format=torch.channels_last) == last
    assert torch.equal(features, x.flatten(1))  # the order of the features is the same


def test_the_memory_order_changes_no_logit_and_no_gradient_beyond_rounding() -> None:
    torch.manual_seed(0)
    model = SmallCNN(widths=(4, 6), hidden=8)((3, 16, 16), 5)
    x = torch.rand(6, 3, 16, 16)
    found = []
    for body in (model.body, nn.Sequential(Contiguous(), model.body)):
        z = x.clone().requires_grad_(True)
        logits = Classifier(body, model.head, channels=3)(z)
        weights = list(model.parameters())
        found.append((logits, *torch.autograd.grad(logits.square().sum(), [z, *weights])))
    assert not torch.equal(found[0][1], torch.zeros_like(x))
    for one, other in zip(*found, strict=True):
        assert torch.allclose(one, other, rtol=1e-3, atol=1e-4)


class Contiguous(nn.Module):
    """The images in the usual memory order."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.contiguous()


@pytest.mark.parametrize(("shape", "last"), [((1, 28, 28), True), ((3, 16, 16), True), ((3, 16, 8), False)])
def test_a_network_for_wide_pictures_keeps_its_weights_with_the_channels_last(
    shape: tuple[int, int, int], last: bool
) -> None:
    model = placed(SmallCNN(widths=(4, 6), hidden=8)(shape, 5), torch.device("cpu"), shape=shape)
    seen: list[bool] = []
    second = model.body.get_submodule("4")
    assert isinstance(second, nn.Conv2d)
    second.register_forward_hook(
        lambda _, inputs, out: seen.append(out.is_contiguous(memory_format=torch.channels_last))
    )
    model(torch.rand(2, *shape))
    assert seen == [last]
    assert second.weight.is_contiguous(memory_format=torch.channels_last) == last


def test_weights_are_stored_as_the_same_bytes_in_either_order(tmp_path: Path) -> None:
    model = SmallCNN(widths=(4, 6), hidden=8)((1, 16, 16), 5)
    files = [tmp_path / "usual", tmp_path / "last"]
    write_weights(files[0], model.state_dict())
    write_weights(files[1], placed(model, torch.device("cpu"), shape=(1, 16, 16)).state_dict())
    assert files[0].read_bytes() == files[1].read_bytes()


def test_what_is_no_picture_stays_in_its_order() -> None:
    points = torch.rand(3, 40)
    assert in_order(points) is points


def test_normalisation_comes_from_the_training_images_channel_by_channel() -> None:
    model = Classifier(nn.Flatten(), nn.Linear(8, 3), channels=2)
    x = torch.zeros(2, 2, 1, 2, dtype=torch.uint8)
    x[:, 0] = torch.tensor([[0, 255], [0, 255]], dtype=torch.uint8).view(2, 1, 2)
    x[:, 1] = 51  # a channel without contrast
    model.normalise_like(x)
    assert model.mean.tolist() == pytest.approx([0.5, 0.2])
    assert model.std.tolist() == pytest.approx([(1 / 3) ** 0.5, 0.01])  # sample deviation; a floor of 1/100
    assert {"mean", "std"} <= model.state_dict().keys()


def test_bytes_become_floats_in_the_unit_interval_and_floats_pass() -> None:
    x = torch.tensor([0, 51, 255], dtype=torch.uint8)
    assert to_unit(x).dtype == torch.float32
    assert to_unit(x).tolist() == pytest.approx([0, 0.2, 1])
    floats = torch.rand(3)
    assert to_unit(floats) is floats


@pytest.mark.parametrize("batch_size", [1, 7, 30, 512])
def test_predictions_do_not_depend_on_the_batch_size(batch_size: int) -> None:
    model, x = small_network().train(), tiny_images(30).x
    with torch.no_grad():
        expected = small_network().eval()(x.float() / 255)
    assert torch.allclose(predict(model, x, batch_size=batch_size), expected, atol=1e-6)


def test_predictions_of_bytes_and_of_floats_agree() -> None:
    model, x = small_network(), tiny_images(12).x
    assert torch.equal(predict(model, x), predict(model, x.float() / 255))


def test_a_prediction_leaves_the_model_as_it_was() -> None:
    model = small_network().train()
    model.body[2].eval()
    before = snapshot(model)
    logits = predict(model, tiny_images(12).x)
    assert same(snapshot(model), before) and not logits.requires_grad


def test_no_images_give_no_predictions() -> None:
    assert len(predict(Linear(torch.zeros(16)), tiny_images(3).x[:0])) == 0


def test_evaluation_mode_is_lent_and_given_back_even_after_an_error() -> None:
    model = small_network().train()
    model.body[2].eval()
    model.head.bias.requires_grad_(False)
    before = snapshot(model)
    with pytest.raises(KeyError), eval_mode(model):
        assert not any(module.training for module in model.modules())
        assert not any(parameter.requires_grad for parameter in model.parameters())
        raise KeyError
    assert same(snapshot(model), before)


def test_frozen_parameters_ask_for_no_gradient_and_modes_stay() -> None:
    model = small_network().train()
    before = snapshot(model)
    with pytest.raises(KeyError), frozen(model):
        assert model.training and model.body[4].training
        assert not any(parameter.requires_grad for parameter in model.parameters())
        raise KeyError
    assert same(snapshot(model), before)
