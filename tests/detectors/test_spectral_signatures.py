"""Spectral signatures of rows whose singular vectors are known."""

from typing import Any

import pytest
import torch
from suspects import auroc, evidence, identity, noise, nothing, pictures

from deconfound.detectors.spectral_signatures import SpectralSignatures, spectral_scores
from deconfound.types import Images

CROSS = torch.tensor([[-1.0, 0.0], [1.0, 0.0], [0.0, 0.1], [0.0, -0.1]], dtype=torch.float64)


def test_centred_scores_are_squared_distances_along_the_longest_axis() -> None:
    moved = CROSS + torch.tensor([3.0, 5.0])  # v = (1, 0)
    assert spectral_scores(moved, centred=True).tolist() == pytest.approx([1, 1, 0, 0])


def test_scores_that_are_not_centred_see_the_position_as_well() -> None:
    moved = CROSS + torch.tensor([3.0, 5.0])
    assert spectral_scores(moved, centred=False).tolist() == pytest.approx([4, 16, 9, 9])


def test_when_half_of_a_class_is_poison_centred_scores_are_a_coin_toss() -> None:
    rows = torch.cat([noise(100, 8), noise(100, 8, seed=1, centre=200.0)])
    mask = torch.arange(200) >= 100
    given = evidence(identity(8, 1), pictures(rows, [0] * 200))
    centred, released = (SpectralSignatures(centred=c).examine(given).scores for c in (True, False))
    assert 0.3 < auroc(centred, mask) < 0.7 and auroc(released, mask) == 1.0


def test_a_few_poisoned_images_stick_out_of_their_class() -> None:
    rows = torch.cat([noise(90, 8), noise(10, 8, seed=1, centre=200.0), noise(100, 8, seed=2, centre=50.0)])
    mask = (torch.arange(200) >= 90) & (torch.arange(200) < 100)
    found = SpectralSignatures().examine(evidence(identity(8, 2), pictures(rows, [0] * 100 + [1] * 100)))
    assert auroc(found.scores, mask) == 1.0 and found.flags[mask].all()
    assert int(found.flags[:100].sum()) == int(found.flags[100:].sum()) == 15  # 1.5 * 0.1 of every class


def six_sigma() -> tuple[Images, torch.Tensor]:
    """Two classes; in the first 50 of 500 images are six standard deviations off, by two in each of nine pixels."""
    rows = torch.cat([noise(450, 9), noise(50, 9, seed=1, centre=120.0), noise(60, 9, seed=2)])
    mask = (torch.arange(560) >= 450) & (torch.arange(560) < 500)
    return pictures(rows, [0] * 500 + [1] * 60), mask


def test_a_tenth_six_standard_deviations_off_is_found() -> None:
    data, mask = six_sigma()
    found = SpectralSignatures(poisoned=0.1).examine(evidence(identity(9, 2), data))
    assert auroc(found.scores[:500], mask[:500]) > 0.99
    assert found.flags[mask].double().mean() > 0.95


@pytest.mark.parametrize("rule", ["fraction", "percentile"])
def test_scores_follow_the_images_in_another_order(rule: Any) -> None:
    data, _ = six_sigma()
    order = torch.randperm(560, generator=torch.Generator().manual_seed(3))
    found, moved = (
        SpectralSignatures(rule=rule).examine(evidence(identity(9, 2), images))
        for images in (data, Images(data.x[order], data.y[order]))
    )
    assert torch.allclose(moved.scores, found.scores[order], rtol=1e-4, atol=1e-6)
    assert torch.equal(moved.flags, found.flags[order])


@pytest.mark.parametrize("poisoned", [0.01, 0.1, 0.37, 0.6])
def test_never_more_than_the_share_times_its_excess_is_flagged(poisoned: float) -> None:
    for count in range(1, 30):
        rows = torch.cat(
            [noise(count, 3, seed=count), noise(count, 3, seed=9, spread=0)]
        )  # the latter all alike
        data = pictures(rows, [0] * count + [1] * count)
        flags = SpectralSignatures(poisoned=poisoned).examine(evidence(identity(3, 2), data)).flags
        for part in flags.split(count):  # type: ignore[no-untyped-call]
            assert int(part.sum()) <= 1.5 * poisoned * count


@pytest.mark.parametrize(
    ("settings", "flagged"),
    [
        ({"poisoned": 0.25, "excess": 1}, 2),
        ({"poisoned": 0.9, "excess": 5}, 8),
        ({"poisoned": 0.1, "excess": 1}, 0),
    ],
)
def test_the_share_that_is_thrown_out_is_counted_per_class(settings: dict[str, float], flagged: int) -> None:
    data = pictures(noise(8, 4), [0] * 8)
    assert int(SpectralSignatures(**settings).examine(evidence(identity(4, 2), data)).flags.sum()) == flagged


def test_the_percentile_leaves_those_at_it_in() -> None:
    data = pictures(
        torch.tensor([[0.0], [10.0], [20.0], [30.0], [140.0]]), [0] * 5
    )  # centred: 40, 30, 20, 10, 100
    detector = SpectralSignatures(rule="percentile", percentile=75)
    assert detector.examine(evidence(identity(1, 1), data)).flags.tolist() == [
        False,
        False,
        False,
        False,
        True,
    ]


def test_one_image_and_none_are_no_suspects() -> None:
    found = SpectralSignatures().examine(evidence(identity(4, 2), pictures(noise(1, 4), [1])))
    assert found.scores.tolist() == [0] and not found.flags.any()
    assert len(SpectralSignatures().examine(evidence(identity(4, 2), nothing(4))).scores) == 0
