"""NAMID's decomposition of what an output tells of an attacked image, computed exactly on discrete variables.

X is the image, N the noise, S = X + N the attacked image, Z the output; information in nats. Theorem 1 of Zhou et al.,
ICML 2022, arXiv:2207.12203:

    I(S;Z) = I(X;Z) + I(N;Z) - I(X;N;Z) + H(Z|X,N) - H(Z|S)

Corollary 1 keeps the first two terms of the right side. When Z depends on X and N through S alone, as the output of a
network does, the entropies cancel, and the corollary is off by exactly the interaction I(X;N;Z). If the noise is a
function of the image and the output one of the attacked image, then I(S;Z) = I(X;Z) = H(Z), and it is off by all of
I(N;Z).
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor


class Decomposition(NamedTuple):
    """total I(S;Z), natural I(X;Z), adversarial I(N;Z), interaction I(X;N;Z) = I(X;Z) - I(X;Z|N), noise_given_parts
    H(Z|X,N), noise_given_sum H(Z|S): nats.
    """

    total: float
    natural: float
    adversarial: float
    interaction: float
    noise_given_parts: float
    noise_given_sum: float

    @property
    def residual(self) -> float:
        """How far the corollary is off: I(S;Z) - I(X;Z) - I(N;Z)."""
        return self.total - self.natural - self.adversarial


def entropy(probabilities: Tensor) -> float:
    """Entropy in nats of a distribution of any shape; 0 log 0 is 0."""
    return float(-torch.special.xlogy(probabilities, probabilities).sum())


def information(joint: Tensor) -> float:
    """Mutual information in nats of a joint distribution (A, B)."""
    return entropy(joint.sum(1)) + entropy(joint.sum(0)) - entropy(joint)


def decompose(joint: Tensor, merged: Tensor) -> Decomposition:
    """All terms of the theorem for p(x, n, z), (X, N, Z) float64; merged (X, N) int64: index of x + n.

    Each is summed on its own, none derived from the others. Raises ValueError if the probabilities do not add to 1.
    """
    if not math.isclose(float(joint.sum()), 1.0, abs_tol=1e-9):
        raise ValueError(f"expected probabilities that add to 1, got {float(joint.sum())}")
    values, flat = joint.shape[2], joint.flatten(0, 1)
    attacked = torch.zeros(int(merged.max()) + 1, values, dtype=joint.dtype)
    attacked.index_add_(0, merged.flatten(), flat)
    given_noise = sum(_conditional(joint[:, n]) for n in range(joint.shape[1]))
    natural = information(joint.sum(1))
    return Decomposition(
        total=information(attacked),
        natural=natural,
        adversarial=information(joint.sum(0)),
        interaction=natural - given_noise,
        noise_given_parts=entropy(flat) - entropy(flat.sum(1)),
        noise_given_sum=entropy(attacked) - entropy(attacked.sum(1)),
    )


def _conditional(part: Tensor) -> float:
    """p(n) I(X;Z|N=n) from p(x, n, z) at one n, (X, Z)."""
    weight = float(part.sum())
    return weight * information(part / weight) if weight > 0 else 0.0


def synergy(strength: float) -> Decomposition:
    """Two fair independent bits; the output shows both, or, with probability `strength`, only whether they differ.

    Then neither bit alone is told, while their sum is: the corollary misses strength * log 2.
    """
    joint = torch.zeros(2, 2, 6, dtype=torch.float64)
    for x in range(2):
        for n in range(2):
            joint[x, n, 2 * x + n] += (1 - strength) / 4
            joint[x, n, 4 + (x ^ n)] += strength / 4
    return decompose(joint, torch.arange(4).view(2, 2))


def coupling(strength: float) -> Decomposition:
    """A fair bit and noise that copies it with probability `strength`, else is a fair bit of its own; both are shown.

    What both tell is counted twice, so the corollary exceeds the truth by I(X;N), up to log 2 at strength 1. That is
    the case of an attack, whose noise is computed from the image.
    """
    joint = torch.zeros(2, 2, 4, dtype=torch.float64)
    for x in range(2):
        for n in range(2):
            joint[x, n, 2 * x + n] = (strength * (x == n) + (1 - strength) / 2) / 2
    return decompose(joint, torch.arange(4).view(2, 2))
