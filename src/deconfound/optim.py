"""SGD, Adam and AdamW of torch, as they are, without its compiler.

torch wraps methods of its optimisers so that its compiler may see them, and loads that compiler, with sympy, when the
first one is built: two seconds of CPU in every job, for something that nothing here uses. These classes hold the same
methods unwrapped; the arithmetic is that of torch, to the bit.
"""

import inspect
from typing import Any

import torch


class _Eager(torch.optim.Optimizer):
    """The methods of every optimiser that torch wraps."""

    add_param_group = inspect.unwrap(torch.optim.Optimizer.add_param_group)
    zero_grad = inspect.unwrap(torch.optim.Optimizer.zero_grad)
    state_dict = inspect.unwrap(torch.optim.Optimizer.state_dict)
    load_state_dict = inspect.unwrap(torch.optim.Optimizer.load_state_dict)


def _step(kind: type[torch.optim.Optimizer]) -> Any:
    """The step of an optimiser of torch; nothing in it is recorded for a gradient."""
    return torch.no_grad()(inspect.unwrap(kind.step))


class SGD(_Eager, torch.optim.SGD):
    """torch.optim.SGD."""

    step = _step(torch.optim.SGD)


class Adam(_Eager, torch.optim.Adam):
    """torch.optim.Adam."""

    step = _step(torch.optim.Adam)


class AdamW(_Eager, torch.optim.AdamW):
    """torch.optim.AdamW."""

    step = _step(torch.optim.AdamW)
