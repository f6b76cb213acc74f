"""NAD: attention maps by hand, groups of layers, and a loss that is the sum of its terms."""

import pytest
import torch
from oracle_models import same, small_network, snapshot
from repair_benches import bench, convolutional
from torch.nn import functional as F

from deconfound.defenses.nad import NAD, Distillation, attention, groups, recorded, stations
from deconfound.models.classifier import to_unit
from deconfound.models.small_cnn import SmallCNN
from deconfound.models.timm_models import TimmModel

PROBE = torch.zeros(2, 1, 4, 4)


def test_the_attention_map_of_two_channels_is_as_computed_by_hand() -> None:
    features = torch.tensor([[[[1.0, -2.0]], [[2.0, 0.0]]]])  # one image, two channels of 1 x 2
    # squares summed over channels: 5 and 4; norm sqrt(41)
    assert attention(features, 2.0)[0].tolist() == pytest.approx([5 / 41**0.5, 4 / 41**0.5], rel=1e-5)
    assert attention(features, 1.0)[0].tolist() == pytest.approx([3 / 13**0.5, 2 / 13**0.5], rel=1e-5)


def test_attention_has_unit_norm_whatever_the_scale_and_is_zero_where_nothing_is() -> None:
    features = torch.randn(3, 4, 2, 2, generator=torch.Generator().manual_seed(0))
    assert attention(features, 2.0).norm(dim=1).tolist() == pytest.approx([1, 1, 1], abs=1e-5)
    assert torch.allclose(attention(7 * features, 2.0), attention(features, 2.0), atol=1e-6)
    assert (attention(torch.zeros(1, 2, 2, 2), 2.0) == 0).all()
    assert attention(torch.tensor([[3.0, 4.0]]), 1.0)[0].tolist() == pytest.approx([0.6, 0.8], rel=1e-5)


def test_groups_are_the_ends_of_blocks_and_of_stages() -> None:
    assert groups(convolutional(), PROBE) == ["body.3", "body.6"]  # pooling, and the last ReLU
    model = SmallCNN(widths=(12, 24, 32), hidden=8)((3, 32, 32), 8)
    assert groups(model, torch.zeros(2, 3, 32, 32)) == ["body.3", "body.7", "body.11"]
    assert groups(small_network(), PROBE) == ["body"]
    resnet = TimmModel(name="resnet18")((3, 16, 16), 4)
    assert groups(resnet, torch.zeros(2, 3, 16, 16)) == [f"body.model.layer{k}.1" for k in (1, 2, 3, 4)]


def test_finding_groups_leaves_the_network_alone() -> None:
    model = convolutional().train()
    before = snapshot(model)
    groups(model, PROBE)
    assert same(snapshot(model), before) and not any(m._forward_hooks for m in model.modules())
    assert list(stations(small_network().body)) == [f"body.{k}" for k in range(5)]


@pytest.mark.parametrize(
    ("weights", "expected", "places"),
    [
        ((500, 1000, 1000), (1000, 1000), ["body.3", "body.6"]),
        ((5, 7), (5, 7), ["body.3", "body.6"]),
        ((9,), (9,), ["body.6"]),
    ],
)
def test_the_last_weights_meet_the_last_groups(
    weights: tuple[float, ...], expected: tuple[float, ...], places: list[str]
) -> None:
    model = convolutional()
    made = Distillation(NAD(weights=weights), model, groups(model, PROBE))
    assert made.weights == expected and list(made.places) == places


def test_the_loss_is_cross_entropy_plus_the_weighted_distances_of_maps() -> None:
    student, teacher = convolutional(), convolutional(1)
    images = bench().val
    x, y = to_unit(images.x), images.y
    made = Distillation(NAD(weights=(3, 5)), teacher, ["body.3", "body.6"])
    found = made(student, x, y, rng=torch.Generator())
    with torch.no_grad(), recorded(student, made.places) as mine, recorded(teacher, made.places) as theirs:
        logits = student(x)
        teacher(x)
        expected = F.cross_entropy(logits, y)
        for weight, place in ((3, "body.3"), (5, "body.6")):
            maps = [(seen[place] ** 2).sum(1).flatten(1) for seen in (mine, theirs)]
            maps = [part / (part.norm(dim=1, keepdim=True) + 1e-6) for part in maps]
            expected = expected + weight * (maps[0] - maps[1]).square().mean()
    assert found.item() == pytest.approx(expected.item(), rel=1e-5)
    assert found.item() > F.cross_entropy(logits, y).item() + 0.01


def test_a_student_like_its_teacher_pays_nothing_and_the_teacher_learns_nothing() -> None:
    student, teacher = convolutional(), convolutional()
    images = bench().val
    x, y = to_unit(images.x), images.y
    made = Distillation(NAD(), teacher.train(), ["body.3", "body.6"])
    loss = made(student, x, y, rng=torch.Generator())
    assert loss.item() == pytest.approx(F.cross_entropy(student(x), y).item(), rel=1e-6)
    loss.backward()
    assert not teacher.training and all(p.grad is None and not p.requires_grad for p in teacher.parameters())
    assert all(p.grad is not None for p in student.parameters())


def test_the_notes_tell_what_the_teacher_could() -> None:
    done = NAD(teacher_epochs=1, epochs=1)(bench())
    assert done.notes["groups"] == 2 and 0 <= float(done.notes["teacher_accuracy"]) <= 1
