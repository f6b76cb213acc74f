"""Mahalanobis: adversarial examples lie far from every class in the activations of some layer.

Lee et al., "A Simple Unified Framework for Detecting Out-of-Distribution Samples and Adversarial Attacks", NeurIPS
2018, arXiv:1807.03888. Per layer one Gaussian per class with a common covariance, on activations averaged over
positions; a logistic regression over the layers, with noisy images among the negatives, as released. Differences: its
inputs are the logarithms of the distances (the release takes minus the distances); the layers are the blocks of the
network and its representation; a ridge keeps the covariance of dead units invertible. The optional step on the input
is in pixels and clipped to [0, 1] (the release steps in normalised units and does not clip).
"""

from collections.abc import Callable, Sequence
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from deconfound.detectors.evidence import Evidence
from deconfound.detectors.layers import activations, collected, places
from deconfound.detectors.learning import by_batches, taught
from deconfound.fields import Count, NonNegative, Positive, hyperparameters

TINY = 1e-12  # added to a distance before its logarithm


class Gaussians(NamedTuple):
    """Whitened class means (K', D) of the classes that occur, and factor (D, D): the Cholesky factor of the common
    covariance.
    """

    means: Tensor
    factor: Tensor

    def distances(self, h: Tensor) -> Tensor:
        """Squared Mahalanobis distance (n,) of activations (n, D) to the nearest class."""
        means, factor = self.means.to(h.device), self.factor.to(h.device)
        white = torch.linalg.solve_triangular(factor, h.double().T, upper=False).T
        nearest: Tensor = (white[:, None] - means[None]).square().sum(2).amin(1)
        return nearest


@hyperparameters
class Mahalanobis:
    """examples: training images, at most, that give means and covariance. ridge: added to the variances, in squared
    units of the activations. magnitude: length of a signed gradient step of the input towards the nearest class
    before it is measured, per layer, pixel units; 0 for none.

    attacks: names of crafted examples to learn from, all where empty. c: inverse strength of the l2 penalty of the
    logistic regression.
    """

    needs: ClassVar[tuple[str, ...]] = ("crafted",)

    examples: Count = 10_000
    ridge: NonNegative = 1e-6
    magnitude: NonNegative = 0.0
    attacks: tuple[str, ...] = ()
    c: Positive = 1.0

    def suspicion(self, evidence: Evidence) -> Callable[[Tensor], Tensor]:
        """Log-odds of the logistic regression."""
        return by_batches(evidence.model, self.score_of(evidence))

    def score_of(self, evidence: Evidence) -> Callable[[Tensor], Tensor]:
        """The same with a gradient; the step on the input counts as a constant."""
        names, fitted = self.fit(evidence)
        model = evidence.model

        def features(x: Tensor) -> Tensor:
            if not self.magnitude:
                found, _ = activations(model, names, x)
                return torch.stack([log_distance(g, h) for g, h in zip(fitted, found, strict=True)], 1)
            columns = []
            for name, gaussians in zip(names, fitted, strict=True):
                nearer = (x + self._step(evidence, name, gaussians, x)).clamp(0, 1)
                (h,), _ = activations(model, [name], nearer)
                columns.append(log_distance(gaussians, h))
            return torch.stack(columns, 1)

        return taught(evidence, features, attacks=self.attacks, c=self.c)

    def fit(self, evidence: Evidence) -> tuple[Sequence[str], list[Gaussians]]:
        """Names of the layers, and what was fitted to the training images, with their labels as delivered."""
        x, y = evidence.data.x, evidence.data.y.cpu()
        rows = torch.randperm(len(x), generator=evidence.rng("mahalanobis"))[: self.examples].sort().values
        names = places(evidence.model, x[:2])
        layers = collected(evidence.model, names, x[rows.to(x.device)])
        return names, [gaussians_of(h, y[rows], ridge=self.ridge) for h in layers]

    def _step(self, evidence: Evidence, name: str, gaussians: Gaussians, x: Tensor) -> Tensor:
        with torch.enable_grad():
            z = x.detach().requires_grad_()
            (h,), _ = activations(evidence.model, [name], z)
            (gradient,) = torch.autograd.grad(gaussians.distances(h).sum(), z)
        return -self.magnitude * gradient.sign()


def gaussians_of(h: Tensor, y: Tensor, *, ridge: float) -> Gaussians:
    """Fit to activations (N, D) with labels (N,)."""
    h = h.double()
    labels = sorted(set(y.tolist()))
    means = torch.stack([h[y == label].mean(0) for label in labels])
    deviations = h - means[torch.searchsorted(torch.tensor(labels), y)]
    covariance = deviations.T @ deviations / len(h) + ridge * torch.eye(h.shape[1], dtype=torch.float64)
    factor = torch.linalg.cholesky(covariance)
    return Gaussians(torch.linalg.solve_triangular(factor, means.T, upper=False).T.contiguous(), factor)


def log_distance(gaussians: Gaussians, h: Tensor) -> Tensor:
    """Logarithm (n,) of the squared distance of activations (n, D) to the nearest class."""
    return (gaussians.distances(h) + TINY).log()
