"""Neural Cleanse: the anomaly index by hand, and a planted shortcut."""

import pytest
import torch
from suspects import CLASSES, SHORTCUT, SIDE, TARGET, dark, evidence, shortcut

from deconfound.detectors.evidence import ModelScan
from deconfound.detectors.inversion import Inversion, Inverted
from deconfound.detectors.neural_cleanse import NeuralCleanse, anomaly_index
from deconfound.errors import UserError
from deconfound.types import Images

QUICK = Inversion(passes=40, batch_size=8, patience=2)
CLEAN = Images((255 * dark()).to(torch.uint8), torch.zeros(24, dtype=torch.int64))
NOBODY = Images(CLEAN.x[:0], CLEAN.y[:0])


def test_the_anomaly_index_of_an_odd_number_of_classes() -> None:
    index = anomaly_index(torch.tensor([10.0, 12.0, 11.0, 2.0, 9.0]))  # median 10, deviations 0 2 1 8 1
    assert (index * 1.4826).tolist() == pytest.approx([0, -2, -1, 8, 1])


def test_the_anomaly_index_of_an_even_number_of_classes_takes_means_of_the_middle_two() -> None:
    index = anomaly_index(torch.tensor([1.0, 2.0, 3.0, 4.0]))  # median 2.5, deviations 1.5 0.5 0.5 1.5
    assert (index * 1.4826).tolist() == pytest.approx([1.5, 0.5, -0.5, -1.5])


def test_masks_of_one_size_are_no_anomaly() -> None:
    assert anomaly_index(torch.full((6,), 3.0)).tolist() == [0] * 6


def test_only_small_masks_that_work_are_accused() -> None:
    sizes = torch.tensor([10.0, 12.0, 11.0, 2.0, 9.0, 2.0, 30.0, 11.0])
    success = torch.tensor([1.0, 1.0, 1.0, 1.0, 1.0, 0.9, 1.0, 1.0])
    found = Inverted(sizes.view(-1, 1, 1, 1), torch.zeros(8, 1, 1, 1), success)
    verdict = NeuralCleanse().judge(found)
    assert verdict.flags.nonzero().flatten().tolist() == [3]
    assert verdict.anomaly[5] == verdict.anomaly[3] > 2 and verdict.anomaly[6] < -2


def test_a_class_with_a_shortcut_is_accused_and_no_other() -> None:
    scan = NeuralCleanse(inversion=QUICK)
    verdict = scan.scan(evidence(shortcut(), NOBODY, CLEAN))
    assert verdict.flags.tolist() == [label == TARGET for label in range(CLASSES)]
    assert isinstance(scan, ModelScan)


def test_the_mask_of_a_rule_of_one_pixel_is_that_pixel_and_its_class_alone_is_accused() -> None:
    model = shortcut()
    model.head.bias.data[TARGET] = -40.0  # its pixel has to be bright: 80 x - 40 beats what the others reach
    given, scan = evidence(model, NOBODY, CLEAN), NeuralCleanse(inversion=QUICK)
    found = scan.invert(given)
    seen, rule = found.mask[TARGET].flatten() > 0.5, torch.arange(SIDE * SIDE) == SHORTCUT
    assert torch.equal(seen, rule)  # intersection over union of 1
    assert found.norms[TARGET] < 2
    assert found.mask.min() >= 0 and found.mask.max() <= 1
    assert (
        found.pattern.min() >= 0 and found.pattern.max() <= 1 and found.pattern[TARGET].flatten()[rule] > 0.9
    )
    assert scan.judge(found).flags.nonzero().flatten().tolist() == [TARGET]


def test_a_scan_asks_for_held_out_images() -> None:
    with pytest.raises(UserError, match="held-out"):
        NeuralCleanse().scan(evidence(shortcut(), CLEAN, NOBODY))
