"""Influence: training images that change the head of the network in an unusual way. Only gradients of the head count.

Pruthi et al., "Estimating Training Data Influence by Tracing Gradient Descent" (TracIn), NeurIPS 2020,
arXiv:2002.08484. Koh and Liang, "Understanding Black-box Predictions via Influence Functions", ICML 2017,
arXiv:1703.04730. Barshan, Brunet and Dziugaite, "RelatIF: Identifying Explanatory Training Examples via Relative
Influence", AISTATS 2020, arXiv:2003.11630. The gradient of the cross-entropy by the weights of a linear head is the
outer product of the error p - y and the representation h, so all of it has closed forms; a bias of the head is left
out. TracIn sums over checkpoints of the training; a detector sees the final network, which is one.

Read both tails: a mislabelled image has a large influence on itself, an image with a trigger is easy, and its plain
influence on itself is often among the smallest. What neither does is to help the held-out images of its label: by
default suspicion is a small relative influence on those, which is ours. Signs are such that a helpful image has
positive influence.
"""

from collections.abc import Iterator, Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from deconfound.detectors.evidence import Evidence, Flagged
from deconfound.detectors.scoring import held_out, largest, representations
from deconfound.errors import UserError
from deconfound.fields import Count, OpenFraction, Positive, hyperparameters
from deconfound.models.classifier import Classifier
from deconfound.types import Images

ROWS = 1024  # gradients at a time
TINY = 1e-30


class Gradients(NamedTuple):
    """Gradients of n examples by the weights of the head, kept as factors: errors (n, K) and representations (n, D)."""

    errors: Tensor
    h: Tensor

    def flat(self) -> Tensor:
        """(n, K * D)."""
        return (self.errors[:, :, None] * self.h[:, None]).flatten(1)


@hyperparameters
class Influence:
    """form: `tracin`, the product of gradients; `influence`, their product through the inverse Hessian of the head's
    mean loss; `relative`, that divided by the length of what the example changes in the weights (RelatIF);
    `per_gradient`, divided by the length of the example's gradient instead. toward: the influence of an example on
    `itself`, or on the mean loss of the `held_out` images of its label.

    damping: added to the diagonal of the Hessian. widest: weights of the head, at most; the Hessian has their square.

    tail: which influences are suspicious, `low`, `high`, or those far from the median on `both` sides. fraction: of
    the training images that is flagged.
    """

    form: Literal["tracin", "influence", "relative", "per_gradient"] = "relative"
    toward: Literal["itself", "held_out"] = "held_out"
    damping: Positive = 1e-2
    widest: Count = 8192
    tail: Literal["low", "high", "both"] = "low"
    fraction: OpenFraction = 0.1

    def examine(self, evidence: Evidence) -> Flagged:
        """Scores: the influence, minus it, or its distance from the median, as the tail says."""
        values = self.influences(evidence)
        if self.tail == "both":
            scores = (values - values.quantile(0.5)).abs()
        else:
            scores = values if self.tail == "high" else -values
        return Flagged(scores, largest(scores, int(self.fraction * len(scores) + 1e-9)))

    def influences(self, evidence: Evidence) -> Tensor:
        """Of every training image, (N,) float64."""
        model, data = evidence.model, evidence.data
        train = gradients_of(model, data)
        toward = None
        if self.toward == "held_out":
            val = held_out(evidence)
            toward = class_gradients(gradients_of(model, val), val.y.cpu(), evidence.classes)[data.y.cpu()]
        found = []
        for rows, g, change in self._changes(model, train):
            found.append((change * (g if toward is None else toward[rows])).sum(1))
        return torch.cat(found)

    def on(self, model: Classifier, train: Images, others: Gradients) -> Tensor:
        """Influences (N, q) float64 of every training image on the loss of each of q others; `toward` and `tail` do not
        matter.
        """
        flat = others.flat()
        return torch.cat(
            [change @ flat.T for _, _, change in self._changes(model, gradients_of(model, train))]
        )

    def _changes(self, model: Classifier, train: Gradients) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Part by part: rows (n,) of the training images, their gradients (n, P), and what they change in the weights
        (n, P), up to a factor, in the unit of the form. Influence is the product of the latter with another gradient.
        """
        factor = None
        if self.form != "tracin":
            weights = train.errors.shape[1] * train.h.shape[1]
            if weights > self.widest:
                raise UserError(
                    f"influence: expected a head of at most {self.widest} weights (widest), got {weights};"
                    " use form: tracin"
                )
            curvature = hessian(probabilities(model, train.h), train.h, damping=self.damping)
            factor = torch.linalg.cholesky(curvature)
        for rows in torch.arange(len(train.h)).split(ROWS):  # type: ignore[no-untyped-call]
            g = Gradients(train.errors[rows], train.h[rows]).flat()
            change = g if factor is None else torch.cholesky_solve(g.T, factor).T
            if self.form == "relative":
                change = change / change.norm(dim=1, keepdim=True).clamp_min(TINY)
            elif self.form == "per_gradient":
                change = change / g.norm(dim=1, keepdim=True).clamp_min(TINY)
            yield rows, g, change


def probabilities(model: Classifier, h: Tensor) -> Tensor:
    """(N, K) float64 on the CPU, from representations (N, D)."""
    head = model.head
    logits = h.double().cpu() @ head.weight.detach().double().cpu().T
    if head.bias is not None:
        logits = logits + head.bias.detach().double().cpu()
    return logits.softmax(1)


def gradients_of(model: Classifier, images: Images) -> Gradients:
    """Of the cross-entropy with the given labels, float64 on the CPU."""
    h = representations(model, images.x)
    p = probabilities(model, h)
    return Gradients(p - F.one_hot(images.y.cpu(), p.shape[1]), h)


def class_gradients(gradients: Gradients, y: Tensor, classes: int) -> Tensor:
    """Mean gradient (K, K * D) per label; 0 for one that does not occur."""
    total = torch.einsum("nc,nk,nd->ckd", F.one_hot(y, classes).double(), gradients.errors, gradients.h)
    return total.flatten(1) / torch.bincount(y, minlength=classes).clamp_min(1)[:, None]


def hessian(p: Tensor, h: Tensor, *, damping: float) -> Tensor:
    """(K * D, K * D): of the mean cross-entropy of a linear head by its weights, plus damping on the diagonal; from
    probabilities p (n, K) and representations h (n, D).
    """
    classes, width = p.shape[1], h.shape[1]
    found = h.new_zeros(classes, width, classes, width)
    for one in range(classes):
        for other in range(one, classes):
            weight = p[:, one] * (float(one == other) - p[:, other]) / len(h)
            block = (h * weight[:, None]).T @ h
            found[one, :, other], found[other, :, one] = block, block
    square = found.reshape(classes * width, classes * width)
    return square + damping * torch.eye(classes * width, dtype=square.dtype)


def tracin(train: Sequence[Gradients], test: Sequence[Gradients], rates: Sequence[float]) -> Tensor:
    """TracIn (n, q) of n training examples on q others: the sum over checkpoints of the learning rate times the
    product of their gradients.
    """
    parts = [
        rate * (one.errors @ other.errors.T) * (one.h @ other.h.T)
        for one, other, rate in zip(train, test, rates, strict=True)
    ]
    return torch.stack(parts).sum(0)


def self_tracin(train: Sequence[Gradients], rates: Sequence[float]) -> Tensor:
    """TracIn (n,) of every training example on itself."""
    parts = [
        rate * one.errors.square().sum(1) * one.h.square().sum(1)
        for one, rate in zip(train, rates, strict=True)
    ]
    return torch.stack(parts).sum(0)
