"""Trigger inversion: which patch sends all images to a class, and is it the trigger that the attacker used?

Wang et al., "Neural Cleanse: Identifying and Mitigating Backdoor Attacks in Neural Networks", IEEE S&P 2019; the search
is that of `deconfound.detectors.inversion`, the verdict that of `deconfound.detectors.neural_cleanse`. It needs no
truth and is worth as much on a clean network, as the row that others are read against: among few classes one mask is
always small, so the ratio to the median stands beside the deviation, and a class convinces only where both are extreme.
Ours: the reversed mask is held against the pixels that the trigger changes, as many of its strongest as these are, as
in trigger mass, and so are the masks of the other classes, which should have nothing to do with it.
"""

import torch
from torch import Tensor

from deconfound.attributions.mass import overlap
from deconfound.detectors.evidence import Evidence, Scanned
from deconfound.detectors.inversion import Inverted
from deconfound.detectors.neural_cleanse import NeuralCleanse
from deconfound.fields import Count, Fraction01, OpenFraction, hyperparameters
from deconfound.interpretations.case import Case, Readings, selected
from deconfound.interpretations.layers import victims_of
from deconfound.interpretations.maps import drawable, noted_refusal
from deconfound.interpretations.regions import as_bytes, changed_region
from deconfound.types import Images

AT = "inverted"  # condition of every reading
TARGET = "target"


@hyperparameters
class TriggerInversion:
    """scan: how triggers are sought and judged. held: clean held-out images that they are sought on, at most. ratio: a
    class convinces if it is accused and its mask is smaller than this part of the median mask. examples: test images,
    at most, on which the true trigger is seen. widest, strongest: where a trigger changes more than the share `widest`
    of the pixels, the share `strongest` that it changes most stands for it.

    At `class_{k}` and, once more, at `target` for the class that the attacker wants, if it is one, all under
    `inverted`. Numbers of the run: `norm`, the sum of the mask, pixels; `ratio`, that over the median of all classes;
    `index`, how many deviations it lies below the median; `success`, the share of the held-out images that the patch
    sent to the class; `accused`, 1 where the scan says so; `convincing`, see above. Per test image that the trigger is
    to send to another class: `iou`, intersection over union of the pixels that the trigger changes and of as many of
    the strongest of the reversed mask.

    Pictures: `masks` (K, H, W) float32, `patterns` (K, C, H, W) uint8, `norms` (K,) float32, `accused` (K,) bool. Of
    the first image whose pixels the trigger changes: `trigger.images` (2, C, H, W) uint8, without it and with it,
    `trigger.changed` (H, W) bool and `trigger.target` (1,) int64, the class it is to be sent to.
    """

    scan: NeuralCleanse = NeuralCleanse()
    held: Count = 500
    ratio: OpenFraction = 0.25
    examples: Count = 100
    widest: Fraction01 = 0.25
    strongest: OpenFraction = 0.05

    def __call__(self, case: Case) -> Readings:
        """See the class."""
        case, found = case.first(self.examples), Readings()
        val = case.val if case.val is not None else Images(case.test.x[:0], case.test.y[:0])
        held = Images(val.x[: self.held], val.y[: self.held])
        with noted_refusal(found, "the reversed triggers"):
            inverted = self.scan.invert(
                Evidence(case.model, case.train, held, lambda purpose: case.rng(f"detector/{purpose}"))
            )
            self._read(found, case, inverted)
        return found

    def _read(self, found: Readings, case: Case, inverted: Inverted) -> None:
        judged = self.scan.judge(inverted)
        numbers = self._numbers(inverted, judged)
        images = self._on_the_trigger(found, case, inverted.mask)
        target = _target(case)
        for label in range(len(inverted.mask)):
            for subject in (f"class_{label}", *([TARGET] if label == target else [])):
                for metric, values in numbers.items():
                    found.note(subject, AT, metric, float(values[label]))
                if images is not None:
                    found.add(subject, AT, "iou", selected(images[1][label], images[0], len(images[0])))
        if images is not None and target is None:
            found.notes.append("The attacker wants more than one class: no class is the target.")
        found.pictures["masks"] = drawable(inverted.mask.squeeze(1))
        found.pictures["patterns"] = as_bytes(inverted.pattern)
        found.pictures["norms"] = drawable(inverted.norms)
        found.pictures["accused"] = judged.flags.cpu().numpy()

    def _numbers(self, inverted: Inverted, judged: Scanned) -> dict[str, Tensor]:
        """By metric, (K,)."""
        norms = inverted.norms.double()
        ratio = norms / norms.quantile(0.5)
        return {
            "norm": norms,
            "ratio": ratio,
            "index": judged.anomaly,
            "success": inverted.success,
            "accused": judged.flags.double(),
            "convincing": (judged.flags & (ratio < self.ratio)).double(),
        }

    def _on_the_trigger(self, found: Readings, case: Case, masks: Tensor) -> tuple[Tensor, Tensor] | None:
        """Rows (N,) bool: test images that the trigger changes and is to send elsewhere; and for masks (K, 1, H, W)
        their overlap with it, (K, n). None without a trigger.
        """
        rows = victims_of(case)
        if rows is None or case.truth.stamped is None or case.truth.hoped is None:
            found.notes.append("No poison in this run: the reversed masks are held against no trigger.")
            return None
        change = (case.truth.stamped.int() - case.test.x.int()).abs().sum(1).cpu()
        rows = rows & (change > 0).flatten(1).any(1)
        if not bool(rows.any()):
            found.notes.append("The trigger changes no victim's image, so that no mask is held against it.")
            return None
        region, share, cut = changed_region(change, rows, widest=self.widest, strongest=self.strongest)
        if cut:
            found.notes.append(
                f"The trigger changes {share:.0%} of the pixels: the {cut} that it changes most stand for it."
            )
        first = int(rows.nonzero()[0])
        pair = torch.stack([case.test.x[first].cpu(), case.truth.stamped[first].cpu()])
        found.pictures["trigger.images"] = pair.numpy()
        found.pictures["trigger.changed"] = region[first].numpy()
        found.pictures["trigger.target"] = case.truth.hoped[first : first + 1].cpu().numpy()
        count = int(rows.sum())
        return rows, torch.stack(
            [overlap(mask.expand(count, *mask.shape), region[rows]) for mask in masks.cpu()]
        )


def _target(case: Case) -> int | None:
    """The class that all victims are to be sent to; None if there are no victims, or several such classes."""
    rows = victims_of(case)
    if rows is None or case.truth.hoped is None or not bool(rows.any()):
        return None
    wanted = set(case.truth.hoped.cpu()[rows].tolist())
    return int(wanted.pop()) if len(wanted) == 1 else None
