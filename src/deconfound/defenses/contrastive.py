"""SimCLR: a representation without labels, in which two views of one image are close and two images are not.

Chen, Kornblith, Norouzi and Hinton, "A Simple Framework for Contrastive Learning of Visual Representations", ICML 2020,
arXiv:2002.05709. Views as in the release of DBD, but without its shift of hues and its blur, and resampled linearly.
"""

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from deconfound.models.classifier import Classifier
from deconfound.rng import global_seed

LUMA = (0.299, 0.587, 0.114)  # grey value of a colour, ITU-R BT.601
ASPECT = (3 / 4, 4 / 3)  # of a crop, width over height


class Contrast:
    """Objective over images whose labels it does not look at; a network ends in the projection.

    temperature: of the loss. area: smallest part of the picture that a crop may show; flip: mirror half of the views.
    jitter: brightness, contrast and saturation are multiplied by a factor from 1 - jitter to 1 + jitter, in four views
    of five; grey: share of the views without colour.
    """

    def __init__(self, *, temperature: float, area: float, jitter: float, grey: float, flip: bool) -> None:
        self.temperature = temperature
        self.area = area
        self.jitter = jitter
        self.grey = grey
        self.flip = flip

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, *, rng: Generator) -> Tensor:
        """NT-Xent of two views of a batch, projected in one pass; scalar, nats."""
        first, second = model(torch.cat([self.view(x, rng=rng), self.view(x, rng=rng)])).chunk(2)
        return nt_xent(first, second, temperature=self.temperature)

    def view(self, x: Tensor, *, rng: Generator) -> Tensor:
        """One random view of each image (N, C, H, W) in [0, 1]."""
        x = resized_crop(x, area=self.area, flip=self.flip, rng=rng)
        return recoloured(x, jitter=self.jitter, grey=self.grey, rng=rng)


def nt_xent(first: Tensor, second: Tensor, *, temperature: float) -> Tensor:
    """Mean over all 2N projections of -log softmax at the partner, among the cosines with the 2N - 1 others; nats.

    first, second: (N, D), rows belong together. The release of DBD takes the first views alone as anchors.
    """
    count = len(first)
    z = F.normalize(torch.cat([first, second]), dim=1)
    scores = (z @ z.T / temperature).masked_fill(
        torch.eye(2 * count, dtype=torch.bool, device=z.device), -torch.inf
    )
    partner = torch.arange(2 * count, device=z.device).roll(count)
    return F.cross_entropy(scores, partner)


def projecting(network: Classifier, *, width: int = 128, rng: Generator) -> Classifier:
    """A network on the same body (shared, not copied) that ends in a projection D -> D -> width."""
    features = network.head.in_features
    with global_seed(rng):
        hidden, out = nn.Linear(features, features), nn.Linear(features, width)
    made = Classifier(nn.Sequential(network.body, hidden, nn.ReLU()), out, channels=len(network.mean))
    made.mean.copy_(network.mean)
    made.std.copy_(network.std)
    return made.to(network.mean.device)


def resized_crop(x: Tensor, *, area: float, flip: bool, rng: Generator) -> Tensor:
    """A random window of each image, drawn large again, bilinear: its area uniform from `area` to 1 of the picture, its
    aspect log-uniform from 3/4 to 4/3 and cut off at the picture, its place uniform; half of them mirrored if `flip`.
    """
    size, shape, across, down, side = torch.rand(5, len(x), generator=rng)
    size = area + (1 - area) * size
    low, high = torch.tensor(ASPECT).log()
    aspect = (low + (high - low) * shape).exp()
    width, height = (size * aspect).sqrt().clamp(max=1), (size / aspect).sqrt().clamp(max=1)
    sign = torch.where(side < 0.5, -1.0, 1.0) if flip else torch.ones_like(side)
    zero = torch.zeros_like(size)
    rows = [
        torch.stack([sign * width, zero, (2 * across - 1) * (1 - width)], dim=1),
        torch.stack([zero, height, (2 * down - 1) * (1 - height)], dim=1),
    ]
    grid = F.affine_grid(torch.stack(rows, dim=1), list(x.shape), align_corners=False).to(x.device)
    return F.grid_sample(x, grid, padding_mode="border", align_corners=False)


def recoloured(x: Tensor, *, jitter: float, grey: float, rng: Generator) -> Tensor:
    """Brightness, contrast, saturation by random factors in four images of five, then a share without colour; like x,
    in [0, 1]. Only pictures of three channels have colour.
    """
    draws = torch.rand(5, len(x), 1, 1, 1, generator=rng).to(x.device)
    factors = 1 + jitter * (2 * draws[:3] - 1)
    brightness, contrast, saturation = torch.where(draws[3] < 0.8, factors, torch.ones_like(factors))
    x = (brightness * x).clamp(0, 1)
    middle = luminance(x).mean((1, 2, 3), keepdim=True)
    x = (middle + contrast * (x - middle)).clamp(0, 1)
    if x.shape[1] != len(LUMA):
        return x
    plain = luminance(x)
    x = (plain + saturation * (x - plain)).clamp(0, 1)
    return torch.where(draws[4] < grey, luminance(x).expand_as(x), x)


def luminance(x: Tensor) -> Tensor:
    """Grey values (N, 1, H, W); the mean of the channels where they are not three."""
    if x.shape[1] != len(LUMA):
        return x.mean(1, keepdim=True)
    return (x * torch.tensor(LUMA, device=x.device).view(-1, 1, 1)).sum(1, keepdim=True)
