"""A small convolutional network that smooths its feature maps: denoising blocks between its stages.

Xie, Wu, van der Maaten, Yuille and He, "Feature Denoising for Improving Adversarial Robustness", CVPR 2019,
arXiv:1812.03411. A block adds to the maps what an operation makes of them, through a 1x1 convolution and a batch norm
whose scale starts at zero: at first the network is the one without blocks. Non-local means are those of the authors'
code: embeddings of half the channels, products scaled by the root of their number, maps themselves averaged. Their
networks are residual ones; the bilateral filter of the paper is left out.

The method of the paper is this network under adversarial training. Weights beside the blocks start as those of
`small_cnn` with the same seed.
"""

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from deconfound.fields import Count, hyperparameters
from deconfound.models.classifier import Classifier
from deconfound.models.small_cnn import SmallCNN

Operation = Literal["softmax", "dot_product", "mean", "median", "none"]


@hyperparameters
class DenoisingCNN:
    """operation: non-local means, every position replaced by a mean of all, weighted by the `softmax` of products of
    embeddings (Gaussian) or by the products themselves (`dot_product`); the `mean` or `median` of a window around the
    position; `none` leaves the maps as they are, so that only the further weights of the block remain. embed: products
    of learnt embeddings, otherwise of the maps themselves. window: side of the window of `mean` and `median`, odd,
    pixels of the map.

    after: stages (from 1) that a block follows, after their pooling. widths, hidden, until, bias: of the network, see
    `small_cnn`. Non-local means compare all pairs of positions: memory grows with the fourth power of the map's side.
    """

    operation: Operation = "softmax"
    after: tuple[Count, ...] = Field(default=(2,), min_length=1)
    embed: bool = True
    window: Count = 3
    widths: tuple[Count, ...] = Field(default=(16, 32), min_length=1)
    hidden: Count = 64
    until: Count = 4
    bias: bool = True

    def __post_init__(self) -> None:
        stages = len(self.widths)
        if max(self.after) > stages or len(set(self.after)) < len(self.after):
            raise ValueError(f"after: expected different stages from 1 to {stages}, got {self.after}")
        if not self.window % 2:
            raise ValueError(f"window: expected an odd side, got {self.window}")

    def __call__(self, shape: tuple[int, int, int], classes: int) -> Classifier:
        """A freshly initialised network for images of `shape` (C, H, W)."""
        plain = SmallCNN(widths=self.widths, hidden=self.hidden, until=self.until, bias=self.bias)
        model = plain(shape, classes)
        layers: list[nn.Module] = []
        stage = 0
        for layer in model.body.children():
            if isinstance(layer, nn.Conv2d | nn.Flatten):  # the layer before was the last of its stage
                if stage in self.after:
                    channels = self.widths[stage - 1]
                    layers.append(Denoising(self._operation(channels), channels))
                stage += 1
            layers.append(layer)
        return Classifier(nn.Sequential(*layers), model.head, channels=shape[0])

    def _operation(self, channels: int) -> nn.Module | None:
        if self.operation in ("softmax", "dot_product"):
            return NonLocal(channels, softmax=self.operation == "softmax", embed=self.embed)
        if self.operation == "mean":
            around = self.window // 2
            return nn.AvgPool2d(self.window, stride=1, padding=around, count_include_pad=False)
        return Median(self.window) if self.operation == "median" else None


class Denoising(nn.Module):
    """h + norm(convolution(operation(h))) of maps h (N, C, H, W); without an operation h + norm(convolution(h))."""

    def __init__(self, operation: nn.Module | None, channels: int) -> None:
        from captum.attr._utils.custom_modules import Addition_Module

        super().__init__()
        self.operation = operation
        self.convolution = nn.Conv2d(channels, channels, 1, bias=False)
        self.norm = nn.BatchNorm2d(channels)
        nn.init.zeros_(self.norm.weight)
        self.sum = Addition_Module()  # relevance propagation has a rule for it, and none for a plain sum

    def forward(self, h: Tensor) -> Tensor:
        """(N, C, H, W) -> the same."""
        smooth = h if self.operation is None else self.operation(h)
        found: Tensor = self.sum(h, self.norm(self.convolution(smooth)))
        return found


class NonLocal(nn.Module):
    """Means over all positions j of h_j, weighted by f(h_i, h_j): the softmax over j of theta_i phi_j / sqrt(D), or
    theta_i phi_j / P for P positions; theta and phi are linear embeddings (of D = C / 2 channels), or h itself.
    """

    def __init__(self, channels: int, *, softmax: bool, embed: bool) -> None:
        super().__init__()
        self.softmax = softmax
        width = max(1, channels // 2)
        self.theta, self.phi = (
            nn.Conv2d(channels, width, 1, bias=False) if embed else nn.Identity() for _ in range(2)
        )
        for embedding in (self.theta, self.phi):
            if isinstance(embedding, nn.Conv2d):
                nn.init.normal_(embedding.weight, std=0.01)

    def forward(self, h: Tensor) -> Tensor:
        """(N, C, H, W) -> the same."""
        theta, phi, values = self.theta(h).flatten(2), self.phi(h).flatten(2), h.flatten(2)
        if self.softmax:
            weights = (theta.transpose(1, 2) @ phi / theta.shape[1] ** 0.5).softmax(2)  # (N, P, P)
            found: Tensor = values @ weights.transpose(1, 2)
        else:  # the products of channels first: the same sum, without P x P numbers
            found = (values @ phi.transpose(1, 2)) @ theta / theta.shape[2]
        return found.view_as(h)


class Median(nn.Module):
    """Median of each channel in a square window of odd side; beyond the edge the nearest position counts."""

    def __init__(self, window: int) -> None:
        super().__init__()
        self.window = window

    def forward(self, h: Tensor) -> Tensor:
        """(N, C, H, W) -> the same."""
        images, channels, height, width = h.shape
        padded = F.pad(h, (self.window // 2,) * 4, mode="replicate")
        windows = F.unfold(padded, self.window).view(images, channels, self.window**2, height, width)
        return torch.sort(windows, dim=2, stable=True).values[:, :, self.window**2 // 2]
