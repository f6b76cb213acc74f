"""Feature squeezing: an adversarial example loses its prediction when detail is taken from the picture.

Xu, Evans and Qi, "Feature Squeezing: Detecting Adversarial Examples in Deep Neural Networks", NDSS 2018,
arXiv:1704.01155. The score is the largest l1 distance, over the squeezers, between the probabilities of the image and
of the squeezed image. Defaults: the squeezers of the release for CIFAR-10; for MNIST it has 1 bit and a 2x2 median.
The median of an even window is the upper one, as in the release; beyond the border pixels repeat (the release mirrors
them: the same up to 3x3). Non-local means are taken on the RGB values in [0, 1] of the picture as it is; the release
rounds to 8 bits and calls OpenCV, which separates lightness and colour. Nothing is trained.
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from deconfound.detectors.evidence import Evidence
from deconfound.detectors.learning import by_batches
from deconfound.fields import Count, Positive, hyperparameters
from deconfound.models.classifier import eval_mode


@hyperparameters
class FeatureSqueezing:
    """bits: colour depth to round to, at most 8 make sense. median: side of the window of the median filter, pixels.

    search: side of the window, odd, in which non-local means look for similar patches; patch: side of those, odd;
    strength: h of their weights exp(-d / h^2), grey levels of 255, where d is the mean squared difference of patches.
    None leaves a squeezer out (for non-local means: search).
    """

    bits: Count | None = 5
    median: Count | None = 2
    search: Count | None = 13
    patch: Count = 3
    strength: Positive = 2.0

    def __post_init__(self) -> None:
        if self.bits is None and self.median is None and self.search is None:
            raise ValueError("expected a squeezer among bits, median, search, got none")
        if self.patch % 2 == 0 or (self.search or 1) % 2 == 0:
            raise ValueError(f"expected odd search and patch, got {self.search} and {self.patch}")

    def suspicion(self, evidence: Evidence) -> Callable[[Tensor], Tensor]:
        """The largest distance, in [0, 2]."""
        return by_batches(evidence.model, self.score_of(evidence))

    def score_of(self, evidence: Evidence) -> Callable[[Tensor], Tensor]:
        """The same with a gradient: rounding passes it straight through, the other squeezers have one of their own."""
        model = evidence.model

        def score(x: Tensor) -> Tensor:
            squeezed = self.squeezed(x)
            with eval_mode(model):
                plain, *others = model(torch.cat([x, *squeezed])).double().softmax(1).split(len(x))
            distances = torch.stack([(plain - other).abs().sum(1) for other in others])
            changed = torch.stack([(part != x).flatten(1).any(1) for part in squeezed])
            return torch.where(changed, distances, 0.0 * distances).amax(0)

        return score

    def squeezed(self, x: Tensor) -> list[Tensor]:
        """Images like x (n, C, H, W) in [0, 1], one per squeezer."""
        found = []
        if self.bits is not None:
            found.append(fewer_bits(x, self.bits))
        if self.median is not None:
            found.append(median(x, self.median))
        if self.search is not None:
            found.append(non_local_means(x, self.search, self.patch, self.strength / 255))
        return found


def fewer_bits(x: Tensor, bits: int) -> Tensor:
    """Round to 2^bits values from 0 to 1; the gradient passes unchanged."""
    levels = 2**bits - 1
    rounded = (x.detach() * levels).round() / levels
    rounded = torch.where(
        (rounded - x.detach()).abs() < 1e-6, x.detach(), rounded
    )  # 8 bits change no stored image
    return rounded if not x.requires_grad else x + (rounded - x).detach()


def median(x: Tensor, side: int) -> Tensor:
    """The upper median of windows of side x side pixels, those above and to the left first, as scipy has it."""
    before = side // 2
    padded = F.pad(x, (before, side - 1 - before, before, side - 1 - before), mode="replicate")
    windows = padded.unfold(2, side, 1).unfold(3, side, 1).flatten(4)
    return windows.sort(dim=4).values[..., side * side // 2]


def non_local_means(x: Tensor, search: int, patch: int, h: float) -> Tensor:
    """Every pixel becomes a mean over those of a window around it, search x search, weighed by exp(-d / h^2), where d
    is the mean squared difference of the patches around both, over patch x patch pixels and the channels.
    """
    reach, total, weights = search // 2, torch.zeros_like(x), x.new_zeros(())
    padded = F.pad(x, (reach,) * 4, mode="replicate")
    for down in range(search):
        for right in range(search):
            other = padded[..., down : down + x.shape[2], right : right + x.shape[3]]
            squared = F.pad((x - other).square().mean(1, keepdim=True), (patch // 2,) * 4, mode="replicate")
            weight = (-F.avg_pool2d(squared, patch, stride=1) / h**2).exp()
            total, weights = total + weight * other, weights + weight
    return total / weights
