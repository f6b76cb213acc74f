"""Integrated gradients: the gradient, averaged over the way from a baseline to the image, times that way.

Sundararajan, Taly, Yan, "Axiomatic Attribution for Deep Networks", ICML 2017, arXiv:1703.01365. Completeness: a map
sums to the scalar of the image minus that of the baseline, up to the error of the quadrature (Gauss-Legendre, where the
paper takes a Riemann sum).
"""

from torch import Generator, Tensor

from deconfound.attributions.asking import Scalar, ScalarName, explained
from deconfound.attributions.baselines import Baseline, BaselineField, averaged
from deconfound.fields import Count, hyperparameters
from deconfound.models.classifier import Classifier


@hyperparameters
class IntegratedGradients:
    """steps: points on the way. baseline: where it starts. scalar, chunk: see `asking.Attribution`."""

    steps: Count = 32
    baseline: BaselineField = Baseline()
    scalar: ScalarName = "logit"
    chunk: Count = 64

    def __call__(self, model: Classifier, x: Tensor, target: Tensor, *, rng: Generator) -> Tensor:
        """Maps like x."""
        make = self.baseline.maker(model, x.shape[1:], rng=rng)

        def part(asked: Scalar, z: Tensor, weights: Tensor) -> Tensor:
            return averaged(make, z, lambda baseline: self._path(asked, z, baseline, weights))

        return explained(model, x, target, part, scalar=self.scalar, chunk=self.chunk)

    def _path(self, asked: Scalar, z: Tensor, baseline: Tensor, weights: Tensor) -> Tensor:
        from captum.attr import IntegratedGradients as CaptumIntegrated

        found: Tensor = CaptumIntegrated(asked).attribute(
            z,
            baselines=baseline,
            additional_forward_args=(weights,),
            n_steps=self.steps,
            internal_batch_size=self.chunk,
        )
        return found
