"""ABL: the loss of the isolation at its threshold, who is isolated, and what each stage is shown."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from killing import killed_at
from oracle_models import same, small_network, tiny_images, workbench
from torch import Tensor, nn
from torch.nn import functional as F

from deconfound.defenses.abl import ABL, Isolation, ascent, lowest
from deconfound.defenses.workbench import Defended
from deconfound.models.classifier import predict
from deconfound.recipe import Recipe
from deconfound.training import Trainer

RECIPE = Recipe(epochs=2, batch_size=8)
SMALL: dict[str, Any] = {"isolation_epochs": 2, "isolation_lr": 0.05, "isolate": 0.2, "unlearn_epochs": 2}
IMAGES = tiny_images(12)
X, Y = IMAGES.x.float() / 255, IMAGES.y


def fresh(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


class Fixed(nn.Module):
    """The same two logits (0, a) for every image; of label 0 the loss is log(1 + e^a)."""

    def __init__(self, loss: float) -> None:
        super().__init__()
        self.a = nn.Parameter(torch.tensor(math.log(math.exp(loss) - 1)))

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([torch.zeros(()), self.a]).expand(len(x), 2)


def value_and_slope(kind: Any, loss: float, gamma: float) -> tuple[float, float]:
    """Of the isolation on a batch of mean loss `loss`; the slope relative to that of the loss itself."""
    model = Fixed(loss)
    found = Isolation(kind, gamma)(model, X, torch.zeros(12).long(), rng=fresh())
    found.backward()
    assert model.a.grad is not None
    return float(found.detach()), float(model.a.grad / model.a.detach().sigmoid())


# The isolation


@pytest.mark.parametrize(
    ("kind", "loss", "value", "slope"),
    [
        ("lga", 0.7, 0.7, 1),
        ("lga", 0.51, 0.51, 1),
        ("lga", 0.49, -0.49, -1),
        ("lga", 0.2, -0.2, -1),
        ("flooding", 0.7, 0.7, 1),
        ("flooding", 0.51, 0.51, 1),
        ("flooding", 0.49, 0.51, -1),
        ("flooding", 0.2, 0.8, -1),
    ],
)
def test_below_the_threshold_the_loss_is_climbed_and_above_it_descended(
    kind: str, loss: float, value: float, slope: float
) -> None:
    found = value_and_slope(kind, loss, 0.5)
    assert found == pytest.approx((value, slope), rel=1e-4)


def test_both_losses_train_the_same_network() -> None:
    models = []
    for kind in ("lga", "flooding"):
        model = small_network()
        workbench(Recipe(epochs=6, batch_size=8))[0].fit(model, Isolation(kind, 1.0))  # type: ignore[arg-type]
        models.append(dict(model.state_dict()))
    assert same(models[0], models[1])


@pytest.mark.parametrize("kind", ["lga", "flooding"])
def test_a_threshold_of_zero_is_plain_training(kind: str) -> None:
    assert value_and_slope(kind, 0.3, 0.0) == pytest.approx((0.3, 1), rel=1e-4)


def test_the_threshold_is_asked_of_the_mean_of_the_batch() -> None:
    model, gamma = small_network(dropout=0.0).eval(), 1.05
    losses = F.cross_entropy(model(X), Y, reduction="none").detach()
    assert (losses < gamma).any() and losses.mean() > gamma  # else either reading gives the same
    found = Isolation("flooding", gamma)(model, X, Y, rng=fresh())
    assert found.item() == pytest.approx(losses.mean().item(), rel=1e-5)


# Who is isolated


@given(st.lists(st.floats(0, 10), min_size=4, max_size=60, unique=True), st.floats(0.01, 0.9))
def test_the_isolated_are_exactly_those_of_the_lowest_loss(values: list[float], fraction: float) -> None:
    losses = torch.tensor(values, dtype=torch.float64)
    flags = lowest(losses, fraction)
    wanted = min(max(math.floor(fraction * len(values) + 1e-9), 2), len(values) - 2)
    assert int(flags.sum()) == wanted
    assert losses[flags].max() < losses[~flags].min()


def test_of_equal_losses_the_first_are_taken() -> None:
    assert lowest(torch.tensor([1.0, 0, 1, 1, 1, 1]), 0.5).tolist() == [True, True, True, False, False, False]


def trained(spec: ABL, recipe: Recipe = RECIPE, **options: Any) -> tuple[Defended, Trainer]:
    bench, trainer = workbench(recipe, **options)
    return spec(bench), trainer


def test_examples_are_judged_as_stored_by_the_network_at_rest() -> None:
    recipe = replace(RECIPE, crop=1, flip=True)
    bench, _ = workbench(recipe)
    model = small_network()
    stage = replace(recipe, lr=0.05, schedule="constant")
    bench.fit(model, Isolation("lga", 0.5), phase="isolation", recipe=stage)
    expected = F.cross_entropy(predict(model, bench.data.x), bench.data.y, reduction="none")

    trace = trained(ABL(**SMALL), recipe)[0].trace
    assert np.array_equal(trace["isolation_loss"], expected.numpy())
    assert np.array_equal(trace["isolated"], lowest(expected, 0.2).numpy()) and trace["isolated"].sum() == 6


# The stages


def shown(spec: ABL, recipe: Recipe) -> dict[str, dict[str, Any]]:
    """What every phase of the training was called with."""
    bench, _ = workbench(recipe)
    calls: dict[str, dict[str, Any]] = {}

    def fit(model: Any, objective: Any, *, phase: str = "model", **options: Any) -> int:
        calls[phase] = options
        return bench.fit(model, objective, phase=phase, **options)

    calls["trace"] = dict(spec(replace(bench, fit=fit)).trace)
    return calls


def test_the_others_are_trained_on_and_the_isolated_unlearnt_as_they_are() -> None:
    calls = shown(ABL(**SMALL), replace(RECIPE, crop=1, flip=True, cutout=2))
    images, apart = tiny_images(), torch.from_numpy(calls["trace"]["isolated"])
    assert same(calls["model"]["data"], type(images)(images.x[~apart], images.y[~apart]))
    assert same(calls["unlearning"]["data"], type(images)(images.x[apart], images.y[apart]))
    recipe = calls["unlearning"]["recipe"]
    assert (recipe.crop, recipe.flip, recipe.cutout) == (0, False, 0)
    assert calls["isolation"].get("data") is None and calls["isolation"]["recipe"].crop == 1


def test_every_stage_has_its_own_epochs_and_rates() -> None:
    spec = ABL(
        **(SMALL | {"isolation_epochs": 3, "isolation_lr": 0.04, "finetune_epochs": 4, "finetune_lr": 0.2})
    )
    history = trained(spec)[1].history
    rates = {phase: [record["lr"] for record in records] for phase, records in history.items()}
    assert rates["isolation"] == [0.04] * 3 and rates["unlearning"] == [5e-4] * 2
    assert rates["model"] == pytest.approx([0.2, 0.2, 0.02, 0.002])  # the steps of the run's recipe


def test_without_its_own_settings_the_fine_tuning_is_that_of_the_run_and_with_zero_epochs_there_is_none() -> (
    None
):
    history = trained(ABL(**SMALL))[1].history
    assert len(history["model"]) == 2 and history["model"][0]["lr"] == RECIPE.lr
    assert "model" not in trained(ABL(**SMALL, finetune_epochs=0))[1].history


def test_the_ascent_raises_the_loss_of_the_isolated() -> None:
    more = SMALL | {"unlearn_epochs": 20, "unlearn_lr": 0.01}
    left = [trained(ABL(**change))[0].notes for change in (SMALL | {"unlearn_epochs": 0}, more)]
    assert left[0]["unlearning_steps"] == 0 and left[1]["unlearning_steps"] == 20
    assert left[1]["isolated_loss_left"] > left[0]["isolated_loss_left"] + 0.5


def test_the_loss_of_the_unlearning_is_minus_the_cross_entropy() -> None:
    model = small_network(dropout=0.0)
    expected = -F.cross_entropy(small_network(dropout=0.0)(X), Y)
    found = ascent(model, X, Y, rng=fresh())
    assert found.item() == pytest.approx(expected.item(), rel=1e-6)


def test_forgetting_ends_once_the_isolated_are_guessed_at() -> None:
    change = SMALL | {"unlearn_epochs": 200, "unlearn_lr": 0.01, "forget": "chance"}
    notes = trained(ABL(**change))[0].notes
    steps = int(notes["unlearning_steps"])
    assert 1 < steps < 200 and notes["isolated_loss_left"] >= math.log(3)
    before = trained(ABL(**(change | {"unlearn_epochs": steps - 1, "forget": "epochs"})))[0].notes
    assert before["isolated_loss_left"] < math.log(3)


def test_the_notes_count_the_isolated_and_say_how_many_share_a_label() -> None:
    done = trained(ABL(**SMALL))[0]
    labels = tiny_images().y[torch.from_numpy(done.trace["isolated"])]
    assert done.notes["isolated"] == 6
    assert done.notes["isolated_same_label"] == pytest.approx(labels.bincount().max().item() / 6)


@pytest.mark.parametrize("step", [6, 12, 16, 1000])  # in each of the three stages; after the last
def test_a_killed_run_ends_in_the_bytes_and_the_notes_of_an_uninterrupted_one(
    step: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = ABL(**SMALL)
    whole = trained(spec)[0]
    killed_at(step, lambda: trained(spec, scratch=tmp_path), monkeypatch)
    torch.manual_seed(99)
    resumed = trained(spec, scratch=tmp_path)[0]
    assert same(dict(resumed.model.state_dict()), dict(whole.model.state_dict()))
    assert same(dict(resumed.trace), dict(whole.trace)) and resumed.notes == whole.notes
