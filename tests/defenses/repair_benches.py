"""A bench with a network to repair: two blocks of convolutions, and clean images that are no training images."""

import copy
import dataclasses
import functools
from pathlib import Path

from oracle_models import CPU, tiny_images, workbench

from deconfound.defenses.standard import cross_entropy
from deconfound.defenses.workbench import Workbench
from deconfound.models.classifier import Classifier
from deconfound.models.small_cnn import SmallCNN
from deconfound.recipe import Recipe
from deconfound.rng import generator, global_seed
from deconfound.training import Trainer
from deconfound.types import Images

RECIPE = Recipe(epochs=2, batch_size=8, crop=1, average=0.9, drop_last=True, optimizer="adam")
CLEAN = 24


def convolutional(seed: int = 0) -> Classifier:
    """Two blocks of convolution and batch norm, trained for a moment on 1 x 4 x 4 images; a fresh copy."""
    return copy.deepcopy(_trained(seed))


@functools.cache
def _trained(seed: int) -> Classifier:
    with global_seed(generator(seed, "start")):
        model = SmallCNN(widths=(3, 4), hidden=5, until=2)((1, 4, 4), 3)
    images = tiny_images(48, seed=5 + seed)
    recipe = Recipe(epochs=8, batch_size=8, lr=0.02)
    Trainer(images, images, recipe, seed, CPU).fit(model, cross_entropy)
    return model


def bench(
    seed: int = 0, scratch: Path | None = None, recipe: Recipe = RECIPE, val: Images | None = None
) -> Workbench:
    """A bench with a network to repair and 24 clean images."""
    made, _ = workbench(recipe, seed=seed)
    val = tiny_images(CLEAN, seed=7) if val is None else val
    trainer = Trainer(made.data, val, recipe, seed, CPU, scratch=scratch)
    return dataclasses.replace(made, val=val, fit=trainer.fit, start=convolutional(seed))
