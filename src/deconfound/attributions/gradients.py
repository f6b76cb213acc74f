"""Gradients of the scalar by the pixels: plain, times the pixels, and averaged over noise.

Simonyan, Vedaldi, Zisserman, "Deep Inside Convolutional Networks", ICLR 2014 workshop, arXiv:1312.6034. Smilkov et al.,
"SmoothGrad: Removing Noise by Adding Noise", ICML 2017 workshop, arXiv:1706.03825. Maps are signed, where the first
paper takes absolute values and Captum's Saliency does by default.
"""

import torch
from torch import Generator, Tensor

from deconfound.attributions.asking import Scalar, ScalarName, explained
from deconfound.fields import Count, NonNegative, hyperparameters
from deconfound.models.classifier import Classifier


@hyperparameters
class Saliency:
    """The gradient. scalar, chunk: see `asking.Attribution`."""

    scalar: ScalarName = "logit"
    chunk: Count = 64

    def __call__(self, model: Classifier, x: Tensor, target: Tensor, *, rng: Generator) -> Tensor:
        """Maps like x; rng is not used."""
        return explained(model, x, target, _gradient, scalar=self.scalar, chunk=self.chunk)


@hyperparameters
class InputXGradient:
    """The gradient times the pixel, so that a black pixel has no part. scalar, chunk: see `asking.Attribution`."""

    scalar: ScalarName = "logit"
    chunk: Count = 64

    def __call__(self, model: Classifier, x: Tensor, target: Tensor, *, rng: Generator) -> Tensor:
        """Maps like x; rng is not used."""
        return explained(model, x, target, _product, scalar=self.scalar, chunk=self.chunk)


@hyperparameters
class SmoothGrad:
    """The mean gradient over `samples` noisy copies of the image. sigma: standard deviation of the noise, as a share of
    the image's own range (largest minus smallest pixel). scalar, chunk: see `asking.Attribution`.

    Noisy pixels may leave [0, 1], as in the paper. Every image gets the same draws, which Captum's NoiseTunnel would
    not do: so an image's map does not depend on the rest of its batch, and maps of a clean image and its attacked
    twin differ by the images alone.
    """

    samples: Count = 16
    sigma: NonNegative = 0.15
    scalar: ScalarName = "logit"
    chunk: Count = 64

    def __call__(self, model: Classifier, x: Tensor, target: Tensor, *, rng: Generator) -> Tensor:
        """Maps like x."""
        noise = torch.randn(self.samples, *x.shape[1:], generator=rng)

        def part(asked: Scalar, z: Tensor, weights: Tensor) -> Tensor:
            width = (z.amax((1, 2, 3), keepdim=True) - z.amin((1, 2, 3), keepdim=True)).detach() * self.sigma
            total = torch.zeros_like(z)
            for one in noise:
                total += _gradient(asked, (z + width * one.to(z)).detach().requires_grad_(True), weights)
            return total / self.samples

        return explained(model, x, target, part, scalar=self.scalar, chunk=self.chunk)


def _gradient(asked: Scalar, z: Tensor, weights: Tensor) -> Tensor:
    from captum.attr import Saliency as CaptumSaliency

    found: Tensor = CaptumSaliency(asked).attribute(z, abs=False, additional_forward_args=(weights,))
    return found.detach()


def _product(asked: Scalar, z: Tensor, weights: Tensor) -> Tensor:
    from captum.attr import InputXGradient as CaptumProduct

    found: Tensor = CaptumProduct(asked).attribute(z, additional_forward_args=(weights,))
    return found
