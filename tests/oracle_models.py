"""Models whose right answer is known, and images small enough to train on in milliseconds."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from deconfound.defenses.workbench import Workbench
from deconfound.models.classifier import Classifier
from deconfound.recipe import Recipe
from deconfound.rng import generator, global_seed
from deconfound.storage import write_npz
from deconfound.training import Trainer
from deconfound.types import Images

CPU = torch.device("cpu")
DUAL = {
    "linf": 1,
    "l2": 2,
    "l1": float("inf"),
}  # a step of size eps moves the margin by eps * |w| in the dual norm
SIDE = 4  # pixels of a side of the tiny images
CLASSES = 3


class Linear(nn.Module):
    """Logits (-m, m) with margin m = <w, x> - 1/2: the worst case is exact."""

    def __init__(self, w: Tensor) -> None:
        super().__init__()
        self.w = nn.Parameter(w)

    def margin(self, x: Tensor) -> Tensor:
        """(N,): positive where the model says class 1."""
        return x.flatten(1) @ self.w - 0.5

    def forward(self, x: Tensor) -> Tensor:
        m = self.margin(x)
        return torch.stack([-m, m], 1)


def linear_problem() -> tuple[Linear, Tensor, Tensor]:
    """A linear model, 64 images far from 0 and 1 (the box stays out of it), and the model's own labels."""
    rng = torch.Generator().manual_seed(0)
    model = Linear(torch.rand(12, generator=rng) / 6)
    x = torch.rand(64, 3, 2, 2, generator=rng) * 0.5 + 0.25
    return model, x, (model.margin(x) > 0).long()


def small_network(purpose: str = "model", seed: int = 0, *, dropout: float = 0.2) -> Classifier:
    """Batch norm and dropout on 1 x 4 x 4 images: everything that a careless loop would disturb."""
    with global_seed(generator(seed, "init", purpose)):
        body = nn.Sequential(
            nn.Flatten(), nn.Linear(SIDE * SIDE, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(dropout)
        )
        return Classifier(body, nn.Linear(8, CLASSES), channels=1)


def tiny_images(count: int = 30, seed: int = 0) -> Images:
    """Images (N, 1, 4, 4) uint8 of three balanced classes; class k has a brighter row k."""
    rng = np.random.default_rng(seed)
    y = np.arange(count) % CLASSES
    x = rng.integers(0, 120, (count, 1, SIDE, SIDE))
    x[np.arange(count), 0, y] += 100
    return Images(torch.from_numpy(x.astype(np.uint8)), torch.from_numpy(y))


def workbench(
    recipe: Recipe,
    *,
    data: Images | None = None,
    seed: int = 0,
    scratch: Path | None = None,
    network: Callable[[str], Classifier] | None = None,
) -> tuple[Workbench, Trainer]:
    """A bench over tiny images, and the loop behind its `fit`."""
    data = tiny_images() if data is None else data
    trainer = Trainer(data, tiny_images(9, seed=1), recipe, seed, CPU, scratch=scratch)
    bench = Workbench(
        data=data,
        val=trainer.val,
        recipe=recipe,
        network=network or (lambda purpose: small_network(purpose, seed)),
        rng=lambda purpose: generator(seed, purpose),
        fit=trainer.fit,
    )
    return bench, trainer


def write_images(path: Path, images: Images, **extra: Any) -> Path:
    """A split as the steps read it; class names are `0`, `1`, ..."""
    classes = np.array([str(label) for label in range(int(images.y.max()) + 1)])
    write_npz(path, {"x": images.x.numpy(), "y": images.y.numpy(), "classes": classes} | extra, about={})
    return path


def snapshot(model: nn.Module) -> dict[str, Any]:
    """All that a call could change in a model: weights, buffers, modes, requires_grad, gradients."""
    tensors = {f"tensor {name}": value.clone() for name, value in model.state_dict().items()}
    modes = {f"mode {name}": module.training for name, module in model.named_modules()}
    wants = {f"wants {name}": value.requires_grad for name, value in model.named_parameters()}
    grads = {
        f"grad {name}": None if value.grad is None else value.grad.clone()
        for name, value in model.named_parameters()
    }
    return tensors | modes | wants | grads


def same(left: Any, right: Any) -> bool:
    """Equal to the bit, through dictionaries, sequences, arrays and tensors."""
    if isinstance(left, dict):
        return left.keys() == right.keys() and all(same(left[key], right[key]) for key in left)
    if isinstance(left, list | tuple):
        return len(left) == len(right) and all(map(same, left, right))
    if isinstance(left, np.ndarray):
        return left.dtype == right.dtype and np.array_equal(left, right)
    if isinstance(left, Tensor):
        return isinstance(right, Tensor) and left.dtype == right.dtype and torch.equal(left, right)
    return bool(left == right)
