"""A training that is killed in the middle, as a signal would."""

from collections.abc import Callable
from typing import Any

import pytest
from torch import Tensor

from deconfound import training

NEVER = 1000  # a step that no training of the tests reaches


class Killed(BaseException):
    """Nothing in the program can catch it, like a signal."""


def killed_at(step: int, run: Callable[[], object], monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Run a training that stores its state after every batch, and kill it before its batch number `step`; with NEVER it
    comes to its end, as one that is killed before it could hand anything back. The batches of this training and of
    later ones, in a list of one that keeps counting.
    """
    monkeypatch.setattr(training, "SAVE_EVERY", -1.0)
    real, batches = training.augment, [0]

    def killing(*args: Any, **options: Any) -> Tensor:
        batches[0] += 1
        if batches[0] == step:
            raise Killed
        return real(*args, **options)

    monkeypatch.setattr(training, "augment", killing)
    if step == NEVER:
        run()
    else:
        with pytest.raises(Killed):
            run()
    return batches
