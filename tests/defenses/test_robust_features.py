"""Robust and non-robust features: inversion that has an exact answer, targets, placebos, and a killed run."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from killing import killed_at
from oracle_models import same, small_network, tiny_images, workbench
from torch import Tensor, nn

from deconfound.attacks.ascent import Ascent
from deconfound.defenses.adversarial_training import AdversarialTraining
from deconfound.defenses.robust_features import (
    NonRobustFeatures,
    RobustFeatures,
    agreement,
    by_parts,
    distances,
)
from deconfound.defenses.standard import Standard, cross_entropy
from deconfound.defenses.workbench import Defended, Workbench
from deconfound.models.classifier import Classifier
from deconfound.recipe import Recipe
from deconfound.threat import ThreatModel
from deconfound.types import Images

CLIMB = Ascent(threat=ThreatModel(norm="l2", eps=0.3), step_size=0.1, steps=2)
CRAFT = Ascent(threat=ThreatModel(norm="l2", eps=1.5), step_size=0.3, steps=20, start="image")
RECIPE = Recipe(epochs=2, batch_size=8)


def fresh(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


class Watched:
    """A bench that keeps the training sets its loop was given, by phase."""

    def __init__(self, **options: Any) -> None:
        bench, self.trainer = workbench(RECIPE, **options)
        self.seen: dict[str, Images] = {}

        def fit(model: Classifier, objective: Any, **rest: Any) -> int:
            self.seen[rest.get("phase", "model")] = rest.get("data") or bench.data
            return bench.fit(model, objective, **rest)

        self.bench: Workbench = dataclasses.replace(bench, fit=fit)


def rows_and_columns() -> Classifier:
    """Features are the four sums of rows of 1 x 4 x 4 images: what else there is in them is free."""
    first = nn.Linear(16, 4, bias=False)
    with torch.no_grad():
        first.weight.copy_(torch.eye(4).repeat_interleave(4, 1))
    return Classifier(nn.Sequential(nn.Flatten(), first), nn.Linear(4, 3), channels=1)


def test_inversion_finds_the_features_of_an_image_and_keeps_the_rest_of_the_start() -> None:
    model = rows_and_columns()
    x = 0.3 + 0.4 * torch.rand(6, 1, 4, 4, generator=fresh())
    start = 0.3 + 0.4 * torch.rand(6, 1, 4, 4, generator=fresh(1))
    found = RobustFeatures(steps=300, step_size=0.005).invert(model, x, start)
    with torch.no_grad():
        assert (model.features(found) - model.features(x)).norm(dim=1).max() < 0.02
    # the nearest image with these row sums moves every pixel of a row by the same amount
    expected = start + (x.sum(3) - start.sum(3))[..., None] / 4
    assert torch.allclose(found, expected, atol=0.01) and not torch.allclose(found, x, atol=0.05)
    assert all(weights.requires_grad for weights in model.parameters())


def test_inversion_returns_the_nearest_iterate_and_stays_in_the_box() -> None:
    model = rows_and_columns()
    x, start = torch.ones(2, 1, 4, 4), torch.zeros(2, 1, 4, 4)
    few, many = (RobustFeatures(steps=n, step_size=0.9).invert(model, x, start) for n in (5, 50))
    with torch.no_grad():
        apart = [(model.features(z) - model.features(x)).norm(dim=1) for z in (start, few, many)]
    assert (apart[1] < apart[0]).all() and (apart[2] <= apart[1]).all()
    assert few.min() >= 0 and few.max() <= 1
    beside = x - 0.01
    assert torch.equal(
        RobustFeatures(steps=3, step_size=2).invert(model, beside, x), x
    )  # each step leads away


def test_images_are_crafted_in_parts_and_rounded() -> None:
    x = tiny_images(600).x
    made = by_parts(lambda x, z: (x + z) / 2 + 0.4 / 255, small_network(), x, x.flip(0))
    expected = ((x.float() + x.flip(0)) / 2 + 0.4).round().clamp(0, 255).to(torch.uint8)
    assert made.dtype == torch.uint8 and torch.equal(made, expected)


def test_the_new_images_have_the_features_and_the_label_of_the_old_and_come_from_others() -> None:
    watched = Watched()
    done = RobustFeatures(ascent=CLIMB, steps=60, step_size=0.05)(watched.bench)
    made, data = watched.seen["model"], watched.bench.data
    assert made.x.dtype == torch.uint8 and torch.equal(made.y, data.y)
    assert watched.seen["robust"] is data and "standard" not in watched.seen
    robust, twin = workbench(RECIPE)[0], small_network("robust")
    robust.fit(twin, AdversarialTraining(ascent=CLIMB).objective, phase="robust")
    near, far = distances(twin, data.x, made.x), distances(twin, data.x, data.x.roll(1, 0))
    assert near.mean() < 0.5 * far.mean()
    moved = (made.x.float() - data.x.float()).flatten(1).norm(dim=1)
    assert moved.min() > 50  # grey levels: none is the image itself
    assert done.trace["distance"].shape == (30,) and 0 < float(done.notes["distance"]) < 0.7
    assert float(done.notes["kept_label"]) == agreement(twin, made.x, data.y)


def test_the_control_matches_features_of_a_standard_network_and_noise_is_a_start_too() -> None:
    def made(**options: Any) -> tuple[Watched, Tensor]:
        watched = Watched()
        RobustFeatures(ascent=CLIMB, steps=3, **options)(watched.bench)
        return watched, watched.seen["model"].x

    robust, control = made(), made(network="standard", epochs=3)
    assert len(control[0].trainer.history["standard"]) == 3 and "robust" not in control[0].seen
    noise = made(begin="noise")
    assert not same(robust[1], control[1]) and not same(robust[1], noise[1])
    assert noise[1].float().mean() > robust[1].float().mean() + 20  # uniform noise is brighter
    assert same(made()[1], robust[1])


def test_targets_are_the_next_class_or_any() -> None:
    y = torch.arange(3).repeat(400)
    assert torch.equal(NonRobustFeatures(target="next").targets(y, 3, rng=fresh()), (y + 1) % 3)
    drawn = NonRobustFeatures().targets(y, 3, rng=fresh())
    assert (drawn.bincount() > 340).all() and 0.28 < (drawn == y).double().mean() < 0.38


def crafted(**options: Any) -> tuple[Defended, Images, Images]:
    watched = Watched()
    done = NonRobustFeatures(**{"ascent": CRAFT, "epochs": 20} | options)(watched.bench)
    return done, watched.seen["model"], watched.bench.data


def test_non_robust_images_are_taken_for_their_new_label_and_stay_in_the_ball() -> None:
    done, made, data = crafted(target="next")
    assert made.x.dtype == torch.uint8 and torch.equal(made.y, (data.y + 1) % 3)
    assert torch.equal(torch.from_numpy(done.trace["target"]), made.y)
    assert float(done.notes["taken_for_target"]) > 0.9 and done.notes["target_is_label"] == 0
    moved = (made.x.float() - data.x.float()).flatten(1).norm(dim=1) / 255
    assert moved.max() <= 1.5 + 4 * 0.5 / 255  # sixteen pixels are rounded by half a level
    assert float(done.notes["l2_max"]) == pytest.approx(moved.max().item())


def test_the_control_has_the_same_images_with_their_own_labels() -> None:
    (_, made, data), (_, control, _) = crafted(), crafted(labels="own")
    assert torch.equal(made.x, control.x) and not torch.equal(made.y, data.y)
    assert torch.equal(control.y, data.y)


def test_noise_of_the_same_ball_is_not_taken_for_the_target() -> None:
    done, made, data = crafted(target="next", perturbation="noise")
    assert float(done.notes["taken_for_target"]) < 0.5 and not torch.equal(made.x, data.x)
    assert 0.5 < float(done.notes["l2_max"]) <= 1.51 and torch.equal(made.y, (data.y + 1) % 3)


def test_a_run_that_starts_from_another_takes_its_network_and_trains_a_fresh_one() -> None:
    for defense in (RobustFeatures(steps=3), NonRobustFeatures(ascent=CRAFT)):
        watched = Watched()
        start = small_network("start")
        before = {name: value.clone() for name, value in start.state_dict().items()}
        done = defense(dataclasses.replace(watched.bench, start=start))  # type: ignore[operator]
        assert set(watched.seen) == {"model"} and done.model is not start
        assert same(dict(start.state_dict()), before)
        twin, fresh_model = workbench(RECIPE)[0], small_network()
        twin.fit(fresh_model, cross_entropy, data=watched.seen["model"])
        assert same(dict(done.model.state_dict()), dict(fresh_model.state_dict()))
        assert not same(
            dict(done.model.state_dict()), dict(Standard()(workbench(RECIPE)[0]).model.state_dict())
        )


@pytest.mark.parametrize(
    "defense",
    [RobustFeatures(ascent=CLIMB, epochs=1, steps=3), NonRobustFeatures(epochs=1, ascent=CRAFT)],
    ids=["robust", "non-robust"],
)
def test_a_killed_run_goes_on_with_the_same_images(
    defense: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def trained(**options: Any) -> dict[str, Tensor]:
        return dict(defense(workbench(RECIPE, **options)[0]).model.state_dict())

    whole = trained()
    # four steps of the first network, one epoch of the second, one step more
    batches = killed_at(10, lambda: trained(scratch=tmp_path), monkeypatch)
    torch.manual_seed(99)
    assert same(trained(scratch=tmp_path), whole)
    assert batches[0] == 10 + 4  # the last epoch only
