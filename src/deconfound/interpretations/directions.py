"""Directions of a concept among activations, and whether a logit grows along them.

Kim et al., "Interpretability Beyond Feature Attribution: Quantitative Testing with Concept Activation Vectors", ICML
2018, arXiv:1711.11279. A direction leads from the mean of a random set of images to that of a set with the concept.

All directions of a concept share its images, and often all images of a class the sign of a derivative. So the shares of
one concept lie close together, even if it is a random set of images, and a t-test of them against shares of random
sets, as in the paper, called two of five random concepts significant (at 0.05, normal activations, 20 sets). Here p is
of a test on images: that those with the concept and those without lie alike, in the mean, along the mean derivative of
the images that are asked about (Welch), which calls 4 in 100 significant in the same trial. A share of 1 says little by
itself; the null shares are those of random sets in the place of the concept, each against all others.
"""

from typing import NamedTuple

import torch
from torch import Tensor


class Sets(NamedTuple):
    """Activations (n, D) of a concept, (M, D) of images without it, and of R random sets of n of these."""

    concept: Tensor
    others: Tensor
    randoms: list[Tensor]


class Answer(NamedTuple):
    """images (n,): of each, the share of the directions along which its logit grows; shares (R,): of the images, for
    each direction; null (R,): means of such shares with a random set in place of the concept; p: as above.
    """

    images: Tensor
    shares: Tensor
    null: Tensor
    p: float


def answer(slopes: Tensor, sets: Sets) -> Answer:
    """What derivatives (n, D) say about a concept and random sets; an image on which they vanish counts as one whose
    logit does not grow.
    """
    heights = slopes @ torch.stack([sets.concept, *sets.randoms]).mean(1).T
    grows = (heights[:, :, None] > heights[:, None]).double()
    shares = grows.mean(0)
    null = shares[1:, 1:].sum(1) / (len(sets.randoms) - 1)  # no set grows towards itself
    mean = slopes.mean(0)
    return Answer(
        grows[:, 0, 1:].mean(1), shares[0, 1:], null, welch(sets.concept @ mean, sets.others @ mean)
    )


def welch(a: Tensor, b: Tensor) -> float:
    """p of Welch's two-sided test that numbers a (n,) and b (m,) have the same mean; without any variance 1 where the
    means agree, 0 where they do not.
    """
    from scipy.special import stdtr

    parts = [float(values.var()) / len(values) for values in (a, b)]
    distance, variance = abs(float(a.mean() - b.mean())), sum(parts)
    if variance == 0:
        return float(distance == 0)
    freedom = variance**2 / sum(
        part**2 / (len(values) - 1) for part, values in zip(parts, (a, b), strict=True)
    )
    return float(2 * stdtr(freedom, -distance / variance**0.5))
