"""Stimulation of networks in which one unit is planted."""

import pytest
import torch
from suspects import CLASSES, TARGET, dark, evidence, linear, shortcut
from torch import nn

from deconfound.detectors.evidence import ModelScan
from deconfound.detectors.stimulation import Stimulation, lead, shares
from deconfound.errors import UserError
from deconfound.models.classifier import Classifier
from deconfound.types import Images

CLEAN = Images((255 * dark()).to(torch.uint8), torch.zeros(24, dtype=torch.int64))
NOBODY = Images(CLEAN.x[:0], CLEAN.y[:0])


def test_the_lead_is_that_over_the_next_class_for_the_least_impressed_picture() -> None:
    rise = torch.tensor([[[5.0, 1.0, 2.0], [4.0, 3.0, 0.0]]])  # one unit, two pictures, three classes
    assert lead(rise).tolist() == [[1.0, -4.0, -4.0]]
    assert lead(torch.zeros(1, 2, 3)).tolist() == [[0, 0, 0]]
    assert shares(rise).tolist() == [[1, 0, 0]]


def test_leads_of_a_linear_head_are_differences_of_weights_times_the_change() -> None:
    model = linear([[1.0, 0.0], [0.0, 2.0], [0.0, 0.5]], [0.0, 0.0, 0.0])
    pixels = torch.tensor([[102.0, 51.0], [51.0, 51.0]])  # 0.4 and 0.2; largest 0.4 and 0.2
    val = Images(pixels.to(torch.uint8)[:, None, None], torch.zeros(2, dtype=torch.int64))
    found = Stimulation(multiples=(5.0,)).stimulate(evidence(model, val, val))
    (leads, share) = found["body"]
    # Unit 0 at 2: rises 1.6 and 1.8 of class 0. Unit 1 at 1: a rise of 0.8 times (0, 2, 0.5).
    assert leads[0].tolist() == pytest.approx([1.6, -1.8, -1.8], abs=1e-5)
    assert leads[1].tolist() == pytest.approx([-1.6, 1.2, -1.2], abs=1e-5)
    assert share.tolist() == [[1, 0, 0], [0, 1, 0]]


def test_the_best_multiple_counts() -> None:
    one, many = (
        Stimulation(multiples=values).stimulate(evidence(shortcut(), CLEAN, CLEAN))["body"][0]
        for values in ((2.0,), (1.0, 2.0))
    )
    assert (many >= one - 1e-5).all()


def planted() -> Classifier:
    """Four channels copy the picture, more or less; only class 2 reads the last one, and thirty times as loud."""
    conv = nn.Conv2d(1, 4, 1)
    conv.weight.data, conv.bias.data = torch.tensor([1.0, 0.5, 0.2, 1.0]).view(4, 1, 1, 1), torch.zeros(4)
    head = nn.Linear(4, CLASSES)
    head.weight.data = 0.1 * torch.randn(CLASSES, 4, generator=torch.Generator().manual_seed(0))
    head.weight.data[:, 3] = 0
    head.weight.data[TARGET, 3] = 30
    body = nn.Sequential(
        conv, nn.ReLU(), nn.Conv2d(4, 4, 1, groups=4), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    )
    body[2].weight.data, body[2].bias.data = torch.ones(4, 1, 1, 1), torch.zeros(4)
    return Classifier(body, head, channels=1).eval()


@pytest.mark.parametrize("layers", [1, 2])
def test_a_planted_unit_accuses_its_class_and_no_other(layers: int) -> None:
    scan = Stimulation(layers=layers)
    given = evidence(planted(), NOBODY, CLEAN)
    verdict = scan.scan(given)
    assert verdict.flags.tolist() == [label == TARGET for label in range(CLASSES)]
    assert isinstance(scan, ModelScan) and verdict.anomaly.argmax() == TARGET
    for leads, share in scan.stimulate(given).values():
        assert leads.shape == (4, CLASSES) and leads[:, TARGET].argmax() == 3 and share[3, TARGET] == 1


def test_a_class_that_no_unit_wins_the_pictures_for_is_not_accused() -> None:
    model = planted()
    model.head.bias.data[0] = 1e4
    assert not Stimulation().scan(evidence(model, NOBODY, CLEAN)).flags.any()


def test_groups_of_units_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    given = evidence(planted(), NOBODY, CLEAN)
    every = Stimulation().stimulate(given)
    monkeypatch.setattr("deconfound.detectors.stimulation.PASSES", 50)
    for name, (leads, _) in Stimulation().stimulate(given).items():
        assert torch.allclose(leads, every[name][0], atol=1e-5)


def test_a_scan_asks_for_held_out_images() -> None:
    with pytest.raises(UserError, match="held-out"):
        Stimulation().scan(evidence(shortcut(), CLEAN, NOBODY))
