"""What an attacker is handed in tests: noise as images and a shop without a surrogate; what every trigger obeys."""

from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch

from deconfound.poisons.workshop import Poisoned, Workshop
from deconfound.rng import generator
from deconfound.types import Images


def images(
    count: int, classes: int = 4, seed: int = 0, shape: tuple[int, int, int] = (1, 4, 4), *, low: int = 1
) -> Images:
    """Pixels from low to 254 (neither ink of a patch occurs by chance) and labels, all uniform."""
    rng = np.random.default_rng(seed)
    x = rng.integers(low, 255, (count, *shape)).astype(np.uint8)
    return Images(torch.from_numpy(x), torch.from_numpy(rng.integers(0, classes, count)))


def flat(*greys: int, shape: tuple[int, int, int] = (1, 4, 4)) -> torch.Tensor:
    """One image of a single grey value for each, (N, C, H, W) uint8."""
    return torch.tensor(greys, dtype=torch.uint8)[:, None, None, None].expand(-1, *shape).contiguous()


def shop(data: Images, classes: int = 4, seed: int = 0) -> Workshop:
    """The clean set and the generators of a seed, as the step `poison` hands them out."""
    return Workshop(data, classes, partial(generator, seed, "poison"))


def assert_fixed_trigger(attacker: Any, data: Images, classes: int = 4, *, drawn: bool = True) -> Poisoned:
    """The stamp is a function of one image, decided by the seed and by nothing else; only chosen images are edited.

    drawn: the trigger itself depends on the seed.
    """
    before = data.x.clone()
    done: Poisoned = attacker(shop(data, classes))
    stamp = done.planting.stamp
    stamped = stamp(data.x)
    assert stamped.dtype == torch.uint8 and stamped.shape == data.x.shape
    assert torch.equal(data.x, before)
    assert torch.equal(torch.cat([stamp(data.x[i : i + 1]) for i in range(len(data.x))]), stamped)
    assert len(stamp(data.x[:0])) == 0
    untouched = ~(done.mask | done.cover)
    assert torch.equal(done.images.x[untouched], data.x[untouched])
    assert torch.equal(done.images.y[~done.mask], data.y[~done.mask])

    torch.manual_seed(99)
    again = attacker(shop(data, classes))
    for left, right in zip((*done.images, done.mask, done.cover), (*again.images, *again[1:3]), strict=True):
        assert torch.equal(left, right)
    rarer = replace(attacker, rate=attacker.rate / 2, cover=0.0)(shop(data, classes))
    assert int(rarer.mask.sum()) < int(done.mask.sum())
    assert torch.equal(rarer.planting.stamp(data.x), stamped)
    other = attacker(shop(data, classes, seed=1)).planting.stamp(data.x)
    assert torch.equal(other, stamped) != drawn
    if drawn:
        assert done.planting.arrays.keys() == rarer.planting.arrays.keys() != set()
    return done
