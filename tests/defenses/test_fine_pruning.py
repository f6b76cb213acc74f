"""Fine-pruning: activities by hand, exactly the least active channels, and where it stops."""

from typing import Any

import pytest
import torch
from oracle_models import same, small_network, snapshot
from repair_benches import bench, convolutional
from torch import nn

from deconfound.defenses import fine_pruning
from deconfound.defenses.batch_norms import silence
from deconfound.defenses.fine_pruning import FinePruning, Pruned, last_layer, mean_activation, prune
from deconfound.defenses.repair import halves, suspect
from deconfound.errors import UserError
from deconfound.models.classifier import Classifier, to_unit
from deconfound.models.timm_models import TimmModel
from deconfound.types import Images


def hand_made() -> tuple[Classifier, Images]:
    """Channel k is the mean of a row of pixels, shifted; the head reads channel 0 in row 0 and channel 1 in row 1."""
    conv = nn.Conv2d(1, 4, (1, 4), bias=False)
    conv.weight.data.fill_(0.25)
    norm = nn.BatchNorm2d(4, eps=0).eval()
    norm.weight.data = torch.tensor([1.0, 1, 1, 1])
    norm.bias.data = torch.tensor([-0.1, -0.2, -0.9, -2])
    head = nn.Linear(16, 2, bias=False)
    head.weight.data.zero_()
    head.weight.data[0, 0] = head.weight.data[1, 5] = 1  # channel 0 in row 0, channel 1 in row 1
    model = Classifier(nn.Sequential(conv, norm, nn.ReLU(), nn.Flatten()), head, channels=1).eval()
    x = torch.zeros(4, 1, 4, 4, dtype=torch.uint8)
    x[:2, :, 0] = 255
    x[2:, :, 1] = 255
    return model, Images(x, torch.tensor([0, 0, 1, 1]))


def test_the_units_are_those_of_the_last_batch_norm_with_positions() -> None:
    assert last_layer(convolutional()) == "body.5"
    assert last_layer(TimmModel(name="resnet18")((3, 8, 8), 4)) == "body.model.layer4.1.bn2"
    assert last_layer(small_network()) == "body.2"
    plain = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Flatten())
    assert last_layer(Classifier(plain, nn.Linear(8, 2), channels=1)) == "body.0"
    with pytest.raises(UserError, match="a layer with units"):
        last_layer(Classifier(nn.Flatten(), nn.Linear(8, 2), channels=1))


def test_the_activation_is_the_mean_over_images_and_positions_of_the_positive_part() -> None:
    model, images = hand_made()
    before = snapshot(model)
    found = mean_activation(model, "body.1", images)
    # one row in four is bright in every image: relu(1 + shift) there, relu(shift) elsewhere
    assert found.tolist() == pytest.approx([0.9 / 4, 0.8 / 4, 0.1 / 4, 0], abs=1e-6)
    assert same(snapshot(model), before)


def test_the_least_active_channels_go_first_and_those_that_matter_stay() -> None:
    model, images = hand_made()
    pruned, accuracies = prune(model, "body.1", mean_activation(model, "body.1", images), images, 0.0)
    assert pruned.tolist() == [3, 2]
    assert accuracies == [1.0, 1.0, 1.0, 0.5]  # without channel 1 the second class is lost: refused
    norm = model.get_submodule("body.1")
    assert norm.weight.tolist() == [1, 1, 0, 0] and norm.bias.tolist() == pytest.approx([-0.1, -0.2, 0, 0])  # type: ignore[union-attr, operator]


@pytest.mark.parametrize(("tolerance", "expected"), [(0.49, [3, 2]), (0.5, [3, 2, 1]), (1.0, [3, 2, 1])])
def test_tolerance_is_in_points_of_accuracy_and_one_channel_always_stays(
    tolerance: float, expected: list[int]
) -> None:
    model, images = hand_made()
    activity = torch.tensor([4.0, 3, 2, 1])
    assert prune(model, "body.1", activity, images, tolerance)[0].tolist() == expected


def test_channels_that_were_silenced_stay_silent_through_the_fine_tuning() -> None:
    room = bench()
    spec = FinePruning(tolerance=1.0, epochs=3, lr=0.1)
    done = spec(room)
    norm = done.model.get_submodule("body.5")
    assert done.notes["units_pruned"] == 3 and done.notes["units"] == 4
    assert int((norm.weight == 0).sum()) == int((norm.bias == 0).sum()) == 3
    assert not same(done.model.head.weight.detach(), suspect(room).head.weight.detach())
    assert str(done.notes["held_accuracy_curve"]).count(":") == 4


@pytest.mark.parametrize("epochs", [0, 3])
def test_a_pruned_channel_puts_out_exactly_nothing_before_and_after_the_fine_tuning(epochs: int) -> None:
    room = bench()
    model = FinePruning(tolerance=1.0, epochs=epochs, lr=0.1)(room).model.eval()
    norm = model.get_submodule("body.5")
    assert isinstance(norm, nn.BatchNorm2d)
    with torch.no_grad():
        maps = model.body[:6](to_unit(room.val.x) - model.mean.view(-1, 1, 1))  # type: ignore[index, operator]
    silent = maps.transpose(0, 1).flatten(1).eq(0).all(1)
    assert int(silent.sum()) == 3 and torch.equal(silent, norm.weight == 0)


def test_a_network_of_which_nothing_can_go_stays_as_it_is() -> None:
    model, images = hand_made()
    before = snapshot(model)
    pruned, accuracies = prune(model, "body.1", torch.tensor([2.0, 1, 3, 4]), images, 0.0)
    assert not len(pruned) and accuracies == [1.0, 0.5] and same(snapshot(model), before)
    Pruned("body.1", pruned).after_step(model)
    assert same(snapshot(model), before)


def test_a_unit_that_a_step_would_wake_is_silenced_again() -> None:
    """Behind no ReLU the gradient of a silent channel is not zero."""
    norm, head = nn.BatchNorm2d(2), nn.Linear(32, 3)
    model = Classifier(nn.Sequential(nn.Conv2d(1, 2, 1), norm, nn.Flatten()), head, channels=1)
    room = bench()
    silence(norm, torch.tensor([1]))
    room.fit(model, Pruned("body.1", torch.tensor([1])), data=room.val)
    assert norm.weight[1] == 0 and norm.bias[1] == 0 and norm.weight[0] != 1


def test_without_epochs_only_the_pruned_layer_differs() -> None:
    room = bench()
    done, start = FinePruning(tolerance=1.0, epochs=0)(room), suspect(room)
    differ = [
        name
        for name, value in done.model.state_dict().items()
        if not torch.equal(value, start.state_dict()[name])
    ]
    assert differ == ["body.5.weight", "body.5.bias"]


def test_activity_is_measured_on_one_half_and_accuracy_on_the_other(monkeypatch: pytest.MonkeyPatch) -> None:
    room, seen = bench(), {}

    def recording(name: str) -> None:
        real = getattr(fine_pruning, name)

        def call(*args: Any) -> Any:
            seen[name] = args[-1]
            return real(*args)

        monkeypatch.setattr(fine_pruning, name, call)

    recording("mean_activation")
    recording("accuracy")
    done = FinePruning(epochs=0)(room)
    fitted, held = halves(room)
    assert same(tuple(seen["mean_activation"]), tuple(fitted)) and same(tuple(seen["accuracy"]), tuple(held))
    assert done.notes["held_out_images"] == 12 and done.notes["layer"] == "body.5"
