"""Occlusion: how much the scalar falls when a window of the image is covered.

Zeiler & Fergus, "Visualizing and Understanding Convolutional Networks", ECCV 2014, arXiv:1311.2901. A window covers all
channels; what it costs is spread evenly over its pixels and channels (the paper keeps it whole), so that windows side
by side give a map that sums to the sum of what they cost. A pixel under several windows gets the mean.
"""

from torch import Generator, Tensor

from deconfound.attributions.asking import Scalar, ScalarName, check, explained
from deconfound.attributions.baselines import Baseline, BaselineField, averaged
from deconfound.errors import UserError
from deconfound.fields import Count, hyperparameters
from deconfound.models.classifier import Classifier


@hyperparameters
class Occlusion:
    """window: side of the square, pixels. stride: pixels from one window to the next. baseline: what covers it. scalar,
    chunk: see `asking.Attribution`.
    """

    window: Count = 4
    stride: Count = 4
    baseline: BaselineField = Baseline()
    scalar: ScalarName = "logit"
    chunk: Count = 64

    def __call__(self, model: Classifier, x: Tensor, target: Tensor, *, rng: Generator) -> Tensor:
        """Maps like x."""
        from captum.attr import Occlusion as CaptumOcclusion

        check(x, target)
        channels, height, width = x.shape[1:]
        if self.window > min(height, width) or self.stride > self.window:
            raise UserError(
                f"occlusion: expected stride <= window <= {min(height, width)} (the image), got window {self.window}"
                f" and stride {self.stride}"
            )
        make = self.baseline.maker(model, x.shape[1:], rng=rng)

        def part(asked: Scalar, z: Tensor, weights: Tensor) -> Tensor:
            def maps(baseline: Tensor) -> Tensor:
                found: Tensor = CaptumOcclusion(asked).attribute(
                    z.detach(),
                    sliding_window_shapes=(channels, self.window, self.window),
                    strides=(channels, self.stride, self.stride),
                    baselines=baseline,
                    additional_forward_args=(weights,),
                )
                return found.detach()

            return averaged(make, z, maps) / (channels * self.window**2)

        return explained(model, x, target, part, scalar=self.scalar, chunk=self.chunk)
