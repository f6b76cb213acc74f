"""What the defenses share that repair a trained network with a few clean images.

The network is a copy of the one that the run starts from, the clean images are `val`, and whatever is decided by
accuracy is decided on a half of them that nothing was fitted to. The weights of the start are not needed afterwards.
"""

import copy
from collections.abc import Iterable
from dataclasses import replace
from typing import Literal

from deconfound.data.splits import stratified
from deconfound.defenses.workbench import Workbench
from deconfound.errors import UserError
from deconfound.models.classifier import Classifier, predict
from deconfound.recipe import Recipe
from deconfound.types import Images

FEWEST = 4  # clean images: two in each half, since batch norms cannot train on one


def suspect(bench: Workbench) -> Classifier:
    """A copy of the network to repair, in evaluation mode; UserError where the run starts from none."""
    if bench.start is None:
        raise UserError("defense: expected a trained network to repair (starts_from), got none")
    return copy.deepcopy(bench.start).eval()


def clean_images(bench: Workbench) -> Images:
    """The clean images that a repair may use; UserError if there are too few."""
    if len(bench.val.y) < FEWEST:
        raise UserError(
            f"val: expected at least {FEWEST} clean images to repair a network with, got {len(bench.val.y)};"
            " set `val` of the data set to a larger fraction"
        )
    return bench.val


def halves(bench: Workbench) -> tuple[Images, Images]:
    """Clean images to fit to, and clean images to decide on: alike in classes, the same for every repair of a seed."""
    images = clean_images(bench)
    seed = int(bench.rng("split").initial_seed())
    return tuple(  # type: ignore[return-value]
        Images(images.x[part], images.y[part])
        for part in stratified(images.y.cpu(), 0.5, seed=seed, purpose="clean halves")
    )


def accuracy(model: Classifier, images: Images) -> float:
    """Fraction of images (N, C, H, W) uint8 that the model gives their label, in evaluation mode."""
    return float((predict(model, images.x).argmax(1) == images.y.cpu()).double().mean())


def gently(
    recipe: Recipe,
    *,
    epochs: int,
    lr: float,
    weight_decay: float,
    schedule: Literal["constant", "steps", "cosine", "cyclic"] = "cosine",
    milestones: tuple[float, ...] = (),
) -> Recipe:
    """SGD with momentum 0.9, with the batches and augmentations of the run's recipe and nothing else of it."""
    return replace(
        recipe,
        epochs=epochs,
        lr=lr,
        weight_decay=weight_decay,
        schedule=schedule,
        milestones=milestones,
        optimizer="sgd",
        momentum=0.9,
        average=0.0,
        drop_last=False,
    )


def curve(points: Iterable[tuple[float, float]]) -> str:
    """Accuracies along a setting as one remark, such as `0:0.9357 0.05:0.9286`."""
    return " ".join(f"{place:g}:{value:.4f}" for place, value in points)
