"""LID: adversarial examples lie where the activations have more dimensions around them.

Ma et al., "Characterizing Adversarial Subspaces Using Local Intrinsic Dimensionality", ICLR 2018, arXiv:1801.02613. Per
layer the maximum-likelihood estimate -(1/k sum_i log(r_i / r_k))^-1 from the distances r_1 <= ... <= r_k to the
nearest of a batch of training images; a logistic regression over the layers, with noisy images among the negatives.
The release measures every minibatch against itself; here one batch of training images, drawn once, is the reference
of every image, so that images do not influence each other. Activations are averaged over positions.
"""

from collections.abc import Callable
from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from deconfound.detectors.evidence import Evidence
from deconfound.detectors.layers import activations, collected, places
from deconfound.detectors.learning import by_batches, taught
from deconfound.fields import Count, Positive, hyperparameters

ITSELF = 1e-5  # a nearest image closer than this part of the k-th is the image itself
SMALLEST = 1e-3  # of the mean logarithm: an estimate never exceeds its inverse
TINY = 1e-12


@hyperparameters
class LID:
    """reference: training images that neighbours are sought among; neighbours: k, at most all but one of them.

    attacks: names of crafted examples to learn from, all where empty. c: inverse strength of the l2 penalty of the
    logistic regression.
    """

    needs: ClassVar[tuple[str, ...]] = ("crafted",)

    reference: Annotated[Count, Field(ge=3)] = 200
    neighbours: Annotated[Count, Field(ge=2)] = 20
    attacks: tuple[str, ...] = ()
    c: Positive = 1.0

    def suspicion(self, evidence: Evidence) -> Callable[[Tensor], Tensor]:
        """Log-odds of the logistic regression."""
        return by_batches(evidence.model, self.score_of(evidence))

    def score_of(self, evidence: Evidence) -> Callable[[Tensor], Tensor]:
        """The same with a gradient."""
        model, x = evidence.model, evidence.data.x
        rows = torch.randperm(len(x), generator=evidence.rng("lid"))[: self.reference]
        names = places(model, x[:2])
        device = next(model.parameters()).device
        near = [h.to(device) for h in collected(model, names, x[rows.to(x.device)])]

        def features(z: Tensor) -> Tensor:
            found, _ = activations(model, names, z)
            return torch.stack(
                [dimension(h, reference, self.neighbours) for h, reference in zip(found, near, strict=True)],
                1,
            )

        return taught(evidence, features, attacks=self.attacks, c=self.c)


def dimension(h: Tensor, reference: Tensor, k: int) -> Tensor:
    """Local intrinsic dimension (n,) at points h (n, D) among others (m, D), from their k nearest; a point that is
    among them is not its own neighbour. At most 1000.
    """
    k = min(k, len(reference) - 1)
    r = torch.cdist(h.double(), reference.double(), compute_mode="donot_use_mm_for_euclid_dist")
    nearest = r.topk(k + 1, dim=1, largest=False).values
    itself = nearest[:, :1] <= ITSELF * nearest[:, -1:]
    nearest = torch.where(itself, nearest[:, 1:], nearest[:, :-1])
    ratio = (nearest + TINY) / (nearest[:, -1:] + TINY)
    return 1 / (-ratio.log().mean(1)).clamp_min(SMALLEST)
