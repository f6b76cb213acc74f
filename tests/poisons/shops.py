"""What an attacker is handed in tests: noise as images, and a shop without a surrogate."""

from functools import partial

import numpy as np
import torch

from deconfound.poisons.workshop import Workshop
from deconfound.rng import generator
from deconfound.types import Images


def images(
    count: int, classes: int = 4, seed: int = 0, shape: tuple[int, int, int] = (1, 4, 4), *, low: int = 1
) -> Images:
    """Pixels from low to 254 (neither ink of a patch occurs by chance) and labels, all uniform."""
    rng = np.random.default_rng(seed)
    x = rng.integers(low, 255, (count, *shape)).astype(np.uint8)
    return Images(torch.from_numpy(x), torch.from_numpy(rng.integers(0, classes, count)))


def shop(data: Images, classes: int = 4, seed: int = 0) -> Workshop:
    """The clean set and the generators of a seed, as the step `poison` hands them out."""
    return Workshop(data, classes, partial(generator, seed, "poison"))
