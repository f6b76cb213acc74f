"""Neural Cleanse, mitigation: find the trigger of a class, and fine-tune on clean images that carry it.

Wang et al., "Neural Cleanse: Identifying and Mitigating Backdoor Attacks in Neural Networks", IEEE S&P 2019.
A fifth of the images is stamped with the reversed trigger and keeps its true label. Only held-out
images are used, as in the benchmarks; which of them are stamped is drawn anew in every batch. Mask and pattern stay
floats; a benchmark stores them as 8-bit pictures, stretched to their own range, before it uses them.
"""

from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from deconfound.defenses.workbench import Adaptive, Defended, Workbench
from deconfound.detectors.evidence import Evidence
from deconfound.detectors.inversion import Inverted, stamp
from deconfound.detectors.neural_cleanse import NeuralCleanse as Scan
from deconfound.errors import UserError
from deconfound.fields import Fraction01, hyperparameters


@hyperparameters
class NeuralCleanse:
    """scan: how triggers are sought and classes accused. share: of the images of a batch that are stamped with the
    trigger of an accused class, drawn among these; at least one image.

    The fine-tuning is the recipe's, on the held-out images: name one with a low learning rate. If no class is
    accused, the network comes back as it is.
    """

    adaptive: ClassVar[Adaptive] = Adaptive(
        "an all-to-all backdoor leaves no class with a smaller patch than the others; cover images (stamped, with their"
        " own labels) make the smallest patch that works larger",
        poisons=("badnets",),
    )
    needs: ClassVar[tuple[str, ...]] = ("starts_from",)

    scan: Scan = Scan()
    share: Annotated[Fraction01, Field(gt=0)] = 0.2

    def __call__(self, bench: Workbench) -> Defended:
        """Scan, then unlearn. parts: masks, patterns and anomaly indices of all classes."""
        if bench.start is None:
            raise UserError(
                "neural_cleanse: expected a trained network to scan (starts_from), got a fresh start"
            )
        model = bench.start.eval()
        found = self.scan.invert(Evidence(model, bench.data, bench.val, bench.rng))
        verdict = self.scan.judge(found)
        accused = verdict.flags.nonzero().flatten()
        notes: dict[str, float | str] = {
            "accused": " ".join(map(str, accused.tolist())) or "none",
            "unlearnt": float(len(accused) > 0),
            "anomaly_max": float(verdict.anomaly.max()),
            "mask_l1_min": float(found.norms.min()),
            "mask_l1_median": float(found.norms.quantile(0.5)),
        }
        if len(accused):
            bench.fit(model, Unlearning(found, accused, self.share), data=bench.val)
        parts = {"mask": found.mask, "pattern": found.pattern, "anomaly": verdict.anomaly}
        return Defended(model, notes=notes, parts=parts)


class Unlearning:
    """Cross-entropy against the true labels, of batches that partly carry the triggers of the accused classes
    (n,)."""

    def __init__(self, found: Inverted, accused: Tensor, share: float) -> None:
        self.mask, self.pattern, self.share = found.mask[accused], found.pattern[accused], share

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, *, rng: Generator) -> Tensor:
        """Mean over the batch, nats."""
        return F.cross_entropy(model(self.stamped(x, rng=rng)), y)

    def stamped(self, x: Tensor, *, rng: Generator) -> Tensor:
        """The batch with triggers on round(share * N) images, at least one; a new tensor."""
        chosen = torch.randperm(len(x), generator=rng)[: max(1, round(self.share * len(x)))]
        which = torch.randint(len(self.mask), (len(chosen),), generator=rng)
        stamped = x.clone()
        stamped[chosen.to(x.device)] = stamp(
            x[chosen.to(x.device)], self.mask[which].to(x), self.pattern[which].to(x)
        )
        return stamped
