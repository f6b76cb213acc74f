"""What detectors share: representations of images, and flags from scores."""

from collections.abc import Callable

import torch
from torch import Tensor

from deconfound.detectors.evidence import Evidence, Flagged
from deconfound.errors import UserError
from deconfound.models.classifier import WIDE, Classifier, eval_mode, to_unit
from deconfound.models.speed import folded
from deconfound.types import Images

BATCH = 512  # images at a time


@torch.no_grad()
def representations(model: Classifier, x: Tensor) -> Tensor:
    """Inputs of the last linear layer, (N, D) float64 on the CPU, of images (N, C, H, W), in their order."""
    device = next(model.parameters()).device
    with eval_mode(model):
        parts = [model.features(to_unit(part.to(device))).double().cpu() for part in x.split(BATCH)]  # type: ignore[no-untyped-call]
    return torch.cat(parts) if len(x) else torch.zeros(0, model.head.in_features, dtype=torch.float64)


def cheaper(model: Classifier, probe: Tensor) -> Callable[[Tensor], Tensor]:
    """The logits of a model in evaluation mode, for those who ask thousands of times; probe (n, C, H, W): a few
    images in [0, 1] on its device.
    """
    light = folded(model, probe)
    if light is model or probe.device.type != "cpu" or min(probe.shape[2:]) < WIDE:
        return light
    light = light.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return lambda x: light(x.contiguous(memory_format=torch.channels_last))


def held_out(evidence: Evidence) -> Images:
    """The validation images. Raises UserError where there are none."""
    if not len(evidence.val.y):
        raise UserError("detector: expected held-out images (datasets.*.val above 0), got none")
    return evidence.val


def largest(scores: Tensor, count: int) -> Tensor:
    """(N,) bool: the `count` largest of scores (N,), the first of equals first."""
    flags = torch.zeros(len(scores), dtype=torch.bool)
    flags[scores.argsort(descending=True, stable=True)[:count]] = True
    return flags


def beyond_val(score: Callable[[Tensor], Tensor], evidence: Evidence, false_alarms: float) -> Flagged:
    """Training images that score above the quantile 1 - false_alarms of the held-out images."""
    clean = score(held_out(evidence).x)
    scores = score(evidence.data.x)
    return Flagged(scores, scores > clean.quantile(1 - false_alarms))
