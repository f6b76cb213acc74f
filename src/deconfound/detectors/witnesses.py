"""Witnesses: does the prediction survive when only the units count that speak for it? A documented negative example.

After Tao et al., "Attacks Meet Interpretability: Attribute-steered Detection of Adversarial Samples", NeurIPS 2018,
arXiv:1810.11580, whose witnesses are units tied to attributes of faces. There are no attributes here: a witness of a
class is a unit that is selective for it on the training images. Witnesses of the predicted class are strengthened,
other units above their mean are weakened, block by block; the score is the divergence of the two predictions, and one
more if the label flips. The numbers of the rules are ours. The published detector was broken by Carlini, "Is AmI
(Attacks Meet Interpretability) Robust to Adversarial Examples?", arXiv:1902.02322: expect little, and nothing against
somebody who knows it.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from deconfound.components import selectivity_for
from deconfound.detectors.evidence import Evidence
from deconfound.detectors.layers import Edit, collected, edited, places, spread, units
from deconfound.detectors.learning import by_batches
from deconfound.fields import Count, Fraction01, NonNegative, Positive, hyperparameters
from deconfound.models.classifier import eval_mode


@hyperparameters
class Witnesses:
    """selective: a unit is a witness of a class from this selectivity for it on. strengthen: factor on a witness;
    weaken: another unit, so many standard deviations above its mean, is divided by e. examples: training images, at
    most, that say who is a witness.
    """

    selective: Fraction01 = 0.5
    strengthen: NonNegative = 2.0
    weaken: Positive = 1.0
    examples: Count = 2000

    def suspicion(self, evidence: Evidence) -> Callable[[Tensor], Tensor]:
        """Jensen-Shannon divergence, nats, plus 1 if the label flips: from 0 to 1 + ln 2."""
        return by_batches(evidence.model, self.score_of(evidence))

    def score_of(self, evidence: Evidence) -> Callable[[Tensor], Tensor]:
        """The same with the gradient of the divergence; that of the flip is zero."""
        model, x, y = evidence.model, evidence.data.x, evidence.data.y.cpu()
        rows = torch.randperm(len(x), generator=evidence.rng("witnesses"))[: self.examples]
        names = places(model, x[:2])
        device = next(model.parameters()).device
        layers = [h.float() for h in collected(model, names, x[rows.to(x.device)])]
        known = [self._witnesses(h, y[rows], evidence.classes, device) for h in layers]

        def score(z: Tensor) -> Tensor:
            with eval_mode(model):
                plain = model(z)
            label = plain.argmax(1)
            edits: dict[str, Edit] = {
                name: partial(self._steer, own=place.witness[label], known=place)
                for name, place in zip(names, known, strict=True)
            }
            steered = edited(model, edits, z)
            flipped: Tensor = steered.argmax(1) != label
            return divergence(plain, steered) + flipped.double()

        return score

    def _witnesses(self, h: Tensor, y: Tensor, classes: int, device: torch.device) -> "Known":
        witness = selectivity_for(h, y, classes) > self.selective
        return Known(*(part.to(device) for part in (witness, h.mean(0), h.std(0, correction=0))))

    def _steer(self, h: Tensor, *, own: Tensor, known: "Known") -> Tensor:
        """Activations h (n, ...) of a place, steered; own (n, D) bool: witnesses of the classes of these images."""
        above = (units(h) - known.mean).clamp_min(0) / (self.weaken * known.deviation).clamp_min(1e-6)
        return h * spread(torch.where(own, self.strengthen, (-above).exp()), h)


class Known(NamedTuple):
    """Of a place: witness (K, D) bool per class, mean and standard deviation (D,) of its units on training images."""

    witness: Tensor
    mean: Tensor
    deviation: Tensor


def divergence(left: Tensor, right: Tensor) -> Tensor:
    """Jensen-Shannon divergence (n,) of softmax probabilities, nats, from logits (n, K)."""
    p, q = left.double().log_softmax(1), right.double().log_softmax(1)
    middle = torch.logaddexp(p, q) - math.log(2)
    found: Tensor = (p.exp() * (p - middle) + q.exp() * (q - middle)).sum(1) / 2
    return found.clamp_min(0)
