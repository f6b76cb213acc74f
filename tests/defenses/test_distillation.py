"""Distillation: both phases at the temperature, a frozen teacher, logits that grow, and a killed run."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from killing import killed_at
from oracle_models import same, small_network, snapshot, tiny_images, workbench
from torch import Tensor, nn
from torch.nn import functional as F

from deconfound.defenses.distillation import Distillation, Imitation
from deconfound.defenses.standard import cross_entropy
from deconfound.recipe import Recipe
from deconfound.training import Trainer

RECIPE = Recipe(epochs=2, batch_size=8)
IMAGES = tiny_images(12)
X, Y = IMAGES.x.float() / 255, IMAGES.y
RNG = torch.Generator()


def test_the_student_pays_for_its_distance_from_softened_answers() -> None:
    student, teacher = small_network(dropout=0.0).train(), small_network("teacher")
    found = Imitation(teacher, 5.0)(student, X, Y, rng=RNG)
    p = (teacher.eval()(X) / 5).softmax(1)
    q = (small_network(dropout=0.0).train()(X) / 5).log_softmax(1)
    assert found.item() == pytest.approx(-(p * q).sum(1).mean().item(), rel=1e-6)
    assert torch.equal(
        Imitation(teacher, 5.0)(student, X, 2 - Y, rng=RNG), Imitation(teacher, 5.0)(student, X, Y, rng=RNG)
    )


def test_the_teacher_is_frozen_and_learns_nothing_from_its_student() -> None:
    student, teacher = small_network(dropout=0.0).train(), small_network("teacher").train()
    objective = Imitation(teacher, 5.0)
    before = snapshot(teacher)
    objective(student, X, Y, rng=RNG).backward()  # type: ignore[no-untyped-call]
    assert same(snapshot(teacher), before) and not teacher.training
    assert all(w.grad is not None for w in student.parameters())


def test_a_student_of_a_teacher_that_is_sure_learns_from_labels() -> None:
    class Sure(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return 1e4 * F.one_hot(Y, 3).float()

    student = small_network(dropout=0.0).train()
    found = Imitation(Sure(), 1.0)(student, X, Y, rng=RNG)  # type: ignore[arg-type]
    expected = cross_entropy(small_network(dropout=0.0).train(), X, Y, rng=RNG)
    assert found.item() == pytest.approx(expected.item(), rel=1e-6)


def test_the_teacher_is_trained_in_its_own_phase_at_the_temperature() -> None:
    bench, trainer = workbench(RECIPE)
    done = Distillation(temperature=1, teacher_epochs=3)(bench)
    assert [len(trainer.history[phase]) for phase in ("teacher", "model")] == [3, 2]
    assert 0 <= float(done.notes["teacher_accuracy"]) <= 1
    other, twin = workbench(Recipe(epochs=3, batch_size=8))[1], small_network("teacher")
    other.fit(twin, cross_entropy, phase="teacher")
    assert other.history["teacher"] == trainer.history["teacher"]  # at temperature 1 it is standard training
    model = small_network()
    warm, cold = (
        Distillation(temperature=t, scaled=False).taught(model.eval(), X, Y, rng=RNG) for t in (20, 1)
    )
    assert warm.item() == pytest.approx(F.cross_entropy(model(X) / 20, Y).item()) and warm != cold


def test_without_held_out_images_nothing_is_said_of_the_teacher() -> None:
    bench, trainer = workbench(RECIPE)
    nobody = tiny_images(0)
    fit = Trainer(bench.data, nobody, RECIPE, 0, torch.device("cpu")).fit
    assert Distillation()(dataclasses.replace(bench, val=nobody, fit=fit)).notes == {}


def test_at_a_temperature_logits_are_worth_as_much_less() -> None:
    """So that the student's are that much larger at temperature 1, and its cross-entropy has no gradient there."""
    student, teacher = (small_network(purpose, dropout=0.0) for purpose in ("model", "teacher"))
    plain = Imitation(teacher, 1.0)(student, X, Y, rng=RNG)
    with torch.no_grad():
        for network in (student, teacher):
            network.head.weight.mul_(30)
            network.head.bias.mul_(30)
    assert Imitation(teacher, 30.0)(student, X, Y, rng=RNG).item() == pytest.approx(plain.item(), rel=1e-5)
    assert Imitation(teacher, 1.0)(student, X, Y, rng=RNG).item() != pytest.approx(plain.item(), rel=0.1)


def test_scaled_losses_are_multiplied_by_the_square_of_the_temperature() -> None:
    model, teacher = small_network().eval(), small_network("teacher")
    scaled, plain = (Distillation(temperature=4, scaled=on) for on in (True, False))
    assert (scaled.factor, plain.factor) == (16, 1)
    found = [spec.taught(model, X, Y, rng=RNG).item() for spec in (scaled, plain)]
    assert found[0] == pytest.approx(16 * found[1], rel=1e-6)
    found = [Imitation(teacher, 4.0, spec.factor)(model, X, Y, rng=RNG).item() for spec in (scaled, plain)]
    assert found[0] == pytest.approx(16 * found[1], rel=1e-6)


def test_a_killed_run_goes_on_with_the_same_teacher(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def trained(**options: Any) -> dict[str, Tensor]:
        return dict(Distillation(teacher_epochs=1)(workbench(RECIPE, **options)[0]).model.state_dict())

    whole = trained()
    # four steps of the teacher, one epoch of the student, one step more
    batches = killed_at(10, lambda: trained(scratch=tmp_path), monkeypatch)
    torch.manual_seed(99)
    assert same(trained(scratch=tmp_path), whole)
    assert batches[0] == 10 + 4  # the last epoch only
