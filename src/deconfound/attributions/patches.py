"""What the patches of a grid contribute: exact Shapley values, KernelSHAP, and LIME.

All three ask the model for images of which some patches are covered. Shapley values: the mean of what a patch adds,
over all orders of adding patches. KernelSHAP: the linear model with the Shapley kernel (Lundberg & Lee, "A Unified
Approach to Interpreting Model Predictions", NIPS 2017, arXiv:1705.07874), held to add up exactly. LIME: a weighted
ridge regression (Ribeiro, Singh, Guestrin, "Why Should I Trust You?", KDD 2016, arXiv:1602.04938).

Captum's own loop over images and coalitions one by one, with draws from the global generator, and its exact values from
all orders; here the coalitions are drawn once for all images, one solution serves them all, and exact values come from
the 2^P coalitions. Patches are a grid, where LIME takes superpixels. What a patch contributes is spread evenly over its
pixels and channels, so that a map sums to what its patches sum to.
"""

from collections.abc import Callable
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Generator, Tensor

from deconfound.attributions.asking import Scalar, ScalarName, check, explained
from deconfound.attributions.baselines import Baseline, BaselineField, Maker, averaged
from deconfound.errors import UserError
from deconfound.fields import Count, NonNegative, Positive, hyperparameters
from deconfound.models.classifier import Classifier

Solve = Callable[[Tensor], Tensor]
"""Contributions (P,) float64 from values (S,) float64 of the coalitions."""


@hyperparameters
class Shapley:
    """grid: patches along a side, at most 4 (16 patches are 65,536 passes per image). baseline: what covers a patch.
    scalar, chunk: see `asking.Attribution`.
    """

    grid: Annotated[Count, Field(le=4)] = 3
    baseline: BaselineField = Baseline()
    scalar: ScalarName = "logit"
    chunk: Count = 64

    def __call__(self, model: Classifier, x: Tensor, target: Tensor, *, rng: Generator) -> Tensor:
        """Maps like x, that sum to the scalar of the image minus that of its baseline."""
        make = self.baseline.maker(model, x.shape[1:], rng=rng)
        coalitions = every_coalition(self.grid**2)
        matrix = shapley_matrix(coalitions)
        return _patchwise(self, model, x, target, make, coalitions, lambda values: matrix @ values)


@hyperparameters
class KernelSHAP:
    """samples: coalitions drawn, beside the empty and the full one; where there are no more, all are taken, and the
    values are exact. grid, baseline: as in Shapley. scalar, chunk: see
    `asking.Attribution`.
    """

    samples: Count = 512
    grid: Count = 4
    baseline: BaselineField = Baseline()
    scalar: ScalarName = "logit"
    chunk: Count = 64

    def __call__(self, model: Classifier, x: Tensor, target: Tensor, *, rng: Generator) -> Tensor:
        """Maps like x, that sum to the scalar of the image minus that of its baseline."""
        make, patches = self.baseline.maker(model, x.shape[1:], rng=rng), self.grid**2
        if patches < 2:
            raise UserError("kernel_shap: expected a grid of at least 2 x 2 patches")
        if 2**patches - 2 <= self.samples:
            drawn = every_coalition(patches)[1:-1]
            weights = kernel_weights(drawn)
        else:
            drawn = shapley_draws(patches, self.samples, rng=rng)
            weights = torch.ones(len(drawn), dtype=torch.float64)
        coalitions = torch.cat([torch.zeros(1, patches), torch.ones(1, patches), drawn])
        return _patchwise(self, model, x, target, make, coalitions, additive_fit(drawn, weights))


@hyperparameters
class LIME:
    """samples: coalitions drawn, every patch kept with probability 1/2. width: of the exponential kernel on the cosine
    distance to the full image. ridge: weight of the squared coefficients, against a sum of squared errors. grid,
    baseline: as in Shapley. scalar, chunk: see `asking.Attribution`.

    With few samples it is unstable: report the rank correlation over seeds (`faithfulness.seed_stability`).
    """

    samples: Count = 512
    width: Positive = 0.25
    ridge: NonNegative = 1.0
    grid: Count = 4
    baseline: BaselineField = Baseline()
    scalar: ScalarName = "logit"
    chunk: Count = 64

    def __call__(self, model: Classifier, x: Tensor, target: Tensor, *, rng: Generator) -> Tensor:
        """Maps like x."""
        make, patches = self.baseline.maker(model, x.shape[1:], rng=rng), self.grid**2
        drawn = (torch.rand(self.samples, patches, generator=rng) < 0.5).float()
        fit = ridge_fit(drawn, similarity(drawn, self.width), self.ridge)
        return _patchwise(self, model, x, target, make, drawn, fit)


def every_coalition(patches: int) -> Tensor:
    """All coalitions (2^P, P) of 0 and 1; bit p of the row number says whether patch p is in."""
    rows = torch.arange(2**patches)
    return ((rows[:, None] >> torch.arange(patches)) & 1).float()


def shapley_matrix(coalitions: Tensor) -> Tensor:
    """(P, 2^P) float64: Shapley values are this times the values of all coalitions (2^P, P), in that order."""
    inside = coalitions.double()
    patches = inside.shape[1]
    size = inside.sum(1, keepdim=True)

    def log_factorial(n: Tensor) -> Tensor:
        return torch.lgamma(n + 1)

    whole = log_factorial(torch.tensor(float(patches), dtype=torch.float64))
    adding = log_factorial((size - 1).clamp(min=0)) + log_factorial(patches - size) - whole
    missing = log_factorial(size) + log_factorial((patches - size - 1).clamp(min=0)) - whole
    return torch.where(inside.bool(), adding.exp(), -missing.exp()).T


def shapley_draws(patches: int, samples: int, *, rng: Generator) -> Tensor:
    """Coalitions (S, P), neither empty nor full, drawn as the Shapley kernel weighs them: a size s with probability
    proportional to (P - 1) / (s (P - s)), then any coalition of that size. The second half are the complements of
    the first, which the kernel weighs the same: a patch's effect is seen with and without the others.
    """
    sizes = torch.arange(1, patches, dtype=torch.float64)
    half = (samples + 1) // 2
    drawn = torch.multinomial(1 / (sizes * (patches - sizes)), half, replacement=True, generator=rng) + 1
    order = torch.rand(half, patches, generator=rng).argsort(1).argsort(1)
    inside = (order < drawn[:, None]).float()
    return torch.cat([inside, 1 - inside])[:samples]


def kernel_weights(coalitions: Tensor) -> Tensor:
    """The Shapley kernel (S,) float64 of coalitions (S, P) that are neither empty nor full, up to a factor."""
    size, patches = coalitions.double().sum(1), coalitions.shape[1]
    log_of_that_size = torch.lgamma(size + 1) + torch.lgamma(patches - size + 1)
    return log_of_that_size.exp() / (size * (patches - size))


def additive_fit(drawn: Tensor, weights: Tensor) -> Solve:
    """The least-squares solution whose contributions add up: from values (2 + S,) of the empty, the full and the drawn
    coalitions (S, P), those weighted by weights (S,).
    """
    z, root = drawn.double(), weights.sqrt()[:, None]
    inverse = torch.linalg.pinv((z[:, :-1] - z[:, -1:]) * root) * root.T

    def solve(values: Tensor) -> Tensor:
        empty, full, rest = values[0], values[1], values[2:]
        first = inverse @ (rest - empty - z[:, -1] * (full - empty))
        return torch.cat([first, (full - empty - first.sum())[None]])

    return solve


def similarity(drawn: Tensor, width: float) -> Tensor:
    """Weights (S,) of coalitions (S, P): exp(-d^2 / (2 width^2)) at the cosine distance d to the full one."""
    distance = 1 - drawn.double().mean(1).sqrt()
    return torch.exp(-(distance**2) / (2 * width**2))


def ridge_fit(drawn: Tensor, weights: Tensor, ridge: float) -> Solve:
    """Coefficients of a weighted ridge regression of the values (S,) on coalitions (S, P), with a free intercept."""
    share = (weights / weights.sum())[:, None]
    z = drawn.double()
    centred = z - (share * z).sum(0)
    weighted = (weights[:, None] * centred).T
    inverse = torch.linalg.pinv(weighted @ centred + ridge * torch.eye(z.shape[1], dtype=torch.float64))
    return lambda values: inverse @ (weighted @ (values - (share[:, 0] * values).sum()))


def grid_of(shape: torch.Size, grid: int) -> Tensor:
    """Number (H, W) of the patch that each pixel of an image (C, H, W) belongs to."""
    height, width = shape[1:]
    if grid > min(height, width):
        raise UserError(f"grid: expected at most {min(height, width)} patches along a side, got {grid}")
    rows, columns = (torch.arange(side) * grid // side for side in (height, width))
    return rows[:, None] * grid + columns


def _patchwise(
    method: Any, model: Classifier, x: Tensor, target: Tensor, make: Maker, coalitions: Tensor, solve: Solve
) -> Tensor:
    """Maps of a method: per image, the values of all coalitions (S, P), `chunk` at a time, and their solution."""
    check(x, target)
    place = grid_of(x.shape[1:], method.grid)
    area = torch.bincount(place.flatten()) * x.shape[1]

    def value(asked: Scalar, one: Tensor, baseline: Tensor, weights: Tensor) -> Tensor:
        found = []
        with torch.no_grad():
            for kept in torch.split(coalitions, method.chunk):
                mask = kept[:, place][:, None].to(one)
                found.append(asked(one * mask + baseline * (1 - mask), weights.expand(len(mask), -1)))
        return torch.cat(found).double().cpu()

    def part(asked: Scalar, z: Tensor, weights: Tensor) -> Tensor:
        def maps(baseline: Tensor) -> Tensor:
            rows = [
                solve(value(asked, z[i : i + 1].detach(), baseline[i : i + 1], weights[i : i + 1]))
                for i in range(len(z))
            ]
            spread = torch.stack(rows) / area
            return spread[:, place][:, None].expand(z.shape).to(z)

        return averaged(make, z, maps)

    return explained(model, x, target, part, scalar=method.scalar, chunk=method.chunk)
