"""Filtered: throw out what a detector suspects, and train a fresh network on the rest.

The common way to use a detector of poisoned training images as a defense: Tran, Li and Madry, "Spectral Signatures
in Backdoor Attacks", NeurIPS 2018, arXiv:1811.00636; Chen et al., "Detecting Backdoor Attacks on Deep
Neural Networks by Activation Clustering", 2019, arXiv:1811.03728.
"""

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from pydantic import field_validator
from torch import Tensor

from deconfound.defenses.standard import cross_entropy
from deconfound.defenses.workbench import Adaptive, Defended, Workbench
from deconfound.detectors import DETECTORS
from deconfound.detectors.evidence import Evidence, ExampleDetector
from deconfound.errors import UserError
from deconfound.fields import hyperparameters
from deconfound.registry import build
from deconfound.types import Images


@hyperparameters
class Filtered:
    """detector: the block of a detector of training images ({kind: activation_clustering, ...}). It looks at the
    network of the run that the defense starts from.

    The fresh network takes as many epochs as the recipe says, which are fewer steps the more was thrown out. A
    class that would lose all its images keeps them; the notes count such classes.
    """

    adaptive: ClassVar[Adaptive] = Adaptive(
        "cover images (stamped, with their own labels) draw the representations of poison and of clean images together,"
        " and what the detector misses is learnt as before",
        poisons=("badnets",),
    )
    needs: ClassVar[tuple[str, ...]] = ("starts_from",)

    detector: dict[str, Any]

    @field_validator("detector")
    @classmethod
    def _examines(cls, block: Mapping[str, Any]) -> Mapping[str, Any]:
        if not isinstance(_built(block), ExampleDetector):
            raise ValueError(
                f"expected a detector of training images, such as activation_clustering, got {block.get('kind')!r}"
            )
        return block

    def __call__(self, bench: Workbench) -> Defended:
        """Suspect, remove, train. trace: `flagged` and `suspicion` (N,) are the detector's own."""
        if bench.start is None:
            raise UserError(
                "filtered: expected a trained network to look at (starts_from), got a fresh start"
            )
        evidence = Evidence(bench.start.eval(), bench.data, bench.val, bench.rng)
        found = _built(self.detector).examine(evidence)
        flags, y = found.flags.cpu(), bench.data.y.cpu()
        keep, spared = kept(flags, y, evidence.classes)
        model = bench.network("model")
        bench.fit(model, cross_entropy, data=Images(bench.data.x[keep], bench.data.y[keep]))
        lost = [int((~keep & (y == label)).sum()) for label in range(evidence.classes)]
        notes = {"flagged": float(flags.sum()), "removed": float(sum(lost)), "classes_spared": float(spared)}
        notes["removed_per_class_max"] = float(max(lost))
        trace = {"flagged": flags.numpy(), "suspicion": found.scores.cpu().float().numpy()}
        return Defended(model, trace=trace, notes=notes)


def kept(flags: Tensor, y: Tensor, classes: int) -> tuple[Tensor, int]:
    """(N,) bool: what stays of a training set with labels y (N,), and how many classes were spared: every image not
    flagged, and every image of a class that would lose all of them.
    """
    keep, spared = ~flags, 0
    for label in range(classes):
        own = y == label
        if bool(own.any()) and not bool(torch.any(keep & own)):
            keep, spared = keep | own, spared + 1
    return keep, spared


def _built(block: Mapping[str, Any]) -> Any:
    return build(DETECTORS, block, at="detector")
