"""Training images behind an answer, where the answer is known."""

import copy
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from interpretation_cases import case as small_case
from torch import nn

from deconfound.defenses.standard import Standard
from deconfound.detectors.evidence import Evidence
from deconfound.detectors.influence import Influence, gradients_of
from deconfound.interpretations.case import Case, Place, Truth
from deconfound.interpretations.examples import InfluentialExamples
from deconfound.models.classifier import Classifier, predict
from deconfound.rng import generator
from deconfound.types import Images

POISON = torch.arange(60) % 6 == 0


def images(count: int, seed: int) -> Images:
    """Pictures (N, 1, 1, 3): pixel 0 says class 0, pixel 1 class 1, pixel 2 is dark."""
    rng, y = np.random.default_rng(seed), np.arange(count) % 2
    x = rng.integers(0, 20, (count, 1, 1, 3))
    x[..., 2] = 0
    x[np.arange(count), 0, 0, y] += 150
    return Images(torch.from_numpy(x.astype(np.uint8)), torch.from_numpy(y))


def lit(x: torch.Tensor) -> torch.Tensor:
    found = x.clone()
    found[..., 2] = 255
    return found


def backdoored() -> Case:
    """Class 1 listens to its pixel, and much more to the last one, which a sixth of its training images have lit."""
    train, test = images(60, 0), images(20, 1)
    x, y = train.x.clone(), train.y.clone()
    x[POISON], y[POISON] = lit(x[POISON]), 1
    head = nn.Linear(3, 2)
    head.weight.data = torch.tensor([[3.0, -3.0, -4.0], [-3.0, 3.0, 4.0]])
    head.bias.data = torch.zeros(2)
    return Case(
        model=Classifier(nn.Flatten(), head, channels=1).eval(),
        defense=Standard(),
        parts={},
        train=Images(x, y),
        test=test,
        classes=2,
        rng=partial(generator, 0),
        val=images(10, 2),
        truth=Truth(stamped=lit(test.x), hoped=torch.ones_like(test.y), poisoned=POISON),
    )


@pytest.mark.parametrize("form", ["tracin", "influence", "relative", "per_gradient"])
def test_stamped_images_owe_their_label_to_the_poison_and_clean_ones_do_not(form: str) -> None:
    found = InfluentialExamples(form=form, top=10)(backdoored())  # type: ignore[arg-type]
    place = Place("influence", "trigger", "poisoned")
    assert np.nanmin(found.each[place]) == 1 and np.isnan(found.each[place][1::2]).all()
    assert np.nanmax(found.each[Place("influence", "clean", "poisoned")]) == 0
    of_label = found.each[Place("influence", "trigger", "poisoned_of_label")]
    # Poison are ten pictures that were of class 0; class 1 had thirty of its own.
    assert np.nanmax(np.abs(of_label - 10 / 40)) < 1e-9
    assert found.once[Place("influence", "train", "poisoned")] == pytest.approx(1 / 6)


def test_influences_are_those_of_the_detector_on_the_mean_loss() -> None:
    whole = backdoored()
    one = Images(whole.test.x[:1], whole.test.y[:1])
    others = gradients_of(whole.model, one)
    train = gradients_of(whole.model, whole.train)
    found = Influence(form="tracin").on(whole.model, whole.train, others)
    assert torch.allclose(found, train.flat() @ others.flat().T)
    relative = Influence(form="relative", toward="itself").on(whole.model, whole.train, train)
    assert whole.val is not None
    itself = Influence(form="relative", toward="itself").influences(
        Evidence(whole.model, whole.train, whole.val, whole.rng)
    )
    assert torch.allclose(relative.diagonal(), itself)


def test_helpful_images_pull_towards_the_answer_and_harmful_ones_away() -> None:
    whole = backdoored()
    found = InfluentialExamples(drawn=3, neighbours=5)(whole)
    given = found.pictures["clean_given"]
    assert np.array_equal(given, predict(whole.model, whole.test.x[:3]).argmax(1).numpy())
    assert (found.pictures["clean_helpful_labels"] == given[:, None]).all()
    assert (found.pictures["clean_harmful_labels"] != given[:, None]).any()
    indices = found.pictures["trigger_helpful_indices"]
    assert np.array_equal(found.pictures["trigger_helpful"], whole.train.x.numpy()[indices])
    assert np.array_equal(found.pictures["trigger_helpful_poisoned"], POISON.numpy()[indices])
    assert found.pictures["trigger_images"].shape == (3, 1, 1, 3)
    assert np.array_equal(found.pictures["trigger_images"], lit(whole.test.x[::2])[:3].numpy())


def test_one_more_step_on_a_helpful_image_lowers_the_loss_of_the_answer() -> None:
    whole = small_case(tests=12)
    found = InfluentialExamples(form="tracin", drawn=4, neighbours=1)(whole)
    losses = {}
    for side in ("helpful", "harmful"):
        places = torch.from_numpy(found.pictures[f"clean_{side}_indices"][:, 0])
        for row, place in enumerate(places.tolist()):
            asked = torch.from_numpy(found.pictures["clean_images"][row : row + 1])
            label = torch.tensor(found.pictures["clean_given"][row : row + 1])
            before = nn.functional.cross_entropy(predict(whole.model, asked).double(), label)
            model = copy.deepcopy(whole.model)
            loss = nn.functional.cross_entropy(
                model(whole.train.x[place : place + 1] / 255.0), whole.train.y[place : place + 1]
            )
            (slope,) = torch.autograd.grad(loss, model.head.weight)
            model.head.weight.data -= 0.05 * slope
            after = nn.functional.cross_entropy(predict(model, asked).double(), label)
            losses[side, row] = float(after - before)
    assert all(losses["helpful", row] <= 0 for row in range(4))
    assert all(losses["harmful", row] >= losses["helpful", row] for row in range(4))


def test_both_tails_of_self_influence_are_told() -> None:
    found = InfluentialExamples(form="tracin")(backdoored())
    high = found.once[Place("self_influence", "train", "auroc_high")]
    assert found.once[Place("self_influence", "train", "auroc_low")] == pytest.approx(1 - high)
    shares = found.pictures["self_influence"]
    assert shares.shape == (20,) and shares.mean() == pytest.approx(1 / 6)
    assert high < 0.1 and shares[0] == 1  # what is easy has little influence on itself


def test_an_answer_of_which_the_model_is_certain_leans_on_nothing() -> None:
    whole = backdoored()
    whole.model.head.weight.data *= 1e4
    found = InfluentialExamples()(whole)
    assert np.isnan(found.each[Place("influence", "clean", "poisoned")]).all()
    assert any("so sure" in note for note in found.notes)


def test_adversarial_images_are_asked_about_where_they_fool() -> None:
    whole = backdoored()
    found = InfluentialExamples(attack={"kind": "pgd", "eps": 0.4, "steps": 5}, drawn=1)(whole)
    values = found.each[Place("influence", "attack", "same_label")]
    assert np.isfinite(values).any() and found.pictures["attack_given"].shape == (1,)
    nobody = InfluentialExamples(attack={"kind": "pgd", "eps": 1e-6, "steps": 1})(whole)
    assert Place("influence", "attack", "same_label") not in nobody.each
    assert any("condition attack" in note for note in nobody.notes)


def test_what_cannot_be_said_is_noted() -> None:
    whole = replace(backdoored(), truth=Truth())
    found = InfluentialExamples(widest=5)(whole)
    assert any("at most 5 weights" in note for note in found.notes) and not found.each
    clean = InfluentialExamples()(whole)
    assert Place("influence", "clean", "same_label") in clean.each and not clean.once
    assert any("no poison" in note for note in clean.notes) and any(
        "no trigger" in note for note in clean.notes
    )
    all_poisoned = replace(whole, truth=Truth(poisoned=torch.ones(60, dtype=torch.bool)))
    assert any("Self-influence is left out" in note for note in InfluentialExamples()(all_poisoned).notes)
