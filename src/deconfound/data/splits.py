"""Cutting a split in two, class by class: stratified, seeded, and blind to everything but its own labels."""

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from deconfound.errors import DataError
from deconfound.rng import numpy_generator
from deconfound.types import Images, Split

Indices = NDArray[np.int64]


def proportional(sizes: Indices, count: int) -> Indices:
    """How many of `count` each class gives, by largest remainder: less than one away from its exact share.

    sizes (K,) and the result are int64. Equal remainders go to the lower label.
    """
    total = int(sizes.sum())
    if not 0 <= count <= total:
        raise ValueError(f"expected a count from 0 to {total}, got {count}")
    if total == 0:
        return np.zeros_like(sizes)
    shares, remainders = np.divmod(sizes * count, total)
    first = np.argsort(-remainders, kind="stable")[: count - int(shares.sum())]
    shares[first] += 1
    return shares


def balanced(sizes: Indices, count: int) -> Indices:
    """How many of `count` each class gives so that all give the same; one that has too few gives all it has.

    sizes (K,) and the result are int64. What does not divide goes to the lower labels.
    """
    total = int(sizes.sum())
    if not 0 <= count <= total:
        raise ValueError(f"expected a count from 0 to {total}, got {count}")
    shares = np.zeros_like(sizes)
    while left := count - int(shares.sum()):
        open_ = np.flatnonzero(shares < sizes)
        each = left // len(open_)
        if each:
            shares[open_] = np.minimum(sizes[open_], shares[open_] + each)
        else:
            shares[open_[:left]] += 1
    return shares


def _draw(
    y: Tensor, count: int, share: Callable[[Indices, int], Indices], seed: int, purpose: str
) -> tuple[Tensor, Tensor]:
    """Indices that stay and indices that are drawn, both sorted; a generator per class."""
    labels = y.numpy()
    classes, sizes = np.unique(labels, return_counts=True)
    drawn = np.zeros(len(labels), bool)
    for label, number in zip(classes, share(sizes.astype(np.int64), count), strict=True):
        members = np.flatnonzero(labels == label)
        drawn[numpy_generator(seed, purpose, int(label)).permutation(members)[:number]] = True
    return torch.from_numpy(np.flatnonzero(~drawn)), torch.from_numpy(np.flatnonzero(drawn))


def stratified(y: Tensor, held: int | float, *, seed: int, purpose: str) -> tuple[Tensor, Tensor]:
    """Indices (kept, held), int64 and sorted, that part the labels y (N,) with the proportions of y in both.

    held: how many to hold back (int), or which fraction (float in [0, 1], rounded to the nearest count).
    Class counts are exact by largest remainder. Draws for different purposes are independent.
    """
    count = round(held * len(y)) if isinstance(held, float) else held
    return _draw(y, count, proportional, seed, purpose)


def take(split: Split, indices: Tensor) -> Split:
    """The examples of a split at the indices, in their order; ground truth in `extra` goes along."""
    chosen = indices.numpy()
    images = Images(split.images.x[indices], split.images.y[indices])
    return Split(images, {name: array[chosen] for name, array in split.extra.items()})


def cut_val(train: Split, fraction: float, seed: int) -> tuple[Split, Split]:
    """Part a training split into train and val, stratified; DataError if val or a class is left empty."""
    kept, held = stratified(train.images.y, float(fraction), seed=seed, purpose="val")
    y = train.images.y
    lost = sorted(set(y.tolist()) - set(y[kept].tolist()))
    if lost or not len(held):
        what = f"no example of the classes {lost} in train" if lost else "an empty val split"
        raise DataError(
            f"a val fraction of {fraction:g} of {len(y)} training images leaves {what}; "
            "change it or add images"
        )
    return take(train, kept), take(train, held)


def limit(split: Split, count: int | None, seed: int) -> Split:
    """At most `count` examples in all, equally many of each class where there are enough, in their order.

    A slice for quick runs; with the same seed a larger count only adds examples. None: all of them.
    """
    if count is None or count >= len(split.images.y):
        return split
    _, drawn = _draw(split.images.y, count, balanced, seed, "limit")
    return take(split, drawn)
