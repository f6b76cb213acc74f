"""What poisons with networks of their own share: images to images, a batch at a time, and back to 8 bits."""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from deconfound.optim import Adam
from deconfound.optimisers import load_optimizer_tensors, optimizer_tensors, under
from deconfound.poisons.triggers import pixels

PART = 256  # images at a time, where no training is under way


def by_parts(make: Callable[..., Tensor], *images: Tensor, size: int = PART) -> Tensor:
    """make of images (N, C, H, W) to images like them, `size` at a time: memory does not grow with N."""
    if not len(images[0]):
        return images[0].clone()
    parts = zip(*(torch.split(part, size) for part in images), strict=True)
    return torch.cat([make(*part) for part in parts])


def within(x: Tensor, z: Tensor, eps: float) -> Tensor:
    """Images z in [0, 1] as uint8, no further than eps (in [0, 1]) from x (N, C, H, W) uint8: the bound in grey levels
    is the whole number below 255 eps, so that rounding never leaves the ball.
    """
    bound = int(255 * eps + 1e-6)
    delta = pixels(255 * z).to(torch.int16) - x.to(torch.int16)
    return (x.to(torch.int16) + delta.clamp(-bound, bound)).to(torch.uint8)


class EncoderDecoder(nn.Module):
    """Images (N, C, H, W), normalised, to maps (N, out, H, W) in (0, 1): tanh / 2 + 1 / 2 of the last layer.

    levels of two 3x3 convolutions with batch norm and ReLU, a 2x2 max-pool on the way down and bilinear interpolation
    on the way up; base channels at the first level, twice as many at each further one.
    """

    def __init__(self, channels: int, out: int, *, levels: int, base: int) -> None:
        super().__init__()
        widths = [base * 2**level for level in range(levels)]
        self.down = nn.ModuleList(
            _block(before, width) for before, width in zip([channels, *widths], widths, strict=False)
        )
        self.middle = _block(widths[-1], widths[-1])
        self.up = nn.ModuleList(
            _block(width, after)
            for width, after in zip(widths[::-1], [*widths[-2::-1], widths[0]], strict=True)
        )
        self.last = nn.Conv2d(widths[0], out, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """(N, out, H, W)."""
        sizes = []
        for block in self.down:
            x = block(x)
            sizes.append(x.shape[-2:])
            x = F.max_pool2d(x, 2)
        x = self.middle(x)
        for block, size in zip(self.up, reversed(sizes), strict=True):
            x = block(F.interpolate(x, size=tuple(size), mode="bilinear", align_corners=False))
        return torch.tanh(self.last(x)) / 2 + 0.5


class Apprentice:
    """A network that learns beside the classifier of the training loop: its gradients arise in the loop's backward
    pass, its own Adam takes the step.
    """

    def __init__(self, network: nn.Module, *, lr: float, betas: tuple[float, float]) -> None:
        self.network = network
        self.optimizer = Adam(network.parameters(), lr=lr, betas=betas)

    def step(self) -> None:
        """Move along the gradient of this step alone."""
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)

    def state(self) -> dict[str, Tensor]:
        """Network and optimiser."""
        tensors = {f"network/{name}": value for name, value in self.network.state_dict().items()}
        return tensors | {f"optimizer/{name}": t for name, t in optimizer_tensors(self.optimizer).items()}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """The inverse of `state`."""
        self.network.load_state_dict(under(state, "network/"))
        load_optimizer_tensors(self.optimizer, under(state, "optimizer/"))


def _block(before: int, after: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for width in (before, after):
        layers += [nn.Conv2d(width, after, 3, padding=1, bias=False), nn.BatchNorm2d(after), nn.ReLU()]
    return nn.Sequential(*layers)
