"""Filtered: what is trained on is what the detector left."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from oracle_models import same, small_network, tiny_images, workbench
from torch import nn

from deconfound.defenses import DEFENSES
from deconfound.defenses.filtered import Filtered, kept
from deconfound.defenses.workbench import Defended, Workbench
from deconfound.detectors.evidence import Evidence, Flagged
from deconfound.errors import ConfigError, UserError
from deconfound.fields import Count, hyperparameters
from deconfound.models.classifier import Classifier
from deconfound.recipe import Recipe
from deconfound.registry import build
from deconfound.types import Images

RECIPE = Recipe(epochs=1, batch_size=8)


@hyperparameters
class Every:
    """Suspects every step-th image, or class 1 altogether with step 1."""

    step: Count = 3

    def examine(self, evidence: Evidence) -> Flagged:
        """Flags known beforehand."""
        assert not evidence.model.training and len(evidence.val.y) == 9
        y = evidence.data.y
        flags = y == 1 if self.step == 1 else torch.arange(len(y)) % self.step == 0
        return Flagged(torch.arange(len(y)).double(), flags)


def block(**changes: Any) -> dict[str, Any]:
    return {"kind": f"{__name__}:Every", **changes}


def bench(start: Classifier | None) -> tuple[Workbench, list[Images]]:
    """A bench that remembers what was trained on."""
    made, _ = workbench(RECIPE)
    seen: list[Images] = []

    def fit(model: Classifier, objective: Any, **options: Any) -> int:
        seen.append(options["data"])
        return made.fit(model, objective, **options)

    return replace(made, start=start, fit=fit), seen


def run(step: int = 4) -> tuple[Defended, list[Images]]:
    given, seen = bench(small_network("start").train())
    return Filtered(detector=block(step=step))(given), seen


def test_dropped_images_are_exactly_the_flagged_ones() -> None:
    done, (seen,) = run(step=4)
    data = tiny_images()
    flags = torch.arange(30) % 4 == 0
    assert torch.equal(seen.x, data.x[~flags]) and torch.equal(seen.y, data.y[~flags])
    assert np.array_equal(done.trace["flagged"], flags.numpy())
    assert done.trace["suspicion"].tolist() == list(range(30))
    assert done.notes == {"flagged": 8, "removed": 8, "classes_spared": 0, "removed_per_class_max": 3}


def test_a_fresh_network_is_trained_and_the_suspect_stays() -> None:
    start = small_network("start").eval()
    before = {name: value.clone() for name, value in start.state_dict().items()}
    given, _ = bench(start)
    done = Filtered(detector=block(step=4))(given)
    assert done.model is not start and same(dict(start.state_dict()), before)
    twin = small_network("model")
    flags = torch.arange(30) % 4 == 0
    plain, trainer = workbench(RECIPE)
    trainer.fit(
        twin,
        lambda m, x, y, rng: nn.functional.cross_entropy(m(x), y),
        data=Images(*(p[~flags] for p in plain.data)),
    )
    assert same(dict(done.model.state_dict()), dict(twin.state_dict()))


def test_a_class_that_would_vanish_is_kept_and_counted() -> None:
    done, (seen,) = run(step=1)
    assert len(seen.y) == 30 and done.notes["classes_spared"] == 1
    assert done.notes["flagged"] == 10 and done.notes["removed"] == 0
    assert int(done.trace["flagged"].sum()) == 10  # the detector's own opinion, for scoring


def test_only_a_class_that_would_vanish_is_spared() -> None:
    flags, y = torch.tensor([True, True, True, False]), torch.tensor([0, 0, 1, 1])
    keep, spared = kept(flags, y, 3)
    assert keep.tolist() == [True, True, False, True] and spared == 1


def test_there_must_be_a_network_to_look_at() -> None:
    assert Filtered.needs == ("starts_from",)
    with pytest.raises(UserError, match="starts_from"):
        Filtered(detector=block())(bench(None)[0])


@pytest.mark.parametrize("kind", ["neural_cleanse", "activation_clustring", None])
def test_a_detector_that_does_not_examine_training_images_is_refused(kind: str | None) -> None:
    with pytest.raises(ConfigError, match="activation_clustering"):
        build(DEFENSES, {"kind": "filtered", "detector": {"kind": kind}}, at="defenses.x")


def test_a_wrong_parameter_of_the_detector_is_refused_before_training() -> None:
    with pytest.raises(ConfigError, match="fraction"):
        build(
            DEFENSES,
            {"kind": "filtered", "detector": {"kind": "lowest_loss", "fraction": 2}},
            at="defenses.x",
        )
