"""Spectral signatures of rows whose singular vectors are known."""

import pytest
import torch
from suspects import auroc, evidence, identity, noise, nothing, pictures

from deconfound.detectors.spectral_signatures import SpectralSignatures, spectral_scores

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
