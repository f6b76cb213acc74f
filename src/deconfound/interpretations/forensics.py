"""Poison forensics: what detectors of poisoned training images put at the head of their lists, scored with the truth.

Detectors and their papers: `deconfound.detectors` (spectral signatures: Tran et al., NeurIPS 2018, arXiv:1811.00636;
activation clustering: Chen et al., SafeAI 2019, arXiv:1811.03728; influence: Koh and Liang, ICML 2017,
arXiv:1703.04730, and others). Each is handed the network, the images that it was trained on and clean held-out ones,
with the draws that it has in the evaluation, so that both tell of one list; which images are poisoned is known to the
judge alone. Ours: images with equal scores count as if they stood in random order, since clustering gives thousands of
images one score; and a list is also read from its other end, since triggers are easy to learn, and what looks for hard
images puts them last.
"""

from collections.abc import Mapping
from typing import Annotated, Any

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import AfterValidator, Field
from torch import Tensor

from deconfound.detectors import DETECTORS
from deconfound.detectors.evidence import Evidence, ExampleDetector, Flagged
from deconfound.detectors.scoring import representations
from deconfound.fields import Natural, hyperparameters
from deconfound.interpretations.case import Case, Floats, Readings
from deconfound.interpretations.maps import checked_names, noted_refusal
from deconfound.measures import Bools, auroc, flag_measures, hits_among
from deconfound.models.classifier import eval_mode
from deconfound.registry import build
from deconfound.types import Images

WHERE = "train"  # condition of every reading
WIDER = 1.5  # times the poison: how far down the list the second number looks


def _look_at_examples(blocks: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    checked_names(blocks)
    for name, block in blocks.items():
        if not isinstance(build(DETECTORS, block, at=f"detectors.{name}"), ExampleDetector):
            raise ValueError(
                f"expected detectors of training examples, such as lowest_loss, got {block.get('kind')!r} in {name}"
            )
    return blocks


def usual_detectors() -> dict[str, dict[str, Any]]:
    """By features (with and without the mean), by clusters, by loss, by influence."""
    return {
        "spectral_signatures": {"kind": "spectral_signatures"},
        "spectral_uncentred": {"kind": "spectral_signatures", "centred": False},
        "activation_clustering": {"kind": "activation_clustering"},
        "lowest_loss": {"kind": "lowest_loss"},
        "influence": {"kind": "influence"},
    }


@hyperparameters
class PoisonForensics:
    """detectors: blocks of detectors of training examples, by name. shown: training images at the head of each list
    that pictures are kept of. components_of: images of one label in the scatter of features, at most, spread evenly
    over those there are.

    Numbers of the run, at detector and `train`, n being the number of poisoned images: `flagged`, the share of the
    training images that the detector would throw out; `auroc`; `precision_at_n`, the share of poison among the n most
    suspicious; `recall_at_1_5n`, the share of the poison among the 1.5 n most suspicious; `precision_from_below`, the
    share of poison among the n least suspicious; `upper_half`, the share of the poison in the more suspicious half of
    the list (1: it sits in the high tail, 0: in the low one); and where all poison has one label, `class_named`: 1 if
    that is the label of whose images the largest share is among the n most suspicious. Without poison only `flagged`,
    all of it false.

    Pictures: `scores.{detector}` (M,) float32 of the training images, and `poisoned` (M,) bool, all False without
    poison. `top.{detector}.images` (k, C, H, W) uint8, the most suspicious first (of equals the first in the set),
    with `.places` and `.labels` (k,) int64 and `.poisoned` (k,) bool. `components` (m, 2) float32: the features (inputs
    of the head) of the training images with one label on their first two principal components, each turned so that
    its largest weight is positive; the label is the one that most of the poison bears, without poison the most
    frequent one. With `components_poisoned` (m,) bool, `components_label` (1,) int64 and `components_share` (2,)
    float32, of the variance.
    """

    detectors: Annotated[
        dict[str, dict[str, Any]], Field(min_length=1), AfterValidator(_look_at_examples)
    ] = Field(default_factory=usual_detectors)
    shown: Natural = 20
    components_of: Natural = 1000

    def __call__(self, case: Case) -> Readings:
        """See the class."""
        found, count = Readings(), len(case.train.y)
        poisoned = np.zeros(count, bool)
        if case.truth.poisoned is not None:
            poisoned = case.truth.poisoned.cpu().numpy().astype(bool)
        if not poisoned.any() or poisoned.all():
            found.notes.append(
                "No training image is poisoned, or all are: what detectors flag is told, and no list is scored."
            )
        found.pictures["poisoned"] = poisoned
        val = case.val if case.val is not None else Images(case.train.x[:0], case.train.y[:0])
        evidence = Evidence(case.model, case.train, val, lambda purpose: case.rng(f"detector/{purpose}"))
        with eval_mode(case.model):
            for name, block in self.detectors.items():
                with noted_refusal(found, name):
                    self._read(
                        found, case, name, _examined(build(DETECTORS, block, at=name), evidence), poisoned
                    )
            self._scatter(found, case, poisoned)
        return found

    def _read(self, found: Readings, case: Case, name: str, list_: Flagged, poisoned: Bools) -> None:
        scores, labels = list_.scores.double().cpu().numpy(), case.train.y.cpu().numpy()
        if not np.isfinite(scores).all():
            found.notes.append(f"There are no readings of {name}: some of its scores are not finite.")
            return
        numbers = {"flagged": flag_measures(list_.flags.cpu().numpy(), poisoned)["share"]}
        if poisoned.any() and not poisoned.all():
            numbers |= of_list(scores, poisoned, labels)
        for metric, value in numbers.items():
            found.note(name, WHERE, metric, value)
        found.pictures[f"scores.{name}"] = scores.astype(np.float32)
        places = np.argsort(-scores, kind="stable")[: self.shown]
        if len(places):
            found.pictures[f"top.{name}.images"] = case.train.x.cpu().numpy()[places]
            found.pictures[f"top.{name}.places"] = places
            found.pictures[f"top.{name}.labels"] = labels[places]
            found.pictures[f"top.{name}.poisoned"] = poisoned[places]

    def _scatter(self, found: Readings, case: Case, poisoned: Bools) -> None:
        labels = case.train.y.cpu().numpy()
        label = int(np.bincount(labels[poisoned] if poisoned.any() else labels).argmax())
        members = np.flatnonzero(labels == label)
        if len(members) > self.components_of:
            members = members[np.linspace(0, len(members) - 1, self.components_of).round().astype(int)]
        if len(members) < 2 or case.model.head.in_features < 2:
            found.notes.append(
                "Features are not drawn: there are fewer than two images, or than two features."
            )
            return
        points, shares = principal(representations(case.model, case.train.x[torch.from_numpy(members)]))
        found.pictures["components"] = points.numpy().astype(np.float32)
        found.pictures["components_share"] = shares.numpy().astype(np.float32)
        found.pictures["components_poisoned"] = poisoned[members]
        found.pictures["components_label"] = np.array([label])


def _examined(detector: Any, evidence: Evidence) -> Flagged:
    found: Flagged = detector.examine(evidence)
    return found


def of_list(scores: Floats, poisoned: Bools, labels: NDArray[np.int64]) -> Mapping[str, float]:
    """How a list by scores (M,), the largest first, finds the poisoned (M,), of which there are some and not all."""
    count = int(poisoned.sum())
    found = {
        "auroc": auroc(scores, poisoned),
        "precision_at_n": hits_among(scores, poisoned, count) / count,
        "recall_at_1_5n": hits_among(scores, poisoned, int(WIDER * count)) / count,
        "precision_from_below": hits_among(-scores, poisoned, count) / count,
        "upper_half": hits_among(scores, poisoned, len(scores) / 2) / count,
    }
    target = int(labels[poisoned][0])
    if (labels[poisoned] == target).all():
        shares = {
            int(label): hits_among(scores, labels == label, count) / int((labels == label).sum())
            for label in np.unique(labels)
        }
        best = max(shares.values())
        found["class_named"] = float([label for label, share in shares.items() if share == best] == [target])
    return found


def principal(rows: Tensor) -> tuple[Tensor, Tensor]:
    """(n, 2): rows (n, D) float64 on their first two principal components; (2,): their shares of the variance, 0 where
    nothing varies. n and D at least 2.
    """
    deviations = rows - rows.mean(0)
    _, sizes, directions = torch.linalg.svd(deviations, full_matrices=False)
    first = directions[:2]
    largest = first.gather(1, first.abs().argmax(1, keepdim=True))
    total = sizes.square().sum().clamp_min(torch.finfo(rows.dtype).tiny)
    return deviations @ (first * largest.sign()).T, sizes[:2].square() / total
