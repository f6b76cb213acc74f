"""Per-image scores that attacks climb, from logits (N, K) and labels (N,); larger is worse for the model."""

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

ScoreName = Literal["cross_entropy", "margin"]


def cross_entropy(logits: Tensor, y: Tensor) -> Tensor:
    """Cross-entropy per image, (N,) nats."""
    return F.cross_entropy(logits, y, reduction="none")


def margin(logits: Tensor, y: Tensor) -> Tensor:
    """Best wrong logit minus true logit, (N,); positive exactly when the model errs.

    The score f of Carlini & Wagner, "Towards Evaluating the Robustness of Neural Networks", S&P 2017, without
    its clamp.
    """
    true = logits.gather(1, y[:, None]).squeeze(1)
    others = logits.scatter(1, y[:, None], -torch.inf)
    return others.amax(1) - true


SCORES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"cross_entropy": cross_entropy, "margin": margin}
