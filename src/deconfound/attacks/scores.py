"""Per-image scores that attacks climb, from logits (N, K) and labels (N,); larger is worse for the model."""

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

ScoreName = Literal["cross_entropy", "margin", "dlr", "kl"]
TINY = 1e-12


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


def dlr(logits: Tensor, y: Tensor) -> Tensor:
    """Difference of logits ratio, (N,): the margin over the distance of the largest to the third largest logit.

    Croce & Hein, "Reliable Evaluation of Adversarial Robustness with an Ensemble of Diverse Parameter-free Attacks",
    ICML 2020, equation 6. Invariant to shift and scale of the logits. With two classes there is no third logit, and
    no scale that the margin itself would not cancel: there it is the margin.
    """
    if logits.shape[1] < 3:
        return margin(logits, y)
    top = logits.topk(3, dim=1).values
    return margin(logits, y) / (top[:, 0] - top[:, 2] + TINY)


def targeted_dlr(logits: Tensor, y: Tensor, target: Tensor) -> Tensor:
    """Logit of the target (N,) minus true logit over the distance of the largest to the mean of third and fourth, (N,).

    Equation 7 of the same paper. With fewer than four classes there is no fourth logit, and the difference stands
    alone: over what is left of the scale an ascent would rather raise the third class than the target.
    """
    gap = logits.gather(1, target[:, None]).squeeze(1) - logits.gather(1, y[:, None]).squeeze(1)
    if logits.shape[1] < 4:
        return gap
    top = logits.topk(4, dim=1).values
    return gap / (top[:, 0] - top[:, 2:].mean(1) + TINY)


def likeliest_wrong(logits: Tensor, y: Tensor, count: int) -> Tensor:
    """The `count` wrong classes with the largest logits (N, K), largest first; (N, min(count, K - 1))."""
    wrong = logits.scatter(1, y[:, None], -torch.inf)
    return wrong.topk(min(count, logits.shape[1] - 1), dim=1).indices


def kl(p: Tensor, q: Tensor) -> Tensor:
    """KL(softmax(p) || softmax(q)) from logits (N, K), as (N,) nats."""
    log_p, log_q = p.log_softmax(1), q.log_softmax(1)
    return (log_p.exp() * (log_p - log_q)).sum(1)


SCORES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "cross_entropy": cross_entropy,
    "margin": margin,
    "dlr": dlr,
}
"""Scores that need nothing but the label; `kl` needs the logits of the untouched image instead."""
