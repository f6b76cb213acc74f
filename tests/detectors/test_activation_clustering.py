"""Activation clustering of planted heaps."""

from typing import Any

import pytest
import torch
from sklearn import cluster
from suspects import auroc, evidence, identity, noise, nothing, pictures

from deconfound.detectors.activation_clustering import ActivationClustering, halves
from deconfound.detectors.evidence import Evidence, ExampleDetector
from deconfound.types import Images

WIDTH = 16


def heaps(poisoned: int = 20, clean: int = 30) -> tuple[Images, torch.Tensor]:
    """Class 0: clean rows and a second heap of `poisoned` ones; class 1: one heap. And who is poisoned."""
    rows = torch.cat(
        [
            noise(clean, WIDTH),
            noise(poisoned, WIDTH, seed=1, centre=180.0),
            noise(50, WIDTH, seed=2, centre=60.0),
        ]
    )
    mask = torch.zeros(len(rows), dtype=torch.bool)
    mask[clean : clean + poisoned] = True
    return pictures(rows, [0] * (clean + poisoned) + [1] * 50), mask


def planted(poisoned: int = 20, clean: int = 30) -> tuple[Evidence, torch.Tensor]:
    data, mask = heaps(poisoned, clean)
    val = pictures(
        torch.cat([noise(9, WIDTH, seed=5), noise(9, WIDTH, seed=6, centre=60.0)]), [0] * 9 + [1] * 9
    )
    return evidence(identity(WIDTH, 2), data, val), mask


def test_a_planted_heap_is_flagged_and_nothing_else() -> None:
    given, mask = planted()
    found = ActivationClustering().examine(given)
    assert torch.equal(found.flags, mask) and auroc(found.scores, mask) == 1.0
    assert isinstance(ActivationClustering(), ExampleDetector)


def test_a_tenth_in_a_heap_of_its_own_is_flagged_to_the_last() -> None:
    given, mask = planted(10, 90)
    flags = ActivationClustering().examine(given).flags
    assert 2 * int((flags & mask).sum()) / int(flags.sum() + mask.sum()) == 1  # F1


@pytest.mark.parametrize("suspect", ["smaller", "unfamiliar"])
@pytest.mark.parametrize("poisoned", [10, 30])
def test_it_does_not_matter_which_cluster_is_called_the_first(
    poisoned: int, suspect: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Thirty and thirty are a tie: no cluster is the smaller one."""

    class Swapped(cluster.KMeans):  # type: ignore[misc]
        def fit(self, points: Any) -> Any:
            super().fit(points)
            self.labels_ = 1 - self.labels_
            return self

        def predict(self, points: Any) -> Any:
            return 1 - super().predict(points)

    given, _ = planted(poisoned)
    found = ActivationClustering(suspect=suspect).examine(given)
    monkeypatch.setattr(cluster, "KMeans", Swapped)
    swapped = ActivationClustering(suspect=suspect).examine(given)
    assert torch.equal(swapped.flags, found.flags) and torch.equal(swapped.scores, found.scores)
    assert found.flags.any()


def test_the_score_is_the_silhouette_of_the_class_with_the_sign_of_the_cluster() -> None:
    given, mask = planted()
    scores = ActivationClustering().examine(given).scores
    heap, rest = scores[mask].unique(), scores[:30].unique()
    assert len(heap) == len(rest) == 1 and heap == -rest and heap > 0.8
    assert scores[50:].abs().max() < 0.15  # a heap of noise has no halves to speak of


def test_the_rule_of_the_smaller_cluster_accuses_every_class() -> None:
    given, mask = planted()
    flags = ActivationClustering(rule="smaller").examine(given).flags
    assert torch.equal(flags[:50], mask[:50]) and 0 < int(flags[50:].sum()) <= 25


@pytest.mark.parametrize(("poisoned", "accused"), [(10, True), (20, False)])
def test_the_rule_of_the_relative_size_looks_at_the_share_of_the_class(poisoned: int, accused: bool) -> None:
    given, mask = planted(poisoned)  # shares 0.25 and 0.4 of class 0, against 0.35
    flags = ActivationClustering(rule="relative_size").examine(given).flags
    assert torch.equal(flags[: 30 + poisoned], mask[: 30 + poisoned] & accused)


def test_poison_that_is_the_larger_heap_is_found_with_the_help_of_held_out_images_only() -> None:
    given, mask = planted(poisoned=40)
    smaller, unfamiliar = (
        ActivationClustering(suspect=suspect).examine(given) for suspect in ("smaller", "unfamiliar")
    )
    assert torch.equal(smaller.flags[:70], ~mask[:70])
    assert torch.equal(unfamiliar.flags, mask) and auroc(unfamiliar.scores, mask) == 1.0


def test_scores_follow_the_images_in_another_order() -> None:
    given, _ = planted()
    order = torch.randperm(len(given.data.y), generator=torch.Generator().manual_seed(3))
    other = evidence(given.model, Images(given.data.x[order], given.data.y[order]), given.val)
    found, moved = (ActivationClustering().examine(one) for one in (given, other))
    assert torch.equal(moved.flags, found.flags[order])
    assert torch.allclose(moved.scores[:30], found.scores[order][:30], atol=0.05)
    again = ActivationClustering().examine(given)
    assert torch.equal(again.scores, found.scores)


def test_classes_that_cannot_be_cut_are_not_suspect() -> None:
    rows = torch.cat([noise(3, WIDTH), torch.full((9, WIDTH), 7.0)])
    data = pictures(rows, [0] * 3 + [1] * 9)
    for rule in ("smaller", "silhouette"):
        found = ActivationClustering(rule=rule).examine(evidence(identity(WIDTH, 3), data))
        assert not found.flags.any() and not found.scores.any()
    assert len(ActivationClustering().examine(evidence(identity(WIDTH, 2), nothing(WIDTH))).scores) == 0


def test_two_distinct_points_are_cut_exactly() -> None:
    points = torch.tensor([[0.0, 1.0]] * 3 + [[5.0, 5.0]] * 2).double().numpy()
    found = halves(points, points[:1], components=10, starts=2, state=0)
    assert found is not None and found.silhouette == 1.0
    assert set(found.cluster[:3]) != set(found.cluster[3:]) and found.other[0] == found.cluster[0]
