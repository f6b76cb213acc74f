"""What an attacker is handed who trains a network of their own: tiny images, a tiny network, the training loop."""

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from oracle_models import same, small_network, tiny_images

from deconfound import training
from deconfound.poisons.backdoor import Backdoor
from deconfound.poisons.workshop import Poisoned, Workshop
from deconfound.recipe import Recipe
from deconfound.rng import generator
from deconfound.training import Trainer
from deconfound.types import Images

CPU = torch.device("cpu")
CLASSES = 3
BATCHES = 4  # of 40 images in batches of 10


def trainer(data: Images, seed: int = 0, scratch: Path | None = None) -> Trainer:
    """The loop over `data`, without held-out images."""
    recipe = Recipe(epochs=2, batch_size=10)
    return Trainer(data, Images(data.x[:0], data.y[:0]), recipe, seed, CPU, scratch=scratch)


def full_shop(data: Images | None = None, seed: int = 0, *, loop: Trainer | None = None) -> Workshop:
    """A workshop with a surrogate, as the step `poison` hands it out where the block asks for one."""
    data = tiny_images(40) if data is None else data
    loop = loop or trainer(data, seed)
    network = partial(small_network, seed=seed)
    return Workshop(data, CLASSES, partial(generator, seed, "poison"), network, loop.recipe, loop.fit)


def made(done: Poisoned) -> list[Any]:
    """All that a poison leaves behind, tests included."""
    planting, held = done.planting, tiny_images(9, seed=1).x
    crossed = planting.cross(held) if planting.cross else None
    return [tuple(done.images), done.mask, done.cover, planting.stamp(held), crossed, dict(planting.arrays)]


def assert_the_seed_decides(poison: Backdoor) -> None:
    """The same bytes for the same seed, whatever torch's own generator does; others for another."""
    runs = []
    for seed, elsewhere in ((0, 1), (0, 2), (1, 1)):
        torch.manual_seed(elsewhere)
        runs.append(made(poison(full_shop(seed=seed))))
    assert same(runs[0], runs[1])
    assert not same(runs[0], runs[2])


def assert_a_killed_run_goes_on(
    poison: Backdoor, steps: int, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed after so many steps and started again, it leaves the bytes of an uninterrupted run, and takes fewer steps
    than that.
    """
    augment, taken = training.augment, 0

    def counted(*args: Any, **options: Any) -> torch.Tensor:
        nonlocal taken
        if taken == stop:
            raise KeyboardInterrupt
        taken += 1
        return augment(*args, **options)

    monkeypatch.setattr(training, "augment", counted)
    monkeypatch.setattr(training, "SAVE_EVERY", 0.0)
    data, stop = tiny_images(40), -1
    whole = made(poison(full_shop(data, loop=trainer(data))))
    in_all, taken, stop = taken, 0, steps
    with pytest.raises(KeyboardInterrupt):
        poison(full_shop(data, loop=trainer(data, scratch=folder)))
    taken, stop = 0, -1
    again = made(poison(full_shop(data, loop=trainer(data, scratch=folder))))
    assert same(again, whole) and taken == in_all - steps // BATCHES * BATCHES
