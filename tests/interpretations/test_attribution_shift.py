"""How far maps move, on networks that look at one pixel per class and under attacks that do what the image says."""

from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from oracle_models import same, small_network, snapshot, tiny_images
from scipy.stats import spearmanr
from torch import Generator, Tensor, nn

from deconfound.attributions.shift import SHIFTS
from deconfound.errors import ConfigError
from deconfound.fields import hyperparameters
from deconfound.interpretations.case import Case, Floats, Place, Readings
from deconfound.interpretations.shift import AttributionShift, score_of
from deconfound.models.classifier import Classifier
from deconfound.registry import build
from deconfound.rng import generator
from deconfound.threat import ThreatModel
from deconfound.types import Images

SIDE = 4
EYES = ((0, 0), (0, 3), (3, 0))  # the pixel that class k is read from
DISTANCE = {(0, 1): 3.0, (1, 2): 18**0.5, (0, 2): 3.0}
MARK, BLIND = (2, 2), (1, 1)  # what the attack is to do; a pixel that nobody looks at
FOOLED, MOVED, STILL, WRONG = range(4)  # groups of three images, one of each class
SALIENCY = {"gradient": {"kind": "saliency"}}
TABLE = {"attribution_shift": "deconfound.interpretations.shift:AttributionShift"}


@hyperparameters
class Scripted:
    """Lifts the next class's pixel of marked images, a blind pixel of half marked ones, and leaves others alone."""

    eps: float = 0.2

    @property
    def threat(self) -> ThreatModel:
        return ThreatModel(norm="linf", eps=self.eps)

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, *, rng: Generator) -> Tensor:
        z = x.clone()
        for image, label in zip(z, y.tolist(), strict=True):
            row, column = EYES[(label + 1) % 3] if image[0, *MARK] > 0.7 else BLIND
            image[0, row, column] += self.eps * (image[0, *MARK] > 0.3)
        return z


@hyperparameters
class Nothing:
    """Leaves images alone, without a budget."""

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, *, rng: Generator) -> Tensor:
        return x.clone()


@hyperparameters
class Sparse:
    """Moves two pixels by 0.3 and 0.4, in a norm that noise does not know."""

    @property
    def threat(self) -> ThreatModel:
        return ThreatModel(norm="l1", eps=0.7)

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, *, rng: Generator) -> Tensor:
        z = x.clone()
        z[:, 0, 1, 1] += 0.3
        z[:, 0, 1, 2] += 0.4
        return z


def eyes() -> Classifier:
    """Logit k is pixel k of EYES."""
    model = Classifier(nn.Flatten(), nn.Linear(SIDE * SIDE, 3), channels=1)
    with torch.no_grad():
        model.head.weight.zero_()
        model.head.bias.zero_()
        for label, (row, column) in enumerate(EYES):
            model.head.weight[label, row * SIDE + column] = 1
    return model.eval()


def scripted() -> Images:
    """Twelve images in the groups above."""
    x = torch.full((12, 1, SIDE, SIDE), 80, dtype=torch.uint8)
    y = torch.arange(12) % 3
    for place, label in enumerate(y.tolist()):
        group = place // 3
        seen = (label + 1) % 3 if group == WRONG else label
        x[place, 0, *EYES[seen]] = 110
        x[place, 0, *MARK] = (255, 128, 0, 255)[group]
    return Images(x, y)


def case(model: Classifier, test: Images, **more: Any) -> Case:
    common: dict[str, Any] = {"train": test, "test": test, "rng": partial(generator, 0), "classes": 3}
    return Case(model=model, defense=None, parts={}, **(common | more))


def packed(readings: dict[Place, Floats]) -> dict[Place, bytes]:
    return {place: values.tobytes() for place, values in readings.items()}


def made(kind: str = "Scripted", **changes: Any) -> AttributionShift:
    settings = {"attack": {"kind": f"{__name__}:{kind}"}, "attributions": SALIENCY, **changes}
    return build(TABLE, {"kind": "attribution_shift", **settings}, at="x")


def group(found: Readings, condition: str, metric: str) -> dict[int, Floats]:
    values = found.each[Place("gradient", condition, metric)]
    assert values.shape == (12,)
    return {number: values[3 * number : 3 * number + 3] for number in range(4)}


# Which images stand in which row


def test_every_row_holds_the_images_that_it_says_and_no_others() -> None:
    found = made()(case(eyes(), scripted()))
    rows = {
        "success_true": {FOOLED},
        "success_pred": {FOOLED},
        "failure": {MOVED},
        "noise_true": {FOOLED, MOVED},
        "noise_pred": {FOOLED, MOVED},
        "floor": {FOOLED, MOVED, STILL},
    }
    for condition, groups in rows.items():
        for number, values in group(found, condition, "cosine").items():
            assert np.isfinite(values).all() == (number in groups), (condition, number)
            assert np.isnan(values).all() == (number not in groups), (condition, number)
    assert {place.condition for place in found.each if place.subject == "gradient"} == set(rows)
    fooled = found.each[Place("prediction", "attack", "fooled")]
    assert fooled[:6].tolist() == [1, 1, 1, 0, 0, 0] and np.isnan(fooled[6:]).all()
    assert np.isfinite(found.each[Place("prediction", "noise", "fooled")][:6]).all()
    assert any("left 3 of 9 images as they were" in note for note in found.notes)


def test_the_map_for_the_label_stays_and_the_map_for_the_prediction_goes_to_the_other_pixel() -> None:
    found = made()(case(eyes(), scripted()))
    assert group(found, "success_true", "centre_shift")[FOOLED].tolist() == [0, 0, 0]
    assert group(found, "success_true", "cosine")[FOOLED].tolist() == [1, 1, 1]
    moved = group(found, "success_pred", "centre_shift")[FOOLED]
    assert moved == pytest.approx([DISTANCE[0, 1], DISTANCE[1, 2], DISTANCE[0, 2]])
    assert group(found, "success_pred", "cosine")[FOOLED].tolist() == [0, 0, 0]
    assert group(found, "failure", "centre_shift")[MOVED].tolist() == [0, 0, 0]
    assert group(found, "floor", "cosine")[STILL].tolist() == [1, 1, 1]


def test_a_rule_that_is_not_asked_for_has_no_rows() -> None:
    both, one = made()(case(eyes(), scripted())), made(targets=["pred"])(case(eyes(), scripted()))
    assert not any("true" in place.condition for place in one.each)
    for condition in ("success_pred", "failure", "noise_pred", "floor"):
        place = Place("gradient", condition, "cosine")
        assert one.each[place].tobytes() == both.each[place].tobytes()


# Controls


def test_noise_has_the_size_of_what_the_attack_did_to_the_same_image() -> None:
    test = scripted()
    found = made(gallery=6)(case(eyes(), test))
    clean, attacked, noisy = (found.pictures[f"gallery.{name}"] for name in ("clean", "attacked", "noisy"))
    wanted = np.abs(attacked - clean).max((1, 2, 3))
    assert wanted == pytest.approx([0.2] * 6)
    assert np.abs(noisy - clean).max((1, 2, 3)) == pytest.approx(wanted)
    assert np.isclose(np.abs(noisy - clean), 0.2).mean() > 0.9  # all pixels but those at the edge of the box


def test_noise_against_a_sparse_attack_has_its_l2_norm_and_a_note_says_so() -> None:
    found = made("Sparse")(case(eyes(), scripted()))
    clean, noisy = found.pictures["gallery.clean"], found.pictures["gallery.noisy"]
    assert np.sqrt(((noisy - clean) ** 2).sum((1, 2, 3))) == pytest.approx([0.5] * 6, abs=1e-5)
    assert any("L2 norm" in note for note in found.notes)


def test_an_image_that_is_alone_in_its_class_has_no_floor_and_a_note_says_so() -> None:
    images = scripted()
    few = Images(images.x[[0, 3, 6, 1, 2, 5]], images.y[[0, 3, 6, 1, 2, 5]])
    found = made()(case(eyes(), few))
    floor = found.each[Place("gradient", "floor", "cosine")]
    assert np.isfinite(floor).tolist() == [True, True, True, False, True, True]
    assert any("1 images are alone in their class" in note for note in found.notes)


def test_the_floor_compares_with_another_image_and_never_with_the_same() -> None:
    class Image:
        def __call__(self, model: Classifier, x: Tensor, target: Tensor, *, rng: Generator) -> Tensor:
            return x

    test = tiny_images(30)
    spec = made("Nothing", examples=30)
    states = spec._states(case(eyes(), test), Readings())
    assert len(states.rows) > 6
    assert torch.equal(states.y[states.partner][states.paired], states.y[states.paired])
    assert (states.partner != torch.arange(len(states.y)))[states.paired].all()
    maps = spec._maps(case(eyes(), test), Image(), states)
    assert torch.equal(maps["clean"], states.x) and torch.equal(maps["attacked_pred"], states.attacked)


def test_what_a_method_draws_is_the_same_for_clean_and_attacked_images() -> None:
    model = Classifier(
        nn.Sequential(nn.Flatten(), nn.Linear(SIDE * SIDE, 20), nn.ReLU()), nn.Linear(20, 3), channels=1
    )
    with torch.no_grad():
        for layer in (model.body[1], model.head):
            layer.weight.copy_(torch.randn(layer.weight.shape, generator=generator(3)))
        model.body[1].weight[:, BLIND[0] * SIDE + BLIND[1]] = 0
    test = scripted()
    test.x[:, 0, *MARK] = 128  # every image is moved in a pixel without weight
    label = model.eval()(test.x.float() / 255).argmax(1)
    methods = {"gradient": {"kind": "smooth_grad", "samples": 3}}
    attack = {"kind": f"{__name__}:Scripted", "eps": 0.1}  # the range of the image stays
    found = made(attack=attack, attributions=methods)(case(model, Images(test.x, label)))
    values = found.each[Place("gradient", "failure", "cosine")]
    assert values == pytest.approx(np.ones(12), abs=1e-9)


# The normalised score


def test_the_score_is_one_at_the_noise_and_zero_at_the_floor_of_the_images_that_have_all_three() -> None:
    values = np.array([0.9, 0.7, 0.5, np.nan, 0.1])
    noise, floor = np.array([0.8, 0.8, 0.9, 0.9, np.nan]), np.array([0.2, 0.4, 0.3, 0.1, 0.3])
    assert score_of(values, floor=floor, noise=noise) == pytest.approx((2.1 - 0.9) / (2.5 - 0.9))
    assert score_of(noise, floor=floor, noise=noise) == pytest.approx(1)
    assert score_of(floor, floor=floor, noise=noise) == pytest.approx(0)
    assert score_of(-values, floor=-floor, noise=-noise) == pytest.approx((2.1 - 0.9) / (2.5 - 0.9))


def test_there_is_no_score_where_noise_and_floor_cannot_be_told_apart() -> None:
    values, floor = np.array([0.9, 0.7, 0.5]), np.array([0.2, 0.4, 0.3])
    for noise in (floor, floor + [0.3, -0.3, 0.01], floor + [0.3, np.nan, np.nan]):
        assert np.isnan(score_of(values, floor=floor, noise=noise))
    assert np.isnan(score_of(values * np.nan, floor=floor, noise=floor + 1))
    found = made()(
        case(eyes(), scripted())
    )  # all maps of a class are one map, whatever was done to the image
    assert not found.once
    (said,) = [note for note in found.notes if "cannot be told apart" in note]
    assert "success_true.cosine" in said and "failure.top_k" in said


def test_scores_of_the_run_follow_from_the_readings_of_the_images() -> None:
    pgd = {"kind": "pgd", "eps": 0.06, "steps": 4}
    methods = {"gradient": {"kind": "input_x_gradient"}}
    spec = made(attack=pgd, attributions=methods, measures=["spearman", "sparsity_change"])
    found = spec(case(small_network(), tiny_images(60)))
    noise, floor, values = (
        found.each[Place("gradient", name, "spearman")] for name in ("noise_pred", "floor", "success_pred")
    )
    shared = np.isfinite(noise + floor + values)
    assert 3 < shared.sum() < 60
    means = [part[shared].mean() for part in (values, floor, noise)]
    wanted = (means[0] - means[1]) / (means[2] - means[1])
    assert found.once[Place("gradient", "success_pred", "spearman_normalised")] == pytest.approx(wanted)
    assert not any(place.metric.startswith("sparsity") for place in found.once)


def test_over_classes_the_fooled_share_is_correlated_with_the_mean_change_of_the_map() -> None:
    pgd = {"kind": "pgd", "eps": 0.02, "steps": 4}
    methods = {"gradient": {"kind": "input_x_gradient"}}
    model, x = small_network().eval(), tiny_images(60).x
    model.head = nn.Linear(8, 6)
    with torch.no_grad():
        model.head.weight.copy_(torch.randn(6, 8, generator=generator(1)))
        model.head.bias.copy_(-model.head.weight @ model.features(x.float() / 255).mean(0))
        test = Images(x, model(x.float() / 255).argmax(1))  # all right before the attack
    spec = made(attack=pgd, attributions=methods, measures=["spearman"])
    found = spec(case(model, test, classes=6))
    fooled = found.each[Place("prediction", "attack", "fooled")]
    success, failure = (found.each[Place("gradient", f, "spearman")] for f in ("success_true", "failure"))
    assert not (np.isfinite(success) & np.isfinite(failure)).any()
    moved = np.isfinite(fooled)
    change = 1 - np.nansum([success, failure], 0)
    labels = found.pictures["labels"]
    assert labels.tolist() == test.y.tolist()
    known = [k for k in range(6) if (moved & (labels == k)).any()]
    shares, changes = ([part[moved & (labels == k)].mean() for k in known] for part in (fooled, change))
    assert len(set(shares)) > 2 and len(known) > 3
    wanted = spearmanr(shares, changes).statistic
    assert found.once[Place("gradient", "classes", "fooled_rank")] == pytest.approx(wanted)
    less = made(attack=pgd, attributions=methods, measures=["spearman"], targets=["pred"])
    assert not less(case(model, test, classes=6)).once.keys() & {Place("gradient", "classes", "fooled_rank")}


# Pictures


def test_the_gallery_shows_fooled_images_first_with_their_maps() -> None:
    found = made(gallery=4)(case(eyes(), scripted()))
    shown = found.pictures
    assert shown["gallery.row"].tolist() == [0, 1, 3, 4]
    assert shown["gallery.label"].tolist() == [0, 1, 0, 1]
    assert shown["gallery.predicted_attacked"].tolist() == [1, 2, 0, 1]
    assert shown["gallery.fooled"].tolist() == [True, True, False, False]
    assert shown["gallery.clean"].dtype == shown["map.gradient.clean"].dtype == np.float32
    for name, labels in (
        ("clean", (0, 1, 0, 1)),
        ("attacked_true", (0, 1, 0, 1)),
        ("attacked_pred", (1, 2, 0, 1)),
    ):
        wanted = np.zeros((4, SIDE, SIDE), np.float32)
        for place, label in enumerate(labels):
            wanted[place, *EYES[label]] = 1
        assert np.array_equal(shown[f"map.gradient.{name}"], wanted), name
    assert set(made(gallery=0)(case(eyes(), scripted())).pictures) == {"labels"}
    assert made(gallery=5)(case(eyes(), scripted())).pictures["gallery.row"].tolist() == [0, 1, 2, 3, 4]
    assert made(gallery=99)(case(eyes(), scripted())).pictures["gallery.row"].tolist() == list(range(6))


# What cannot be read


def test_a_method_that_refuses_the_network_is_named_and_the_others_stay() -> None:
    found = made(attributions=SALIENCY | {"cam": {"kind": "grad_cam"}})(case(eyes(), scripted()))
    assert any(note.startswith("There are no readings of cam: layer:") for note in found.notes)
    assert not any(place.subject == "cam" for place in found.each)
    assert Place("gradient", "floor", "cosine") in found.each


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([0, 1, 2], "on every image"),
        ([3, 4, 5], "on no image that it classified right"),
        ([6, 7, 8], "left 3 of 3 images"),
        ([9, 10, 11], "none of the 3 images right"),
    ],
)
def test_attacks_on_all_on_none_and_on_nobody_leave_gaps_and_say_so(rows: list[int], said: str) -> None:
    images = scripted()
    found = made()(case(eyes(), Images(images.x[rows], images.y[rows])))
    assert any(said in note for note in found.notes)
    assert all(values.shape == (3,) for values in found.each.values())


def test_only_the_first_examples_are_asked() -> None:
    found = made(examples=4)(case(eyes(), scripted()))
    assert all(values.shape == (4,) for values in found.each.values())


def test_the_model_is_left_alone_and_the_same_seed_gives_the_same_bytes() -> None:
    model = small_network().train()
    model.body[2].eval()
    before = snapshot(model)
    kinds = ("saliency", "integrated_gradients", "smooth_grad", "occlusion", "lime", "kernel_shap")
    methods = {kind: {"kind": kind} for kind in kinds}
    for few in ("lime", "kernel_shap"):
        methods[few] |= {"samples": 10, "grid": 2}  # type: ignore[dict-item]
    spec = made(attack={"kind": "pgd", "eps": 0.1, "steps": 2}, attributions=methods, measures=[*SHIFTS])
    first = spec(case(model, tiny_images(12)))
    assert same(snapshot(model), before)
    torch.manual_seed(7)
    again = spec(case(model, tiny_images(12)))
    assert packed(first.each) == packed(again.each) and first.once == again.once
    assert same(first.pictures, again.pictures)
    assert {place.subject for place in first.each} == {"prediction", *kinds}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"measures": ["spearmann"]}, "did you mean 'spearman'"),
        ({"measures": ["top_k", "top_k"]}, "every measure once"),
        ({"measures": []}, "at least 1"),
        ({"targets": ["pred", "pred"]}, "every rule once"),
        ({"attack": {"kind": "transfer", "attack": "pgd"}}, "crafts images"),
        ({"attack": {"kind": "pgd"}}, "attack.eps: required key"),
        ({"attributions": {"Grad-CAM": {"kind": "grad_cam"}}}, "lower-case"),
        ({"attributions": {"ig": {"kind": "integrated_gradients", "step": 3}}}, "did you mean 'steps'"),
    ],
)
def test_faults_of_a_block_are_found_before_it_is_used(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        made(**changes)
