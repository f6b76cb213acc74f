"""STRIP: a triggered image keeps its prediction whatever picture is laid over it.

Gao et al., "STRIP: A Defence Against Trojan Attacks on Deep Neural Networks", ACSAC 2019, arXiv:1902.06531. The
score is minus the mean Shannon entropy, in bits, of the predictions under overlays. Softmax probabilities: a known
port takes the sigmoid of the logits. The same overlays for every image, so that images do not influence each other.
"""

import math
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from deconfound.detectors.evidence import Evidence, Flagged
from deconfound.detectors.scoring import beyond_val, cheaper, held_out
from deconfound.fields import Count, OpenFraction, hyperparameters
from deconfound.models.classifier import eval_mode, to_unit

BATCH = 128  # images at a time


@hyperparameters
class STRIP:
    """overlays: held-out images that are laid over each image, all of them where there are fewer. blend: `add` the
    two and clip at 1, or `average` them.

    false_alarms: rate on the held-out images at which a training image is flagged. Every one of these images may
    also be an overlay, of itself among others.
    """

    overlays: Count = 64
    blend: Literal["add", "average"] = "add"
    false_alarms: OpenFraction = 0.05

    def suspicion(self, evidence: Evidence) -> Callable[[Tensor], Tensor]:
        """Minus the mean entropy, from -log2 K to 0 bits."""
        held = held_out(evidence).x
        device = next(evidence.model.parameters()).device
        order = torch.randperm(len(held), generator=evidence.rng("strip"))[: self.overlays]
        overlays = to_unit(held[order.to(held.device)].to(device))
        logits = cheaper(evidence.model, overlays[:4])

        def score(x: Tensor) -> Tensor:
            with eval_mode(evidence.model), torch.no_grad():
                parts = [self._entropy(logits, to_unit(part.to(device)), overlays) for part in x.split(BATCH)]  # type: ignore[no-untyped-call]
            return -torch.cat(parts).cpu()

        return score

    def examine(self, evidence: Evidence) -> Flagged:
        """The same scores of the training images; flags by the quantile of the held-out ones."""
        return beyond_val(self.suspicion(evidence), evidence, self.false_alarms)

    def _entropy(self, logits: Callable[[Tensor], Tensor], x: Tensor, overlays: Tensor) -> Tensor:
        """Mean over the overlays, (n,) bits."""
        total = x.new_zeros(len(x))
        for overlay in overlays if len(x) else ():
            total += entropy(logits((x + overlay).clamp_max(1) if self.blend == "add" else (x + overlay) / 2))
        return total / len(overlays)


def entropy(logits: Tensor) -> Tensor:
    """Shannon entropy (n,) of softmax probabilities, in bits, from logits (n, K)."""
    log_p = logits.log_softmax(1)
    return -(log_p.exp() * log_p).sum(1) / math.log(2)
