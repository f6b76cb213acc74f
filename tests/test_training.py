"""The loop: what a step is made of, when it ends, and that a killed run ends in the same bytes."""

import fcntl
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from killing import Killed, killed_at
from oracle_models import CPU, same, small_network, tiny_images, workbench, write_images
from scipy.stats import chisquare
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from deconfound import training
from deconfound.defenses.standard import cross_entropy
from deconfound.defenses.workbench import Pace
from deconfound.errors import ConfigError, DataError, UserError
from deconfound.models.classifier import Classifier
from deconfound.optimisers import batches, load_optimizer_tensors, make_optimizer, optimizer_tensors
from deconfound.recipe import Recipe
from deconfound.steps import train as train_step
from deconfound.storage import read_json, read_npz, read_weights, write_npz
from deconfound.training import augment, only_one
from deconfound.types import Images

RECIPE = Recipe(epochs=3, batch_size=8)
BATCHES = 4  # of 30 images in batches of 8


def fresh(seed: int = 0) -> Generator:
    return torch.Generator().manual_seed(seed)


# Batches and rates


@given(st.integers(1, 200), st.integers(2, 40))
def test_batches_cover_every_example_once_and_none_is_alone(count: int, size: int) -> None:
    parts = batches(count, size)
    assert [i for part in parts for i in range(count)[part]] == list(range(count))
    lengths = [part.stop - part.start for part in parts]
    assert all(length == size for length in lengths[:-1])
    assert lengths[-1] <= size + 1 and (count == 1 or min(lengths) >= 2)


def test_a_last_batch_of_one_joins_its_neighbour() -> None:
    assert batches(9, 4) == [slice(0, 4), slice(4, 9)]
    assert batches(10, 4) == [slice(0, 4), slice(4, 8), slice(8, 10)]
    assert batches(1, 4) == [slice(0, 1)]


@pytest.mark.parametrize(
    ("schedule", "rates"),
    [
        ("constant", {0: 1, 0.5: 1, 0.99: 1}),
        ("steps", {0: 1, 0.49: 1, 0.5: 0.1, 0.79: 0.1, 0.8: 0.01, 0.99: 0.01}),
        ("cosine", {0: 1, 1 / 3: 0.75, 0.5: 0.5, 2 / 3: 0.25, 1: 0}),
        ("cyclic", {0: 0, 0.1: 0.5, 0.2: 1, 0.6: 0.5, 1: 0}),
    ],
)
def test_a_schedule_passes_through_its_known_points(schedule: Any, rates: dict[float, float]) -> None:
    recipe = Recipe(lr=0.4, schedule=schedule, milestones=(0.5, 0.8))
    for progress, rate in rates.items():
        assert recipe.lr_at(progress) == pytest.approx(0.4 * rate, abs=1e-12)


def test_a_cyclic_rate_peaks_where_it_is_told_and_momentum_runs_against_it() -> None:
    recipe = Recipe(lr=0.4, schedule="cyclic", peak=0.5, momentum=0.9, cycle_momentum=0.8)
    found = [(recipe.lr_at(progress), recipe.momentum_at(progress)) for progress in (0, 0.25, 0.5, 0.75)]
    assert np.allclose(found, [(0, 0.9), (0.2, 0.85), (0.4, 0.8), (0.2, 0.85)])
    assert Recipe(schedule="cyclic").momentum_at(0.2) == 0.9
    assert Recipe(schedule="cosine", cycle_momentum=0.8).momentum_at(0.5) == 0.9


def test_the_last_batch_is_left_out_when_asked_unless_it_is_full_or_the_only_one() -> None:
    assert batches(10, 4, drop_last=True) == [slice(0, 4), slice(4, 8)]
    assert batches(8, 4, drop_last=True) == [slice(0, 4), slice(4, 8)]
    assert batches(3, 4, drop_last=True) == [slice(0, 3)]


class Watched:
    """Cross-entropy that remembers its batches and the state of the model at every step."""

    def __init__(self) -> None:
        self.batches: list[tuple[Tensor, Tensor]] = []
        self.modes: list[bool] = []
        self.draws: list[float] = []

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, *, rng: Generator) -> Tensor:
        self.batches.append((x, y))
        self.modes.append(all(module.training for module in model.modules()))
        self.draws.append(float(torch.rand((), generator=rng)))
        return F.cross_entropy(model(x), y)


def test_every_epoch_shows_every_example_once_in_a_new_order() -> None:
    bench, _ = workbench(RECIPE)
    seen = Watched()
    bench.fit(small_network(), seen)
    epochs = [torch.cat([x for x, _ in seen.batches[i * BATCHES : (i + 1) * BATCHES]]) for i in range(3)]
    pixels = bench.data.x.float() / 255
    orders = [torch.cdist(epoch.flatten(1), pixels.flatten(1)).argmin(1) for epoch in epochs]
    for epoch, order in zip(epochs, orders, strict=True):
        assert torch.equal(epoch, pixels[order]) and sorted(order.tolist()) == list(range(30))
    assert not torch.equal(orders[0], orders[1]) and not torch.equal(orders[1], orders[2])
    labels = torch.cat([y for _, y in seen.batches])
    assert torch.equal(labels, bench.data.y[torch.cat(orders)])
    assert all(seen.modes) and len(set(seen.draws)) == len(seen.draws)


def test_seed_and_phase_decide_the_order() -> None:
    orders = []
    for seed, phase in ((0, "model"), (0, "model"), (1, "model"), (0, "biased")):
        seen = Watched()
        workbench(Recipe(epochs=1, batch_size=8), seed=seed)[0].fit(small_network(), seen, phase=phase)
        orders.append(torch.cat([x for x, _ in seen.batches]))
    assert torch.equal(orders[0], orders[1])
    assert not torch.equal(orders[0], orders[2]) and not torch.equal(orders[0], orders[3])


def test_a_network_that_comes_in_evaluation_mode_is_trained_in_training_mode() -> None:
    seen, model = Watched(), small_network().eval()  # as a defense gets it that starts from a trained one
    workbench(RECIPE)[0].fit(model, seen)
    assert all(seen.modes) and not model.training


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw"])
def test_the_first_step_is_that_of_the_optimiser_by_hand(optimizer: Any) -> None:
    recipe = Recipe(
        epochs=1, batch_size=30, optimizer=optimizer, lr=0.1, weight_decay=0.01, schedule="constant"
    )
    bench, _ = workbench(recipe)
    trained, model = small_network(dropout=0.0), small_network(dropout=0.0).train()
    bench.fit(trained, cross_entropy)
    F.cross_entropy(model(bench.data.x.float() / 255), bench.data.y).backward()
    w, g = model.head.weight.detach(), model.head.weight.grad
    assert g is not None
    if optimizer == "sgd":
        slope = g + 0.01 * w
        expected = w - 0.1 * (slope + 0.9 * slope)  # Nesterov: the gradient and the momentum it has just made
    elif optimizer == "adam":
        slope = g + 0.01 * w
        expected = w - 0.1 * slope / (slope.abs() + 1e-8)
    else:
        expected = w * (1 - 0.1 * 0.01) - 0.1 * g / (g.abs() + 1e-8)
    assert torch.allclose(trained.head.weight, expected, atol=1e-5)


def test_the_optimiser_follows_the_schedule_step_by_step() -> None:
    recipe = Recipe(epochs=4, batch_size=8, lr=0.1, schedule="steps", milestones=(0.5, 0.75))
    bench, trainer = workbench(recipe)
    bench.fit(small_network(), cross_entropy)
    assert [record["lr"] for record in trainer.history["model"]] == pytest.approx([0.1, 0.1, 0.01, 0.001])
    bench, trainer = workbench(Recipe(epochs=1, batch_size=8, lr=0.1, schedule="cosine"))
    bench.fit(small_network(), cross_entropy)
    last = 0.1 * 0.5 * (1 + math.cos(math.pi * 0.75))  # the fourth of four steps begins at 3/4
    assert trainer.history["model"][0]["lr"] == pytest.approx(last)


def test_the_history_tells_epoch_loss_and_accuracy_on_val() -> None:
    bench, trainer = workbench(Recipe(epochs=2, batch_size=8, lr=1e-12, schedule="constant"))
    model = small_network(dropout=0.0)
    steps = bench.fit(model, lambda m, x, y, *, rng: F.cross_entropy(m(x), y) * 0 + 3)
    records = trainer.history["model"]
    assert steps == 2 * BATCHES
    assert [record["epoch"] for record in records] == [1, 2]
    assert [record["loss"] for record in records] == [3, 3]
    assert not model.training


def test_the_accuracy_in_the_history_is_that_on_val_after_the_epoch() -> None:
    bench, trainer = workbench(RECIPE)
    model = small_network()
    bench.fit(model, cross_entropy)
    with torch.no_grad():
        guess = model.eval()(bench.val.x.float() / 255).argmax(1)
    accuracy = float((guess == bench.val.y).double().mean())
    assert trainer.history["model"][-1]["val_accuracy"] == pytest.approx(accuracy) and accuracy > 0.6


class Told(Watched):
    """Remembers where it was told that the training stands, and when a step was over."""

    def __init__(self) -> None:
        super().__init__()
        self.places: list[Any] = []
        self.after: list[Tensor] = []

    def pace(self, at: Pace) -> None:
        assert len(self.places) == len(self.batches)  # before its batch
        self.places.append(at)

    def after_step(self, model: nn.Module) -> None:
        assert isinstance(model, Classifier)
        self.after.append(model.head.weight.detach().clone())
        with torch.no_grad():
            model.head.weight.add_(1.0)


def test_an_objective_is_told_where_the_training_stands_before_each_batch() -> None:
    told = Told()
    workbench(RECIPE)[0].fit(small_network(), told)
    epochs = [epoch for epoch in range(3) for _ in range(BATCHES)]
    assert [at.epoch for at in told.places] == epochs and {at.epochs for at in told.places} == {3}
    assert np.allclose([at.fraction for at in told.places], np.arange(12) / 12)
    assert [at.ramp for at in told.places] == [epoch / 3 for epoch in epochs]


def test_an_objective_may_put_weights_right_after_the_step_of_the_optimiser() -> None:
    recipe = Recipe(epochs=1, batch_size=30, lr=0.1)
    plain, told, model = small_network(), Told(), small_network()
    workbench(recipe)[0].fit(plain, cross_entropy)
    workbench(recipe)[0].fit(model, told)
    assert torch.equal(told.after[0], plain.head.weight)
    assert torch.equal(model.head.weight, plain.head.weight + 1)


def test_the_average_of_the_weights_is_the_recursion_by_hand_and_is_what_remains() -> None:
    class Recorded(Watched):
        def after_step(self, model: nn.Module) -> None:
            states.append({name: value.clone() for name, value in model.state_dict().items()})

    states: list[dict[str, Tensor]] = []
    model = small_network()
    workbench(Recipe(epochs=3, batch_size=8, average=0.75))[0].fit(model, Recorded())
    expected = states[0]
    for state in states[1:]:
        expected = {name: 0.75 * expected[name] + 0.25 * value for name, value in state.items()}
    for name in ("head.weight", "body.2.running_mean"):
        assert torch.allclose(model.state_dict()[name], expected[name], atol=1e-6)
    assert not torch.allclose(model.head.weight, states[-1]["head.weight"], atol=1e-4)


@pytest.mark.parametrize(("keep_best", "epoch"), [(True, 2), (False, 4)])
def test_validation_is_recorded_and_the_first_of_the_best_epochs_can_be_kept(
    keep_best: bool, epoch: int
) -> None:
    weights: list[Tensor] = []
    scores = iter([0.1, 0.7, 0.3, 0.7])

    def validate(model: Classifier) -> float:
        assert not model.training
        weights.append(model.head.weight.detach().clone())
        return next(scores)

    bench, trainer = workbench(Recipe(epochs=4, batch_size=8))
    model = small_network()
    bench.fit(model, cross_entropy, validate=validate, keep_best=keep_best)
    assert [record["val_robust"] for record in trainer.history["model"]] == [0.1, 0.7, 0.3, 0.7]
    assert torch.equal(model.head.weight, weights[epoch - 1])


def test_a_watch_sees_its_steps_in_evaluation_mode_and_ends_the_training() -> None:
    bench, _ = workbench(RECIPE)
    checks: list[int] = []
    objective = Watched()

    def watch(step: int, model: nn.Module) -> bool:
        assert not any(module.training for module in model.modules())
        assert not any(parameter.requires_grad for parameter in model.parameters())
        assert len(objective.batches) == step
        checks.append(step)
        return step == 6

    assert bench.fit(small_network(), objective, watch=watch, every=3) == 6
    assert checks == [3, 6] and len(objective.batches) == 6
    assert all(objective.modes)  # back in training mode after a check


def test_a_watch_that_never_ends_changes_nothing() -> None:
    plain, watched = small_network(), small_network()
    assert workbench(RECIPE)[0].fit(plain, cross_entropy) == 3 * BATCHES
    calls: list[int] = []
    taken = workbench(RECIPE)[0].fit(
        watched, cross_entropy, watch=lambda step, model: bool(calls.append(step)), every=5
    )
    assert taken == 3 * BATCHES and calls == [5, 10]
    assert same(plain.state_dict(), watched.state_dict())


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_loss_that_is_no_longer_finite_is_an_error_that_names_the_epoch(value: float) -> None:
    calls: list[int] = []

    def objective(model: nn.Module, x: Tensor, y: Tensor, *, rng: Generator) -> Tensor:
        calls.append(1)
        return F.cross_entropy(model(x), y) * (value if len(calls) == BATCHES + 2 else 1)

    with pytest.raises(UserError, match="training model diverged in epoch 2: .*lower lr"):
        workbench(RECIPE)[0].fit(small_network(), objective)


def test_the_seed_decides_order_and_dropout_whatever_the_global_generator_does() -> None:
    ends = []
    for seed, elsewhere in ((0, 1), (0, 2), (1, 1)):
        torch.manual_seed(elsewhere)
        model = small_network()
        workbench(RECIPE, seed=seed)[0].fit(model, cross_entropy)
        ends.append(model.state_dict())
    assert same(ends[0], ends[1]) and not same(ends[0], ends[2])


def test_a_phase_has_streams_of_its_own() -> None:
    one, other = small_network(), small_network()
    workbench(RECIPE)[0].fit(one, cross_entropy)
    workbench(RECIPE)[0].fit(other, cross_entropy, phase="biased")
    assert not same(one.state_dict(), other.state_dict())


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw"])
def test_the_state_of_an_optimiser_survives_as_named_tensors(optimizer: Any) -> None:
    recipe = Recipe(optimizer=optimizer)
    models = [small_network(dropout=0.0), small_network(dropout=0.0)]
    first, second = (make_optimizer(recipe, model.parameters()) for model in models)
    x, y = tiny_images().x.float() / 255, tiny_images().y

    def step(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()

    step(models[0], first)
    models[1].load_state_dict(models[0].state_dict())
    stored = optimizer_tensors(first)
    assert stored and all(isinstance(value, Tensor) for value in stored.values())
    load_optimizer_tensors(second, {name: value.clone() for name, value in stored.items()})
    step(models[0], first)
    step(models[1], second)
    assert same(models[0].state_dict(), models[1].state_dict())


# Augmentation

PICTURES = torch.arange(1, 1 + 400 * 2 * 3 * 4).view(400, 2, 3, 4).float()  # every pixel is its own


def test_without_augmentation_the_images_are_the_same_object() -> None:
    assert augment(PICTURES, Recipe(), rng=fresh()) is PICTURES


def test_a_crop_is_a_window_of_the_padded_image_and_every_window_is_as_likely() -> None:
    views = augment(PICTURES, Recipe(crop=2), rng=fresh())
    padded = F.pad(PICTURES, (2, 2, 2, 2))
    windows = torch.stack(
        [padded[:, :, top : top + 3, left : left + 4] for top in range(5) for left in range(5)], dim=1
    )
    equal = (windows == views[:, None]).flatten(2).all(2)
    assert (equal.sum(1) == 1).all()  # exactly one window, for all channels together
    counts = torch.bincount(equal.int().argmax(1), minlength=25)
    assert chisquare(counts.numpy()).pvalue > 1e-3


def test_a_flip_mirrors_left_and_right_for_about_half_of_the_images() -> None:
    views = augment(PICTURES, Recipe(flip=True), rng=fresh())
    mirrored = (views == PICTURES.flip(3)).flatten(1).all(1)
    assert torch.equal(views[~mirrored], PICTURES[~mirrored])
    assert 160 < int(mirrored.sum()) < 240


@pytest.mark.parametrize("side", [1, 2, 3])
def test_a_hole_is_one_square_of_zeros_in_all_channels_and_every_centre_is_as_likely(side: int) -> None:
    pictures = torch.ones(900, 2, 5, 6)
    views = augment(pictures, Recipe(cutout=side), rng=fresh())
    assert torch.equal(views[:, 0], views[:, 1]) and (pictures == 1).all()
    padded = torch.zeros(
        30, 5 + 2 * side, 6 + 2 * side
    )  # a hole around every centre, then the border cut off
    for centre, (row, column) in enumerate(np.ndindex(5, 6)):
        top, left = row + side - side // 2, column + side - side // 2
        padded[centre, top : top + side, left : left + side] = 1
    holes = padded[:, side:-side, side:-side]
    assert len(holes.unique(dim=0)) == 30
    equal = (holes == 1 - views[:, None, 0]).flatten(2).all(2)
    assert (equal.sum(1) == 1).all()
    counts = torch.bincount(equal.int().argmax(1), minlength=30)
    assert chisquare(counts.numpy()).pvalue > 1e-3


def test_a_hole_of_side_two_is_the_row_and_the_column_before_its_centre_too() -> None:
    views = augment(torch.ones(200, 1, 2, 2), Recipe(cutout=2), rng=fresh())[:, 0]
    # centres (0, 0), (0, 1), (1, 0), (1, 1), by hand
    wanted = torch.tensor([[[0.0, 1], [1, 1]], [[0, 0], [1, 1]], [[0, 1], [0, 1]], [[0, 0], [0, 0]]])
    assert torch.equal(views.unique(dim=0), wanted.unique(dim=0))


def test_a_hole_moves_neither_the_crop_nor_the_flip() -> None:
    plain = augment(PICTURES, Recipe(crop=1, flip=True), rng=fresh())
    holed = augment(PICTURES, Recipe(crop=1, flip=True, cutout=1), rng=fresh())
    changed = plain != holed
    assert (holed[changed] == 0).all() and 0 < int(changed.sum()) <= 400 * 2


def test_views_come_from_the_generator() -> None:
    recipe = Recipe(crop=1, flip=True)
    assert torch.equal(augment(PICTURES, recipe, rng=fresh()), augment(PICTURES, recipe, rng=fresh()))
    assert not torch.equal(augment(PICTURES, recipe, rng=fresh()), augment(PICTURES, recipe, rng=fresh(1)))


def test_the_loop_augments_every_epoch_differently_and_leaves_the_data_alone() -> None:
    alike = tiny_images()._replace(x=tiny_images().x[:1].repeat(30, 1, 1, 1))  # the order cannot show
    bench, _ = workbench(Recipe(epochs=2, batch_size=30, crop=1), data=alike)
    before, seen = bench.data.x.clone(), Watched()
    bench.fit(small_network(), seen)
    assert torch.equal(bench.data.x, before)
    (first, _), (second, _) = seen.batches
    assert not torch.equal(first, second)


# Runs that are killed, through the step that a workflow calls

MODEL = {"kind": "small_cnn", "widths": [3], "hidden": 6, "until": 2}
ASCENT = {"threat": {"eps": 0.1}, "step_size": 0.05, "steps": 2}
RUNS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "standard, sgd": ({"kind": "standard"}, {}),
    "standard, adam": ({"kind": "standard"}, {"optimizer": "adam", "lr": 0.01}),
    "adversarial training": ({"kind": "adversarial_training", "ascent": ASCENT}, {"crop": 1, "flip": True}),
    "averaged": ({"kind": "standard"}, {"average": 0.9}),
    "early stopping": ({"kind": "trades", "ascent": ASCENT, "validation": "best"}, {}),
    "cbd": ({"kind": "cbd", "biased_epochs": 2, "mi_weight": 0.5}, {}),
    "cbd by the epoch": (
        {"kind": "cbd", "biased_epochs": 2, "mi_weight": 0.5, "alternate": "epoch", "lipschitz": "released"},
        {},
    ),
    "cbd by the rule": ({"kind": "cbd", "biased_epochs": 2, "stop": "rule", "check_every": 3}, {}),
}


def run(folder: Path, name: str = "standard, sgd", *, seed: int = 0, **files: Path) -> Path:
    """Train on tiny images in files, three epochs of four steps; the folder of the run."""
    defense, recipe = RUNS[name]
    spec = {"model": MODEL, "training": {"epochs": 3, "batch_size": 8} | recipe, "defense": defense}
    about = {"dataset": "d", "poison": "clean", "model": "m", "defense": "x", "seed": seed}
    train = files.get("train") or write_images(folder / "train.npz", tiny_images())
    val = files.get("val") or write_images(folder / "val.npz", tiny_images(9, seed=1))
    train_step.run(
        train=train,
        val=val,
        spec=spec,
        run=about,
        out=folder / "out",
        device=CPU,
        scratch=folder / "scratch",
        crafted=files.get("crafted"),
    )
    return folder / "out"


def outcome(out: Path) -> dict[str, Any]:
    """Bytes of weights and trace, and the record without its provenance."""
    about = read_json(out / "run.json")
    del about["provenance"]
    return {
        "weights": (out / "model.safetensors").read_bytes(),
        "trace": (out / "trace.npz").read_bytes(),
        "about": about,
    }


@pytest.mark.parametrize("name", RUNS)
@pytest.mark.parametrize("step", [6, 18])  # in the second epoch of the twin or the network; in a late epoch
def test_a_killed_run_ends_in_the_bytes_of_an_uninterrupted_one(
    name: str, step: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if step > 12 and "cbd" not in name:
        step = 10
    whole = outcome(run(tmp_path / "whole", name))
    batches = killed_at(step, lambda: run(tmp_path / "killed", name), monkeypatch)
    assert not (tmp_path / "killed" / "out").exists()
    torch.manual_seed(99)  # another process
    batches[0] = 1000
    resumed = outcome(run(tmp_path / "killed", name))

    steps = BATCHES * (5 if "cbd" in name else 3)
    assert batches[0] - 1000 == steps - (step - 1) // BATCHES * BATCHES  # only what was left of it
    assert resumed == whole
    assert not list((tmp_path / "killed" / "scratch").glob("*/*.safetensors"))


@pytest.mark.parametrize("name", ["standard, sgd", "standard, adam", "averaged"])
def test_a_killed_run_on_pictures_with_the_channels_last_ends_in_the_same_bytes_too(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def wide(images: Images) -> Images:
        return images._replace(x=images.x.repeat_interleave(4, 2).repeat_interleave(4, 3))

    files = {"train": write_images(tmp_path / "train.npz", wide(tiny_images()))}
    files["val"] = write_images(tmp_path / "val.npz", wide(tiny_images(9, seed=1)))
    whole = outcome(run(tmp_path / "whole", name, **files))
    killed_at(6, lambda: run(tmp_path / "killed", name, **files), monkeypatch)
    assert outcome(run(tmp_path / "killed", name, **files)) == whole


def test_a_killed_run_does_not_begin_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "SAVE_EVERY", -1.0)
    _, trainer = workbench(RECIPE, scratch=tmp_path)
    steps = [0]

    def dying(model: nn.Module, x: Tensor, y: Tensor, *, rng: Generator) -> Tensor:
        steps[0] += 1
        if steps[0] == 2 * BATCHES + 2:
            raise Killed
        return F.cross_entropy(model(x), y)

    with pytest.raises(Killed):
        trainer.fit(small_network(), dying)
    watched = Watched()
    _, again = workbench(RECIPE, scratch=tmp_path)
    assert again.fit(small_network(), watched) == 3 * BATCHES
    assert len(watched.batches) == BATCHES  # the third epoch only
    assert [record["epoch"] for record in again.history["model"]] == [1, 2, 3]


def test_a_finished_phase_is_not_trained_twice(tmp_path: Path) -> None:
    first, second, watched = small_network(), small_network(seed=5), Watched()
    workbench(RECIPE, scratch=tmp_path)[0].fit(first, cross_entropy)
    assert workbench(RECIPE, scratch=tmp_path)[0].fit(second, watched) == 3 * BATCHES
    assert not watched.batches and same(first.state_dict(), second.state_dict())


def test_a_phase_that_its_watch_ended_is_not_taken_up_again(tmp_path: Path) -> None:
    def end(step: int, model: nn.Module) -> bool:
        return step == 6

    first, second, watched = small_network(), small_network(seed=5), Watched()
    assert workbench(RECIPE, scratch=tmp_path)[0].fit(first, cross_entropy, watch=end, every=3) == 6
    assert workbench(RECIPE, scratch=tmp_path)[0].fit(second, watched, watch=end, every=3) == 6
    assert not watched.batches and same(first.state_dict(), second.state_dict())


def test_a_run_repeats_to_the_byte_and_another_seed_gives_other_weights(tmp_path: Path) -> None:
    first, again = outcome(run(tmp_path / "a")), outcome(run(tmp_path / "b"))
    other = outcome(run(tmp_path / "c", seed=1))
    assert first == again
    assert first["weights"] != other["weights"]


def test_a_network_begins_where_its_seed_says_with_the_pixels_of_its_training_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    still = {"lr": 1e-20, "weight_decay": 0, "epochs": 1}
    monkeypatch.setitem(RUNS, "still", ({"kind": "standard"}, still))
    monkeypatch.setitem(RUNS, "still too", ({"kind": "adversarial_training", "ascent": ASCENT}, still))
    cases = [("still", 0), ("still too", 0), ("still", 1)]
    first, other_defense, other_seed = (
        read_weights(run(tmp_path / str(case), name, seed=seed) / "model.safetensors")
        for case, (name, seed) in enumerate(cases)
    )
    assert torch.equal(first["head.weight"], other_defense["head.weight"])  # a fair comparison
    assert not torch.allclose(first["head.weight"], other_seed["head.weight"], atol=1e-3)
    pixels = tiny_images().x.double() / 255
    assert first["mean"].item() == pytest.approx(pixels.mean().item(), rel=1e-5)
    assert first["std"].item() == pytest.approx(pixels.std().item(), rel=1e-5)


def test_the_record_of_a_run_says_what_was_trained_on_what(tmp_path: Path) -> None:
    about = read_json(run(tmp_path, "cbd") / "run.json")
    assert about["shape"] == [1, 4, 4] and about["classes"] == ["0", "1", "2"]
    assert about["run"]["seed"] == 0 and about["spec"]["model"] == MODEL
    assert [len(about["history"][phase]) for phase in ("biased", "model")] == [2, 3]
    assert set(about["notes"]) == {"biased_steps", "biased_loss_p05", "biased_loss_median", "rule_met"}
    assert set(about["provenance"]["inputs"]) == {"train", "val"}
    trace = read_npz(tmp_path / "out" / "trace.npz")
    assert trace["biased_loss"].shape == trace["first_weight"].shape == (30,)


# What must not reach a training


def poisoned(folder: Path, **changes: np.ndarray) -> Path:
    """A poisoned set as the poison step stores it."""
    images = tiny_images()
    mask = np.zeros(30, bool)
    mask[:5] = True
    arrays = {"mask": mask, "test_x": tiny_images(9, seed=2).x.numpy(), "test_y": np.arange(9) % 3}
    return write_images(folder / "poisoned.npz", images, **(arrays | changes))


@pytest.mark.parametrize("name", ["standard, sgd", "cbd"])
@pytest.mark.parametrize(
    "changes",
    [
        {"mask": np.zeros(30, bool)},
        {"mask": np.arange(30) % 7 == 0},
        {"test_y": np.zeros(9, np.int64)},
        {"test_x": np.zeros((9, 1, 4, 4), np.uint8)},
    ],
    ids=["mask erased", "mask permuted", "test labels changed", "test images changed"],
)
def test_neither_the_poison_mask_nor_the_test_split_reaches_a_training(
    name: str, changes: dict[str, np.ndarray], tmp_path: Path
) -> None:
    before = outcome(run(tmp_path / "a", name, train=poisoned(tmp_path / "a")))
    after = outcome(run(tmp_path / "b", name, train=poisoned(tmp_path / "b", **changes)))
    assert after == before


def test_the_labels_of_val_choose_no_weights(tmp_path: Path) -> None:
    held = tiny_images(9, seed=1)
    moved = write_images(tmp_path / "moved.npz", held._replace(y=held.y.flip(0)))
    before = outcome(run(tmp_path / "a"))
    assert outcome(run(tmp_path / "b", val=moved))["weights"] == before["weights"]


def test_the_labels_of_train_do(tmp_path: Path) -> None:
    images = tiny_images()
    moved = write_images(tmp_path / "moved.npz", images._replace(y=images.y.flip(0)))
    assert outcome(run(tmp_path / "a"))["weights"] != outcome(run(tmp_path / "b", train=moved))["weights"]


def test_a_crafted_set_of_other_images_is_refused(tmp_path: Path) -> None:
    write_npz(tmp_path / "crafted.npz", {"x_adv": np.zeros((3, 1, 4, 4), np.float32)})
    with pytest.raises(
        DataError, match=r"crafted.npz: expected one adversarial image per training image \(30,"
    ):
        run(tmp_path, crafted=tmp_path / "crafted.npz")


def test_a_wrong_training_block_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(RUNS, "wrong", ({"kind": "standard"}, {"epoch": 3}))
    with pytest.raises(ConfigError, match=r"training\.epoch: unknown key; did you mean 'epochs'"):
        run(tmp_path, "wrong")


def test_only_one_process_at_a_time_trains_a_run(tmp_path: Path) -> None:
    def take() -> None:
        with (tmp_path / "run" / "lock").open("w") as other:
            fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)

    with only_one(tmp_path / "run"), pytest.raises(BlockingIOError):
        take()
    take()


def test_the_stored_state_is_plain_tensors_and_json(tmp_path: Path) -> None:
    from safetensors.torch import load_file

    workbench(RECIPE, scratch=tmp_path)[0].fit(small_network(), cross_entropy)
    tensors = load_file(tmp_path / "model.safetensors")
    about = json.loads(bytes(tensors["about"].tolist()))
    assert about["epoch"] == 3 and about["ended"] is False and len(about["records"]) == 3
    assert same(
        {k.removeprefix("model/"): v for k, v in tensors.items() if k.startswith("model/")}.keys(),
        small_network().state_dict().keys(),
    )
