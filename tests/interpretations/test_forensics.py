"""Lists of suspicious training images on networks whose representation is the picture itself."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from detectors.suspects import identity, linear, noise, pictures
from truth_cases import case_of, once_more, read

from deconfound.interpretations.case import Case, Readings, Truth
from deconfound.interpretations.forensics import PoisonForensics, of_list, principal, usual_detectors
from deconfound.measures import hits_among
from deconfound.rng import generator
from deconfound.types import Images

WIDTH, COUNT, EVERY = 6, 60, 5
SPECTRAL = {"spectral": {"kind": "spectral_signatures"}}
LOSS = {"loss": {"kind": "lowest_loss"}}


def backdoored(poisoned: bool = True) -> Case:
    """Pictures of three labels, all noise; of label 1 every fifth has a bright last pixel, and is the poison."""
    rows, y = noise(COUNT, WIDTH), torch.arange(COUNT) % 3
    mask = (y == 1) & (torch.arange(COUNT) // 3 % EVERY == 0)
    if poisoned:
        rows[mask, -1] = 250
    train = pictures(rows, y)
    truth = Truth(poisoned=mask) if poisoned else Truth()
    return case_of(identity(WIDTH, 3), train, truth, classes=3)


@pytest.fixture(scope="module")
def found() -> Readings:
    return once_more(PoisonForensics(detectors=SPECTRAL), backdoored())


def test_a_list_that_ends_in_all_the_poison_has_perfect_numbers(found: Readings) -> None:
    wanted = {
        "auroc": 1.0,
        "precision_at_n": 1.0,
        "recall_at_1_5n": 1.0,
        "precision_from_below": 0.0,
        "upper_half": 1.0,
        "class_named": 1.0,
    }
    for metric, value in wanted.items():
        assert read(found, f"spectral.train.{metric}") == pytest.approx(value), metric
    assert read(found, "spectral.train.flagged") == pytest.approx(3 * 3 / COUNT)  # 15 % of each label


def test_scores_and_flags_are_those_of_the_detector_without_the_truth(found: Readings) -> None:
    from deconfound.detectors.evidence import Evidence
    from deconfound.detectors.spectral_signatures import SpectralSignatures

    case = backdoored()
    evidence = Evidence(case.model, case.train, case.train, lambda purpose: generator(0, purpose))
    scores = SpectralSignatures().examine(evidence).scores.numpy()
    assert np.array_equal(found.pictures["scores.spectral"], scores)


def test_draws_are_those_of_the_evaluation(monkeypatch: pytest.MonkeyPatch) -> None:
    from deconfound.detectors.evidence import Evidence, Flagged
    from deconfound.detectors.lowest_loss import LowestLoss

    seen: list[Evidence] = []

    def examine(self: LowestLoss, evidence: Evidence) -> Flagged:
        seen.append(evidence)
        return Flagged(torch.zeros(COUNT), torch.zeros(COUNT, dtype=torch.bool))

    case = backdoored()
    case.model.train()
    modes: list[bool] = []
    monkeypatch.setattr(
        LowestLoss, "examine", lambda *both: modes.append(case.model.training) or examine(*both)
    )
    PoisonForensics(detectors=LOSS)(case)
    assert modes == [False] and case.model.training
    assert torch.equal(
        torch.rand(3, generator=seen[0].rng("some")),
        torch.rand(3, generator=generator(0, "detector", "some")),
    )


def test_the_head_of_the_list_is_kept_with_the_truth_beside_it(found: Readings) -> None:
    case, scores = backdoored(), found.pictures["scores.spectral"]
    places, poisoned = found.pictures["top.spectral.places"], case.truth.poisoned
    assert len(places) == 20 and poisoned is not None
    assert (np.diff(scores[places]) <= 0).all() and scores[places].min() >= np.sort(scores)[-20]
    assert np.array_equal(found.pictures["top.spectral.images"], case.train.x.numpy()[places])
    assert np.array_equal(found.pictures["top.spectral.labels"], case.train.y.numpy()[places])
    assert np.array_equal(found.pictures["top.spectral.poisoned"], poisoned.numpy()[places])
    assert found.pictures["top.spectral.poisoned"][:4].all() and poisoned.sum() == 4
    short = PoisonForensics(detectors=SPECTRAL, shown=3)(case)
    assert np.array_equal(short.pictures["top.spectral.places"], places[:3])
    none = PoisonForensics(detectors=SPECTRAL, shown=0)(case)
    assert not any(name.startswith("top.") for name in none.pictures)


def test_the_scatter_parts_the_poison_of_its_label_along_the_first_component(found: Readings) -> None:
    points, poisoned = found.pictures["components"], found.pictures["components_poisoned"]
    assert found.pictures["components_label"].tolist() == [1] and points.shape == (20, 2)
    assert poisoned.sum() == 4 and points[poisoned, 0].min() > points[~poisoned, 0].max()
    assert np.array_equal(poisoned, found.pictures["poisoned"][1::3])
    fewer = PoisonForensics(detectors=SPECTRAL, components_of=7)(backdoored())
    assert len(fewer.pictures["components"]) == len(fewer.pictures["components_poisoned"]) == 7


def test_principal_components_have_one_sign_and_the_shares_of_the_variance() -> None:
    rows = torch.tensor([[0.0, 0.0, 1.0], [4.0, 0.0, 1.0], [0.0, -2.0, 1.0], [4.0, -2.0, 1.0]]).double()
    points, shares = principal(rows)
    assert torch.allclose(points, torch.tensor([[-2.0, 1], [2, 1], [-2, -1], [2, -1]]).double())
    assert torch.allclose(shares, torch.tensor([0.8, 0.2]).double())
    turned, _ = principal(-rows)
    assert torch.allclose(turned, -points)
    still, none = principal(torch.ones(3, 2).double())
    assert not still.any() and not none.any()


def test_without_poison_only_false_alarms_are_told_and_no_list_is_scored() -> None:
    found = once_more(PoisonForensics(detectors=SPECTRAL), backdoored(poisoned=False))
    assert {place.metric for place in found.once} == {"flagged"}
    assert any("No training image is poisoned" in note for note in found.notes)
    assert not found.pictures["poisoned"].any() and not found.pictures["top.spectral.poisoned"].any()
    assert found.pictures["components_label"].tolist() == [0]  # all labels are as frequent
    whole = replace(backdoored(), truth=Truth(poisoned=torch.ones(COUNT, dtype=torch.bool)))
    assert {place.metric for place in PoisonForensics(detectors=LOSS)(whole).once} == {"flagged"}


def test_what_is_easy_sits_in_the_low_tail_of_a_list_of_hard_images() -> None:
    """A network that is sure of the poison and of nothing else: its influence on itself is the smallest."""
    weight = [[0.0] * WIDTH for _ in range(3)]
    weight[1][-1] = 40.0
    case = replace(backdoored(), model=linear(weight, [0.0, -24.0, 0.0]))
    block = {"itself": {"kind": "influence", "form": "tracin", "toward": "itself", "tail": "high"}}
    found = PoisonForensics(detectors=block | LOSS)(case)
    assert read(found, "itself.train.auroc") < 0.05 and read(found, "itself.train.upper_half") == 0
    assert (
        read(found, "itself.train.precision_from_below") == 1
        and read(found, "itself.train.precision_at_n") == 0
    )
    assert read(found, "loss.train.upper_half") == 1 and read(found, "loss.train.class_named") == 1


def test_half_an_example_counts_half() -> None:
    positive = np.array([False, True, True])
    scores = np.array([3.0, 2.0, 1.0])
    assert [hits_among(scores, positive, count) for count in (0, 1, 1.5, 2, 3, 9)] == [0, 0, 0.5, 1, 2, 2]


def test_equal_scores_count_as_if_in_random_order() -> None:
    poisoned = np.array([True, True, False, False, False, False])
    labels = np.array([0, 0, 0, 1, 1, 1])
    scores = np.array([1.0, 0, 1, 1, 0, 0])
    found = of_list(scores, poisoned, labels)
    # Of two among three equal ones two thirds are drawn; three are all of them.
    assert found["precision_at_n"] == pytest.approx(1 / 3)
    assert found["recall_at_1_5n"] == pytest.approx(1 / 2)
    assert found["precision_from_below"] == pytest.approx(1 / 3)
    assert found["upper_half"] == pytest.approx(1 / 2)
    assert found["class_named"] == 1  # four thirds of label 0, two thirds of label 1
    even = of_list(np.zeros(6), poisoned, labels)
    assert even["class_named"] == 0 and even["auroc"] == 0.5
    assert "class_named" not in of_list(scores, poisoned[::-1] | poisoned, labels)  # poison of two labels


def test_of_a_label_the_share_counts_and_not_the_number() -> None:
    """Label 0 has most of the suspicious images, since it has most images; label 1 has the largest share of its own."""
    labels = np.array([0] * 10 + [1] * 2)
    poisoned = np.zeros(12, bool)
    poisoned[[10, 11, 11]] = True
    scores = np.array([9.0, 8, 7] + [0.0] * 7 + [10, 1])
    assert of_list(scores, poisoned, labels)["class_named"] == 1


def test_a_detector_that_refuses_becomes_a_note() -> None:
    case = replace(backdoored(), val=None)
    found = PoisonForensics(detectors={"pull": {"kind": "influence"}} | LOSS)(case)
    assert any(note.startswith("There are no readings of pull") for note in found.notes)
    assert read(found, "loss.train.flagged") == pytest.approx(0.1)
    broken = replace(backdoored(), model=linear([[float("nan")] * WIDTH] * 3, [0.0] * 3))
    found = PoisonForensics(detectors=LOSS)(broken)
    assert any("not finite" in note for note in found.notes) and not found.once


@pytest.mark.parametrize(
    "blocks",
    [
        {},
        {"a.b": {"kind": "lowest_loss"}},
        {"look": {"kind": "confidence"}},
        {"look": {"kind": "neural_cleanse"}},
    ],
)
def test_only_named_detectors_of_training_examples_are_taken(blocks: dict[str, Any]) -> None:
    with pytest.raises(ValueError):
        PoisonForensics(detectors=blocks)


def test_a_single_feature_or_image_is_not_drawn() -> None:
    images = Images(torch.full((2, 1, 1, 1), 9, dtype=torch.uint8), torch.tensor([0, 1]))
    case = case_of(identity(1, 2), images)
    found = PoisonForensics(detectors=LOSS)(case)
    assert "components" not in found.pictures and any("not drawn" in note for note in found.notes)


def test_the_usual_detectors_look_at_features_clusters_loss_and_influence() -> None:
    assert {block["kind"] for block in usual_detectors().values()} == {
        *("spectral_signatures", "activation_clustering", "lowest_loss", "influence")
    }
    assert PoisonForensics().detectors == usual_detectors()
