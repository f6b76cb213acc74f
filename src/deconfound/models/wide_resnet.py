"""Wide residual networks for small images: WRN-depth-width, the usual network of papers on CIFAR-10. timm has none.

Zagoruyko & Komodakis, "Wide Residual Networks", BMVC 2016, arXiv:1605.07146: blocks with the activation first, three
groups of 16, 32 and 64 channels times the width. WRN-16-1 is CBD's network, WRN-34-10 that of much adversarial
training.
"""

import math
from typing import Annotated

import torch
from pydantic import Field, field_validator
from torch import Tensor, nn

from deconfound.fields import Count, Fraction01, hyperparameters
from deconfound.models.classifier import Classifier

GROUPS = ((16, 1), (32, 2), (64, 2))  # channels before widening, stride


@hyperparameters
class WideResNet:
    """depth: layers with weights, 6 n + 4 for n blocks per group. width: factor on the channels. dropout: between the
    two convolutions of a block. bias: whether the head has one.
    """

    depth: Count = 16
    width: Count = 1
    dropout: Annotated[Fraction01, Field(lt=1)] = 0.0
    bias: bool = True

    @field_validator("depth")
    @classmethod
    def _blocks(cls, depth: int) -> int:
        if depth < 10 or (depth - 4) % 6:
            raise ValueError(f"expected 10, 16, 22, 28, 34 or another 6 n + 4, got {depth}")
        return depth

    def __call__(self, shape: tuple[int, int, int], classes: int) -> Classifier:
        """A freshly initialised network for images of `shape` (C, H, W)."""
        layers: list[nn.Module] = [nn.Conv2d(shape[0], 16, 3, padding=1, bias=False)]
        channels = 16
        for base, first in GROUPS:
            for block in range((self.depth - 4) // 6):
                out, stride = base * self.width, first if block == 0 else 1
                layers.append(_Block(channels, out, stride, self.dropout))
                channels = out
        layers += [nn.BatchNorm2d(channels), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
        body = nn.Sequential(*layers)
        _initialise(body)
        head = nn.Linear(channels, classes, bias=self.bias)
        if self.bias:
            nn.init.zeros_(head.bias)
        return Classifier(body, head, channels=shape[0])


class _Block(nn.Module):
    """Batch norm, ReLU and convolution, twice, beside a shortcut; where the shape changes, the shortcut starts after
    the first activation.
    """

    def __init__(self, channels: int, out: int, stride: int, dropout: float) -> None:
        super().__init__()
        self.norm1 = nn.BatchNorm2d(channels)
        self.conv1 = nn.Conv2d(channels, out, 3, stride=stride, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(out)
        self.dropout = nn.Dropout(dropout)
        self.conv2 = nn.Conv2d(out, out, 3, padding=1, bias=False)
        changes = channels != out or stride != 1
        self.shortcut = nn.Conv2d(channels, out, 1, stride=stride, bias=False) if changes else None

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C', H', W')."""
        active = torch.relu(self.norm1(x))
        found = self.conv1(active)
        found = self.conv2(self.dropout(torch.relu(self.norm2(found))))
        total: Tensor = found + (x if self.shortcut is None else self.shortcut(active))
        return total


def _initialise(body: nn.Module) -> None:
    """Normal weights with variance 2 / (k * k * out) (He et al. 2015, in the mode that looks at the outputs)."""
    for module in body.modules():
        if isinstance(module, nn.Conv2d):
            fan = module.kernel_size[0] * module.kernel_size[1] * module.out_channels
            nn.init.normal_(module.weight, 0, math.sqrt(2 / fan))
