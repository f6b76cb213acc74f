"""One seed becomes one independent generator per purpose, so that a new draw here moves none there."""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


def derive(seed: int, *purpose: str | int) -> int:
    """A 63-bit seed for a purpose, such as ("batches", "model", 3)."""
    text = "/".join(map(str, (seed, *purpose)))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def generator(seed: int, *purpose: str | int) -> torch.Generator:
    """A CPU generator: the same seed means the same draws on every device."""
    return torch.Generator().manual_seed(derive(seed, *purpose))


def numpy_generator(seed: int, *purpose: str | int) -> np.random.Generator:
    """The same for code that draws with numpy (rendering of data, resampling in statistics)."""
    return np.random.Generator(np.random.PCG64(derive(seed, *purpose)))


@contextmanager
def global_seed(rng: torch.Generator) -> Iterator[None]:
    """Draws of torch's global generators come from `rng` inside, and go on as before outside.

    For code that cannot be handed a generator: initialisation of layers, dropout.
    """
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        torch.manual_seed(int(torch.randint(2**62, (), generator=rng)))
        yield
