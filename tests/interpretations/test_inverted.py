"""Reversed triggers on a linear network with a planted shortcut, and on masks that are written down."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from detectors.suspects import CLASSES, SHORTCUT, SIDE, TARGET, dark, shortcut
from torch import Tensor
from truth_cases import case_of, once_more, read

from deconfound.detectors.inversion import Inversion, Inverted
from deconfound.detectors.neural_cleanse import NeuralCleanse
from deconfound.interpretations.case import Case, Readings, Truth
from deconfound.interpretations.inverted import TriggerInversion
from deconfound.interpretations.regions import changed_region
from deconfound.types import Images

QUICK = NeuralCleanse(inversion=Inversion(passes=40, batch_size=8, patience=2))


def images() -> Images:
    x = (255 * dark()).round().to(torch.uint8)
    return Images(x, torch.arange(len(x)) % CLASSES)


def lit(x: Tensor) -> Tensor:
    found = x.clone()
    found.flatten(1)[:, SHORTCUT] = 255
    return found


def backdoored(known: bool = True) -> Case:
    """Class 2 listens to the last pixel, which is black in all images and lit by the trigger."""
    test = images()
    truth = Truth(stamped=lit(test.x), hoped=torch.full_like(test.y, TARGET)) if known else Truth()
    return case_of(shortcut(), test, truth, classes=CLASSES)


@pytest.fixture(scope="module")
def found() -> Readings:
    return once_more(TriggerInversion(scan=QUICK), backdoored())


def written(monkeypatch: pytest.MonkeyPatch, mask: Tensor, success: float = 1.0) -> None:
    """The scan finds masks (K, H, W) that are given."""
    made = Inverted(
        mask[:, None], torch.full((len(mask), 1, *mask.shape[1:]), 0.5), torch.full((len(mask),), success)
    )
    monkeypatch.setattr(NeuralCleanse, "invert", lambda self, evidence: made)


def test_the_mask_of_the_shortcut_is_the_smallest_and_lies_on_the_trigger(found: Readings) -> None:
    assert np.nanmin(read(found, "target.inverted.iou")) == 1
    ratios = [read(found, f"class_{label}.inverted.ratio") for label in range(CLASSES)]
    assert int(np.argmin(ratios)) == TARGET and ratios[TARGET] < 0.5
    assert np.median(ratios) == pytest.approx(1)
    assert read(found, "target.inverted.success") >= 0.98
    others = [label for label in range(CLASSES) if label != TARGET]
    assert all(np.nanmax(read(found, f"class_{label}.inverted.iou")) == 0 for label in others)


def test_the_target_has_the_readings_of_its_class(found: Readings) -> None:
    for metric in ("norm", "ratio", "index", "success", "accused", "convincing"):
        assert read(found, f"target.inverted.{metric}") == read(found, f"class_{TARGET}.inverted.{metric}")
    rows = np.isfinite(read(found, "target.inverted.iou"))
    assert np.array_equal(rows, images().y.numpy() != TARGET)  # its own images are no victims
    norms = [read(found, f"class_{label}.inverted.norm") for label in range(CLASSES)]
    assert np.allclose(norms, found.pictures["norms"]) and np.allclose(
        norms, found.pictures["masks"].reshape(CLASSES, -1).sum(1), rtol=1e-5
    )


def test_the_true_trigger_is_pictured_beside_the_masks(found: Readings) -> None:
    test = images()
    before, after = found.pictures["trigger.images"]
    assert np.array_equal(before, test.x[0].numpy()) and np.array_equal(after, lit(test.x)[0].numpy())
    assert found.pictures["trigger.changed"].nonzero()[0].tolist() == [SIDE - 1]
    assert found.pictures["trigger.changed"].sum() == 1 and found.pictures["trigger.target"].tolist() == [
        TARGET
    ]
    assert found.pictures["masks"].shape == (CLASSES, SIDE, SIDE)
    assert found.pictures["patterns"].shape == (CLASSES, 1, SIDE, SIDE)
    assert found.pictures["patterns"].dtype == np.uint8


def test_a_mask_that_is_known_has_known_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Norms 1, 8, 9, 10, 11: median 9, deviations 8, 1, 0, 1, 2, of which the median is 1."""
    mask = torch.zeros(CLASSES, SIDE * SIDE)
    for label, norm in enumerate((1, 8, 9, 10, 11)):
        mask[label, SHORTCUT if label == 0 else 0] = 1
        mask[label, 1:norm] = 1
    written(monkeypatch, mask.view(CLASSES, SIDE, SIDE))
    case = replace(backdoored(), truth=replace(backdoored().truth, hoped=torch.zeros(24, dtype=torch.int64)))
    found = TriggerInversion()(case)
    assert read(found, "target.inverted.norm") == 1 and read(found, "class_4.inverted.norm") == 11
    assert read(found, "target.inverted.ratio") == pytest.approx(1 / 9)
    assert read(found, "target.inverted.index") == pytest.approx(8 / 1.4826)
    assert read(found, "target.inverted.accused") == read(found, "target.inverted.convincing") == 1
    assert read(found, "class_1.inverted.accused") == 0
    assert np.nanmean(read(found, "target.inverted.iou")) == 1
    stricter = TriggerInversion(ratio=0.1)(case)
    assert (
        read(stricter, "target.inverted.accused") == 1 and read(stricter, "target.inverted.convincing") == 0
    )
    assert found.pictures["accused"].tolist() == [True, False, False, False, False]


def test_overlap_takes_as_many_of_the_strongest_pixels_as_the_trigger_has(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    mask = torch.full((CLASSES, SIDE * SIDE), 0.1)
    mask[TARGET, [0, 1]] = torch.tensor([0.9, 0.5])
    written(monkeypatch, mask.view(CLASSES, SIDE, SIDE))
    test = images()
    stamped = test.x.clone()
    stamped.flatten(1)[:, [0, SHORTCUT]] = 255 - stamped.flatten(1)[:, [0, SHORTCUT]]
    case = replace(backdoored(), truth=replace(backdoored().truth, stamped=stamped))
    values = read(TriggerInversion()(case), "target.inverted.iou")
    assert np.allclose(values[np.isfinite(values)], 1 / 3)  # pixels 0 and 1 against 0 and 15


def test_a_patch_that_does_not_work_accuses_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    mask = torch.ones(CLASSES, SIDE, SIDE) * torch.tensor([0.1, 0.8, 0.9, 1, 0.7])[:, None, None]
    written(monkeypatch, mask, success=0.5)
    found = TriggerInversion()(backdoored())
    assert read(found, "class_0.inverted.index") > 2 and read(found, "class_0.inverted.accused") == 0
    assert read(found, "class_0.inverted.convincing") == 0


def test_a_clean_network_is_scanned_without_any_truth() -> None:
    short = NeuralCleanse(inversion=Inversion(passes=2))
    found = once_more(TriggerInversion(scan=short), backdoored(known=False))
    assert not found.each and len(found.once) == 6 * CLASSES
    assert any("No poison in this run" in note for note in found.notes)
    assert set(found.pictures) == {"masks", "patterns", "norms", "accused"}


def test_where_classes_follow_each_other_none_is_the_target(monkeypatch: pytest.MonkeyPatch) -> None:
    written(monkeypatch, torch.ones(CLASSES, SIDE, SIDE))
    case = backdoored()
    turned = replace(case, truth=replace(case.truth, hoped=(case.test.y + 1) % CLASSES))
    found = TriggerInversion()(turned)
    assert any("more than one class" in note for note in found.notes)
    assert not any(place.subject == "target" for place in [*found.each, *found.once])
    still = replace(case, truth=replace(case.truth, stamped=case.test.x))
    found = TriggerInversion()(still)
    assert any("changes no victim's image" in note for note in found.notes) and not found.each


def test_so_many_held_out_images_are_looked_at_and_none_is_no_scan(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []
    whole = Inverted(torch.ones(2, 1, 1, 1), torch.ones(2, 1, 1, 1), torch.ones(2))

    def invert(self: NeuralCleanse, evidence: Any) -> Inverted:
        seen.append(evidence)
        return whole

    case = backdoored(known=False)
    none = TriggerInversion()(replace(case, val=None))
    assert any("held-out images" in note for note in none.notes) and not none.once
    monkeypatch.setattr(NeuralCleanse, "invert", invert)
    TriggerInversion(held=5)(case)
    assert len(seen[0].val.y) == 5 and torch.equal(seen[0].val.x, images().x[:5])


def test_a_trigger_that_covers_the_image_is_cut_to_what_it_changes_most() -> None:
    change = torch.arange(20).view(1, 4, 5)
    rows = torch.tensor([True])
    region, share, cut = changed_region(change, rows, widest=0.95, strongest=0.1)
    assert share == pytest.approx(19 / 20) and cut == 0 and region.sum() == 19
    region, share, cut = changed_region(change, rows, widest=0.9, strongest=0.1)
    assert cut == 2 and region.nonzero()[:, 1:].tolist() == [[3, 3], [3, 4]]
