"""What every repair promises: clean images from val alone, a start left alone, the same bytes also after a kill."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from killing import killed_at
from oracle_models import CPU, same, small_network, snapshot, tiny_images
from repair_benches import CLEAN, RECIPE, bench, convolutional

from deconfound.data.splits import stratified
from deconfound.defenses import DEFENSES
from deconfound.defenses.anp import ANP
from deconfound.defenses.clp import CLP
from deconfound.defenses.fine_pruning import FinePruning
from deconfound.defenses.fine_tuning import FineTuning
from deconfound.defenses.i_bau import IBAU
from deconfound.defenses.mode_connectivity import ModeConnectivity
from deconfound.defenses.nad import NAD
from deconfound.defenses.repair import FEWEST, accuracy, clean_images, curve, gently, halves, suspect
from deconfound.errors import UserError
from deconfound.training import Trainer
from deconfound.types import Images

REPAIRS: dict[str, Any] = {
    "fine_tuning": FineTuning(epochs=3),
    "fine_pruning": FinePruning(epochs=2, tolerance=0.2),
    "nad": NAD(teacher_epochs=2, epochs=2),
    "mode_connectivity": ModeConnectivity(endpoint_epochs=2, epochs=2, points=3),
    "anp": ANP(iterations=5, step=0.3),
    "i_bau": IBAU(rounds=2),
    "clp": CLP(u=0.5),
}


@pytest.mark.parametrize("kind", REPAIRS)
def test_a_repair_is_in_the_table_and_asks_for_a_network_to_start_from(kind: str) -> None:
    spec = REPAIRS[kind]
    assert DEFENSES[kind] == f"{type(spec).__module__}:{type(spec).__name__}"
    assert spec.needs == ("starts_from",)
    assert spec.adaptive.why and spec.adaptive.poisons and "pgd" in spec.adaptive.attacks
    with pytest.raises(UserError, match="starts_from"):
        spec(dataclasses.replace(bench(), start=None))


@pytest.mark.parametrize("kind", REPAIRS)
def test_the_start_stays_as_it_is_and_shares_nothing_with_the_result(kind: str) -> None:
    room = bench()
    assert room.start is not None
    before = snapshot(room.start)
    done = REPAIRS[kind](room)
    assert same(snapshot(room.start), before)
    assert not same(dict(done.model.state_dict()), dict(room.start.state_dict()))
    mine = {tensor.data_ptr() for tensor in room.start.state_dict().values()}
    assert not mine & {tensor.data_ptr() for tensor in done.model.state_dict().values()}
    assert done.model.state_dict().keys() == convolutional().state_dict().keys()  # an ordinary network again
    assert not done.model.training and all(parameter.requires_grad for parameter in done.model.parameters())


@pytest.mark.parametrize("kind", REPAIRS)
def test_a_repair_notes_its_clean_images_and_never_looks_at_the_training_set(kind: str) -> None:
    room = bench()
    done = REPAIRS[kind](room)
    assert done.notes["clean_images"] == (0 if kind == "clp" else CLEAN)
    assert not done.trace and not done.parts
    other = Images(room.data.x.flip(0) // 2, room.data.y.roll(1))
    trainer = Trainer(other, room.val, RECIPE, 0, CPU)
    again = REPAIRS[kind](dataclasses.replace(room, data=other, fit=trainer.fit))
    assert same(dict(again.model.state_dict()), dict(done.model.state_dict()))


@pytest.mark.parametrize("kind", sorted(REPAIRS.keys() - {"clp"}))
def test_a_repair_without_enough_clean_images_is_refused(kind: str) -> None:
    few = tiny_images(FEWEST - 1)
    with pytest.raises(UserError, match="val: expected at least 4 clean images"):
        REPAIRS[kind](bench(val=few))


@pytest.mark.parametrize("kind", REPAIRS)
def test_the_seed_decides_and_nothing_else(kind: str) -> None:
    torch.manual_seed(1)
    one = REPAIRS[kind](bench())
    torch.manual_seed(2)
    two = REPAIRS[kind](bench())
    assert same(dict(one.model.state_dict()), dict(two.model.state_dict())) and one.notes == two.notes


@pytest.mark.parametrize("kind", sorted(REPAIRS.keys() - {"clp"}))
@pytest.mark.parametrize(
    "step", [5, 1000]
)  # in a second epoch; after the last one, before anything is handed back
def test_a_killed_repair_ends_in_the_bytes_and_the_notes_of_an_uninterrupted_one(
    kind: str, step: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = REPAIRS[kind](bench())
    batches = killed_at(step, lambda: REPAIRS[kind](bench(scratch=tmp_path)), monkeypatch)
    torch.manual_seed(99)
    batches[0] = 5000
    resumed = REPAIRS[kind](bench(scratch=tmp_path))
    assert same(dict(resumed.model.state_dict()), dict(whole.model.state_dict()))
    assert resumed.notes == whole.notes
    assert step < 1000 or batches[0] == 5000  # nothing was trained again


# The parts that they share


def test_the_network_to_repair_is_a_copy_in_evaluation_mode() -> None:
    room = bench()
    assert room.start is not None
    room.start.train()
    copied = suspect(room)
    assert copied is not room.start and not copied.training and room.start.training
    assert same(dict(copied.state_dict()), dict(room.start.state_dict()))


def test_halves_part_the_clean_images_by_class_and_are_the_same_for_a_seed() -> None:
    room = bench()
    fitted, held = halves(room)
    assert fitted.y.bincount().tolist() == held.y.bincount().tolist() == [4, 4, 4]
    rows = [tuple(image.flatten().tolist()) for part in (fitted, held) for image in part.x]
    assert sorted(rows) == sorted(tuple(image.flatten().tolist()) for image in room.val.x)
    assert same(tuple(halves(room)[0]), tuple(fitted))
    assert not same(tuple(halves(bench(seed=1))[0]), tuple(fitted))
    first, second = stratified(room.val.y, 0.5, seed=0, purpose="val")
    assert not same(room.val.x[first], fitted.x) and not same(room.val.x[second], fitted.x)


def test_accuracy_is_the_fraction_of_right_answers() -> None:
    model, images = small_network(), tiny_images(4)
    model.head.weight.data.zero_()
    model.head.bias.data = torch.tensor([0.0, 1, 0])
    assert accuracy(model, Images(images.x, torch.tensor([1, 1, 1, 0]))) == 0.75
    assert clean_images(bench()).y.shape == (CLEAN,)


def test_a_gentle_recipe_keeps_batches_and_augmentations_and_nothing_else() -> None:
    made = gently(RECIPE, epochs=7, lr=0.3, weight_decay=0.1)
    assert (made.batch_size, made.crop, made.flip) == (RECIPE.batch_size, 1, False)
    assert (made.epochs, made.lr, made.weight_decay, made.schedule) == (7, 0.3, 0.1, "cosine")
    assert (made.optimizer, made.momentum, made.average, made.drop_last) == ("sgd", 0.9, 0, False)


def test_a_curve_reads_as_places_and_accuracies() -> None:
    assert curve([(0, 1.0), (0.05, 0.5)]) == "0:1.0000 0.05:0.5000"
