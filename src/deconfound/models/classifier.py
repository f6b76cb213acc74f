"""Classifier = normalise -> features -> head: the one shape of a model here.

Normalisation is inside, so that every attack and trigger works on pixels in [0, 1].
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

WIDE = 16  # pixels: pictures from this side on go through a network on a CPU faster with the channels last


class Classifier(nn.Module):
    """Logits of images in [0, 1]; the representation and the last linear layer are public.

    body: normalised images (N, C, H, W) -> features (N, D). head: nn.Linear (D -> K).
    mean, std: per channel (C,), buffers that travel with the weights.
    """

    head: nn.Linear
    mean: Tensor
    std: Tensor

    def __init__(self, body: nn.Module, head: nn.Linear, *, channels: int) -> None:
        super().__init__()
        self.body = body
        self.head = head
        self.register_buffer("mean", torch.zeros(channels))
        self.register_buffer("std", torch.ones(channels))

    def features(self, x: Tensor) -> Tensor:
        """Input of the last linear layer, (N, D)."""
        z: Tensor = self.body(in_order((x - self.mean.view(-1, 1, 1)) / self.std.view(-1, 1, 1)))
        return z

    def both(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Features (N, D) and logits (N, K) of one forward pass."""
        features = self.features(x)
        return features, self.head(features)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (N, K)."""
        logits: Tensor = self.head(self.features(x))
        return logits

    @torch.no_grad()
    def normalise_like(self, x: Tensor) -> None:
        """Take mean and standard deviation per channel from training images (N, C, H, W) uint8."""
        pixels = x.double().div(255)
        self.mean.copy_(pixels.mean((0, 2, 3)))
        self.std.copy_(pixels.std((0, 2, 3)).clamp_min(1e-2))


def in_order(x: Tensor) -> Tensor:
    """The same images (N, C, H, W) in the memory order in which their device convolves and pools them fastest: a third
    of a training on 32 x 32 pixels is pooling in the other one.
    """
    last = x.dim() == 4 and _channels_last(x.device, x.shape[2:])
    return x.contiguous(memory_format=torch.channels_last) if last else x


def placed(model: Classifier, device: torch.device, *, shape: Sequence[int]) -> Classifier:
    """The model on a device, its weights in the memory order of its images (C, H, W). Where these have one channel,
    both orders of theirs are the same, and that of the weights decides.
    """
    last = _channels_last(device, shape[1:])
    return model.to(device, memory_format=torch.channels_last) if last else model.to(device)  # type: ignore[call-overload]


def _channels_last(device: torch.device, sides: Sequence[int]) -> bool:
    return device.type == "cpu" and min(sides, default=0) >= WIDE


@contextmanager
def frozen(module: nn.Module) -> Iterator[None]:
    """Inside, the parameters ask for no gradient; modes are left alone."""
    wanted = [(parameter, parameter.requires_grad) for parameter in module.parameters()]
    module.requires_grad_(False)
    try:
        yield
    finally:
        for parameter, requires in wanted:
            parameter.requires_grad_(requires)


@contextmanager
def eval_mode(model: nn.Module) -> Iterator[None]:
    """Evaluation mode with frozen parameters; every module as it was afterwards."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        with frozen(model):
            yield
    finally:
        for module, training in modes:
            module.training = training


@torch.no_grad()
def predict(model: nn.Module, x: Tensor, *, batch_size: int = 512) -> Tensor:
    """Logits (N, K) on the CPU of images (N, C, H, W), uint8 or float in [0, 1], in evaluation mode."""
    device = next((parameter.device for parameter in model.parameters()), x.device)
    with eval_mode(model):
        chunks = [model(to_unit(part.to(device))).cpu() for part in torch.split(x, batch_size)]
    return torch.cat(chunks) if chunks else torch.empty(0, 0)


def to_unit(x: Tensor) -> Tensor:
    """Images as float32 in [0, 1]; uint8 is divided by 255, floats pass."""
    return x.float().div(255) if x.dtype == torch.uint8 else x
