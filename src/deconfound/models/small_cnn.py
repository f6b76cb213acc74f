"""A small convolutional network for small images: blocks of convolution, batch norm, ReLU, pooling."""

from pydantic import Field
from torch import nn

from deconfound.fields import Count, hyperparameters
from deconfound.models.classifier import Classifier


@hyperparameters
class SmallCNN:
    """widths: channels of each 3x3 block, a 2x2 max-pool after each while the picture is larger than `until`.

    hidden: width of the representation (the linear layer before the head). bias: whether the head has one.
    """

    widths: tuple[Count, ...] = Field(default=(16, 32), min_length=1)
    hidden: Count = 64
    until: Count = 4
    bias: bool = True

    def __call__(self, shape: tuple[int, int, int], classes: int) -> Classifier:
        """A freshly initialised network for images of `shape` (C, H, W)."""
        channels, height, width = shape
        layers: list[nn.Module] = []
        for out in self.widths:
            layers += [nn.Conv2d(channels, out, 3, padding=1, bias=False), nn.BatchNorm2d(out), nn.ReLU()]
            if min(height, width) > self.until:
                layers.append(nn.MaxPool2d(2))
                height, width = height // 2, width // 2
            channels = out
        layers += [nn.Flatten(), nn.Linear(channels * height * width, self.hidden, bias=False)]
        layers += [nn.BatchNorm1d(self.hidden), nn.ReLU()]
        head = nn.Linear(self.hidden, classes, bias=self.bias)
        return Classifier(nn.Sequential(*layers), head, channels=shape[0])
