"""DBD: the symmetric loss by hand, a frozen body, whose labels are kept, and what each stage is shown."""

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
from torch import Generator
from torch.nn import functional as F

from deconfound.defenses.abl import lowest
from deconfound.defenses.dbd import DBD, frozen_body, sce_losses, symmetric_cross_entropy
from deconfound.defenses.workbench import Defended
from deconfound.models.classifier import Classifier
from deconfound.recipe import Recipe
from deconfound.training import Trainer
from deconfound.types import Images

RECIPE = Recipe(epochs=2, batch_size=8)
SMALL: dict[str, Any] = {
    "contrastive_epochs": 2,
    "contrastive_lr": 0.05,
    "contrastive_batch": 10,
    "warmup_epochs": 2,
    "crop": 1,
}
STAGES = 2 * 3 + 2 * 4 + 2 * 4  # steps of body, head and finish, with 30 images


def fresh(seed: int = 0) -> Generator:
    return torch.Generator().manual_seed(seed)


# The symmetric cross-entropy


def test_the_symmetric_cross_entropy_of_an_even_guess_is_as_computed_by_hand() -> None:
    found = symmetric_cross_entropy(torch.zeros(2, 2), torch.tensor([0, 1]))
    # CE = ln 2 = 0.6931; RCE = -(0.5 ln 1 + 0.5 ln 1e-4) = 4.6052
    assert found.tolist() == pytest.approx([0.1 * 0.693147 + 4.605170] * 2, rel=1e-5)


def test_probabilities_and_labels_are_clipped_at_their_floors() -> None:
    sure = torch.tensor([[1000.0, 0.0], [1000.0, 0.0]])
    right, wrong = symmetric_cross_entropy(sure, torch.tensor([0, 1])).tolist()
    assert right == pytest.approx(1e-7 * -math.log(1e-4), rel=1e-4)  # CE 0; the other probability is 1e-7
    assert wrong == pytest.approx(0.1 * 1000 - math.log(1e-4), rel=1e-6)


@given(st.lists(st.floats(-5, 5), min_size=3, max_size=3), st.integers(0, 2))
def test_the_reverse_half_is_the_missing_probability_times_a_constant(
    values: list[float], label: int
) -> None:
    logits, y = torch.tensor([values]), torch.tensor([label])
    reverse = symmetric_cross_entropy(logits, y) - 0.1 * F.cross_entropy(logits, y)
    assert reverse.item() == pytest.approx((1 - logits.softmax(1)[0, label].item()) * math.log(1e4), abs=1e-4)


# The head


def test_the_warm_up_moves_the_head_and_nothing_else() -> None:
    bench, _ = workbench(RECIPE)
    model = small_network()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    bench.fit(model, frozen_body, phase="warmup", recipe=replace(RECIPE, optimizer="adam"))
    after = dict(model.state_dict())
    body = [name for name in before if not name.startswith("head")]
    assert any("running_mean" in name for name in body)
    assert all(torch.equal(after[name], before[name]) for name in body)
    assert not torch.equal(after["head.weight"], before["head.weight"])
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_the_head_sees_features_of_the_body_at_rest() -> None:
    model, images = small_network().train(), tiny_images(12)
    x = images.x.float() / 255
    expected = symmetric_cross_entropy(small_network().eval()(x), images.y).mean()
    assert frozen_body(model, x, images.y, rng=fresh()).item() == pytest.approx(expected.item(), rel=1e-6)
    assert all(module.training for module in model.modules())


# The stages


def trained(spec: DBD, recipe: Recipe = RECIPE, **options: Any) -> tuple[Defended, Trainer]:
    bench, trainer = workbench(recipe, **options)
    return spec(bench), trainer


def shown(spec: DBD, recipe: Recipe = RECIPE, data: Images | None = None) -> dict[str, Any]:
    """What every phase of the training was called with, and the weights that it left."""
    bench, _ = workbench(recipe, data=data)
    calls: dict[str, Any] = {}

    def fit(model: Classifier, objective: Any, *, phase: str = "model", **options: Any) -> int:
        steps = bench.fit(model, objective, phase=phase, **options)
        weights = {name: value.clone() for name, value in model.state_dict().items()}
        calls[phase] = options | {"weights": weights, "objective": objective}
        return steps

    calls["trace"] = dict(spec(replace(bench, fit=fit)).trace)
    return calls


def test_the_body_is_trained_without_any_label() -> None:
    images = tiny_images()
    other = images._replace(y=images.y.flip(0))
    one, two = (shown(DBD(**SMALL), data=data) for data in (images, other))
    assert same(one["contrastive"]["weights"], two["contrastive"]["weights"])
    assert not same(one["warmup"]["weights"], two["warmup"]["weights"])
    untouched = small_network().state_dict()
    assert not torch.equal(one["contrastive"]["weights"]["body.0.1.weight"], untouched["body.1.weight"])
    assert torch.equal(
        one["contrastive"]["weights"]["body.0.1.weight"], one["warmup"]["weights"]["body.1.weight"]
    )


@pytest.mark.parametrize("finish", ["mixmatch", "supervised"])
def test_the_kept_are_the_half_of_the_lowest_loss_after_the_warm_up(finish: Any) -> None:
    calls = shown(DBD(**SMALL, finish=finish))
    model = small_network()
    model.load_state_dict(calls["warmup"]["weights"])
    losses = sce_losses(model, tiny_images())
    trace = calls["trace"]
    assert np.array_equal(trace["sce_loss"], losses.numpy())
    assert trace["kept"].sum() == 15 and np.array_equal(trace["kept"], lowest(losses, 0.5).numpy())
    assert losses[trace["kept"]].max() <= losses[~trace["kept"]].min()
    assert np.array_equal(trace["dropped"], ~trace["kept"])


def test_supervised_training_takes_kept_labels_and_predictions_for_the_others() -> None:
    calls = shown(DBD(**SMALL, finish="supervised", keep=0.3))
    images, kept = tiny_images(), torch.from_numpy(calls["trace"]["kept"])
    model = small_network()
    model.load_state_dict(calls["warmup"]["weights"])
    with torch.no_grad():
        guessed = model.eval()(images.x.float() / 255).argmax(1)
    data = calls["model"]["data"]
    assert torch.equal(data.x, images.x) and torch.equal(data.y[kept], images.y[kept])
    assert torch.equal(data.y[~kept], guessed[~kept]) and not torch.equal(guessed, images.y)


@pytest.mark.parametrize("resplit", [True, False])
def test_whose_labels_are_kept_is_decided_again_after_every_epoch_if_asked(resplit: bool) -> None:
    calls = shown(DBD(**SMALL, keep=0.3, resplit=resplit, finish_lr=0.2))
    objective, first = calls["model"]["objective"], torch.from_numpy(calls["trace"]["kept"])
    model = small_network()
    model.load_state_dict(calls["model"]["weights"])
    last = lowest(sce_losses(model, tiny_images()), 0.3)
    assert not torch.equal(first, last)  # else nothing is tested
    assert torch.equal(objective.kept, last if resplit else first)


def test_every_stage_has_its_own_epochs_rates_and_views() -> None:
    recipe = replace(RECIPE, crop=3, cutout=2, average=0.0)
    calls = shown(DBD(**SMALL, finish_epochs=3, finish_lr=0.01, flip=False), recipe)
    body, head, finish = (calls[phase]["recipe"] for phase in ("contrastive", "warmup", "model"))
    assert (body.epochs, body.lr, body.batch_size, body.schedule) == (2, 0.05, 10, "cosine")
    assert (body.crop, body.flip, body.cutout) == (0, False, 0)  # its views are its own
    assert (head.epochs, head.lr, head.optimizer, head.schedule) == (2, 2e-3, "adam", "constant")
    assert (finish.epochs, finish.lr, finish.optimizer) == (3, 0.01, "sgd")
    assert (head.crop, head.flip, finish.crop, finish.cutout) == (1, False, 1, 0)
    assert calls["contrastive"]["objective"].flip is False


def test_without_its_own_settings_the_finish_is_that_of_the_run() -> None:
    history = trained(DBD(**SMALL))[1].history
    assert len(history["model"]) == 2 and history["model"][0]["lr"] == RECIPE.lr


@pytest.mark.parametrize("finish", ["mixmatch", "supervised"])
@pytest.mark.parametrize("step", [5, 12, 20, STAGES, 1000])  # in each of the three stages; after the last
def test_a_killed_run_ends_in_the_bytes_and_the_notes_of_an_uninterrupted_one(
    finish: Any, step: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = DBD(**SMALL, finish=finish, keep=0.3)
    whole = trained(spec)[0]
    killed_at(step, lambda: trained(spec, scratch=tmp_path), monkeypatch)
    torch.manual_seed(99)
    resumed = trained(spec, scratch=tmp_path)[0]
    assert same(dict(resumed.model.state_dict()), dict(whole.model.state_dict()))
    assert same(dict(resumed.trace), dict(whole.trace)) and resumed.notes == whole.notes
