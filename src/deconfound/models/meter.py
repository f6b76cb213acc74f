"""What a training costs, in images through a network: a count that is the same on every machine, as seconds are not."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import torch

from deconfound.models.classifier import Classifier

_counting: ContextVar[bool] = ContextVar("counting", default=True)


@dataclass
class Meter:
    """forward: images seen without a gradient; backward: images seen with one. Copies of a watched network count
    too.
    """

    forward: int = 0
    backward: int = 0

    def watch(self, model: Classifier) -> Classifier:
        """Count what goes through the network from now on."""

        def count(_: Any, images: tuple[torch.Tensor, ...]) -> None:
            if not _counting.get():
                return
            if torch.is_grad_enabled():
                self.backward += len(images[0])
            else:
                self.forward += len(images[0])

        model.body.register_forward_pre_hook(count)
        return model

    def plain(self, images: int, epochs: int) -> float:
        """The cost in plain trainings of so many epochs on so many images; a backward pass is worth two forward."""
        return (self.forward + 3 * self.backward) / (3 * images * epochs)


@contextmanager
def uncounted() -> Iterator[None]:
    """Inside, no meter counts: for what is only watched, and changes nothing."""
    token = _counting.set(False)
    try:
        yield
    finally:
        _counting.reset(token)
