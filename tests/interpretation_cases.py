"""Cases small enough to interpret in milliseconds, with and without truth."""

from functools import partial
from typing import Any

import numpy as np
import torch
from oracle_models import CPU

from deconfound.defenses.standard import Standard, cross_entropy
from deconfound.interpretations.case import Case, Truth
from deconfound.models.classifier import Classifier
from deconfound.models.small_cnn import SmallCNN
from deconfound.recipe import Recipe
from deconfound.rng import generator, global_seed
from deconfound.training import Trainer
from deconfound.types import Images

CLASSES, SIDE = 3, 8


def pictures(count: int, seed: int = 0) -> Images:
    """Images (N, 3, 8, 8) uint8 of three classes; class k has two brighter rows."""
    rng = np.random.default_rng(seed)
    y = np.arange(count) % CLASSES
    x = rng.integers(0, 100, (count, 3, SIDE, SIDE))
    for k in range(CLASSES):
        x[y == k, :, 2 * k : 2 * k + 2] += 120
    return Images(torch.from_numpy(x.astype(np.uint8)), torch.from_numpy(y))


def network(seed: int = 0) -> Classifier:
    with global_seed(generator(seed, "init")):
        return SmallCNN(widths=(4, 6), hidden=5)((3, SIDE, SIDE), CLASSES).eval()


def trained(images: Images, purpose: str = "model", *, seed: int = 0, epochs: int = 3) -> Classifier:
    """The network after a few epochs: right on most of these images."""
    model = network(seed)
    trainer = Trainer(images, images, Recipe(epochs=epochs, batch_size=8, lr=0.05), seed, CPU)
    trainer.fit(model, cross_entropy, phase=purpose)
    return model.eval()


def truth(test: Images) -> Truth:
    """Everything that a judge may know: objects in the rows of the class, a trigger in the lower right corner."""
    mask = torch.zeros(len(test.y), SIDE, SIDE, dtype=torch.bool)
    for k in range(CLASSES):
        mask[test.y == k, 2 * k : 2 * k + 2] = True
    stamped = test.x.clone()
    stamped[:, :, -2:, -2:] = 255
    moved = (test.x.flip(3).int() + 3).clamp(0, 255).to(torch.uint8)
    style = (torch.arange(len(test.y)) // 2) % CLASSES
    return Truth(
        mask=mask,
        style=style,
        moved=moved,
        moved_style=style.roll(1),
        stamped=stamped,
        hoped=torch.full_like(test.y, 1),
        poisoned=torch.arange(48) % 6 == 0,
    )


def case(*, known: bool = True, fit: bool = True, tests: int = 24, **changes: Any) -> Case:
    """48 training images, 24 test and 24 held-out ones, and a network that was trained on the first."""
    train, test, val = pictures(48), pictures(tests, seed=1), pictures(24, seed=2)
    parts: dict[str, Any] = {
        "model": trained(train) if fit else network(),
        "defense": Standard(),
        "parts": {},
        "train": train,
        "test": test,
        "classes": CLASSES,
        "rng": partial(generator, 0),
        "val": val,
        "truth": truth(test) if known else Truth(),
        "retrained": trained,
    }
    return Case(**(parts | changes))
