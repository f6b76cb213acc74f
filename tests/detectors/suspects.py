"""Networks whose representation is the picture itself, and evidence about them."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from deconfound.detectors.evidence import Evidence
from deconfound.models.classifier import Classifier
from deconfound.rng import generator
from deconfound.types import Images


def linear(weight: Sequence[Sequence[float]], bias: Sequence[float]) -> Classifier:
    """Features are the pixels of a grey picture in [0, 1], row by row; weight (K, D) and bias (K,) of the head."""
    rows = torch.tensor(weight)
    head = nn.Linear(rows.shape[1], rows.shape[0])
    head.weight.data, head.bias.data = rows, torch.tensor(bias)
    return Classifier(nn.Flatten(), head, channels=1).eval()


def identity(width: int, classes: int) -> Classifier:
    """Features are the pixels; the head does not matter."""
    return linear([[0.0] * width] * classes, [0.0] * classes)


def pictures(rows: Tensor, y: Sequence[int] | Tensor) -> Images:
    """Rows (N, D) of whole numbers from 0 to 255 as pictures (N, 1, 1, D) with labels."""
    assert rows.min() >= 0 and rows.max() <= 255
    return Images(rows.round().to(torch.uint8)[:, None, None, :], torch.as_tensor(y, dtype=torch.int64))


def nothing(width: int) -> Images:
    """No pictures."""
    return Images(torch.zeros(0, 1, 1, width, dtype=torch.uint8), torch.zeros(0, dtype=torch.int64))


def evidence(model: Classifier, data: Images, val: Images | None = None, seed: int = 0) -> Evidence:
    """What a detector is handed."""
    nobody = Images(data.x[:0], data.y[:0])
    return Evidence(model, data, nobody if val is None else val, lambda purpose: generator(seed, purpose))


def auroc(scores: Tensor, mask: Tensor) -> float:
    """P(score of a masked one > score of another), ties count half."""
    difference = scores[mask][:, None] - scores[~mask][None, :]
    return float((difference > 0).double().mean() + 0.5 * (difference == 0).double().mean())


def noise(count: int, width: int, seed: int = 0, *, centre: float = 100.0, spread: float = 10.0) -> Tensor:
    """Gaussian rows (count, width) of pixels."""
    rng = torch.Generator().manual_seed(seed)
    return (centre + spread * torch.randn(count, width, generator=rng)).clamp(0, 255)


SIDE, CLASSES, TARGET, SHORTCUT = 4, 5, 2, 15  # of the network with a shortcut


def shortcut() -> Classifier:
    """Class k reads three pixels of its own; class 2 also reads the last pixel, ten times as loud."""
    weight = torch.zeros(CLASSES, SIDE * SIDE)
    for label in range(CLASSES):
        weight[label, 3 * label : 3 * label + 3] = 8.0
    weight[TARGET, SHORTCUT] = 80.0
    return linear(weight.tolist(), [0.0] * CLASSES)


def dark(count: int = 24) -> Tensor:
    """Noise (count, 1, 4, 4), with the last pixel black."""
    x = torch.rand(count, 1, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    x[..., -1, -1] = 0
    return x
