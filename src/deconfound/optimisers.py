"""Batches, optimisers, and their state as named tensors (so that it is stored without pickle)."""

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from deconfound.optim import SGD, Adam, AdamW
from deconfound.recipe import Recipe


def batches(count: int, size: int, *, drop_last: bool = False) -> list[slice]:
    """Consecutive slices that cover `count` examples; a last batch of one joins its neighbour (batch norm).

    drop_last: without the last one, if it is smaller than `size` and not the only one.
    """
    if drop_last and count > size:
        count -= count % size
    starts = list(range(0, count, size))
    if len(starts) > 1 and count - starts[-1] == 1:
        starts.pop()
    return [slice(start, stop) for start, stop in zip(starts, [*starts[1:], count], strict=True)]


def make_optimizer(recipe: Recipe, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
    """The optimiser of a recipe."""
    if recipe.optimizer == "sgd":
        return SGD(
            parameters,
            lr=recipe.lr,
            momentum=recipe.momentum,
            nesterov=recipe.nesterov and recipe.momentum > 0,
            weight_decay=recipe.weight_decay,
        )
    kind = Adam if recipe.optimizer == "adam" else AdamW
    return kind(parameters, lr=recipe.lr, weight_decay=recipe.weight_decay)


def pace(optimizer: torch.optim.Optimizer, recipe: Recipe, fraction: float) -> None:
    """Set learning rate and momentum to those of a recipe at a fraction of all steps in [0, 1)."""
    for group in optimizer.param_groups:
        group["lr"] = recipe.lr_at(fraction)
        if "momentum" in group:
            group["momentum"] = recipe.momentum_at(fraction)


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Momenta, step counts and the like, by `index/name`."""
    found: dict[str, Tensor] = {}
    for index, slots in optimizer.state_dict()["state"].items():
        found |= {
            f"{index}/{name}": torch.as_tensor(value) for name, value in slots.items() if value is not None
        }
    return found


def load_optimizer_tensors(optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """The inverse of `optimizer_tensors`."""
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        index, _, name = key.partition("/")
        state.setdefault(int(index), {})[name] = value
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


def under(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The entries whose name begins with `prefix`, without it."""
    return {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}
