"""What interpretations that compare maps share: methods by name, one call for all, and what is left out is said."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from deconfound.attacks import ATTACKS
from deconfound.attacks.transfer import Transfer
from deconfound.attributions import ATTRIBUTIONS
from deconfound.attributions.asking import Attribution
from deconfound.attributions.shift import SHIFTS, noisy_twin
from deconfound.errors import UserError
from deconfound.interpretations.case import WORD, Case, Floats, Readings, selected
from deconfound.registry import build, nearest

Blocks = Mapping[str, Mapping[str, Any]]


def usual_attributions() -> dict[str, dict[str, Any]]:
    """One method of each family, with its defaults."""
    kinds = ("saliency", "integrated_gradients", "smooth_grad", "grad_cam", "occlusion")
    return {kind: {"kind": kind} for kind in kinds}


def methods(blocks: Blocks) -> dict[str, Attribution]:
    """The attributions that blocks describe, by name; ConfigError where one is wrong."""
    return {name: build(ATTRIBUTIONS, block, at=f"attributions.{name}") for name, block in blocks.items()}


def crafting(block: Mapping[str, Any], *, at: str) -> Any:
    """The attack that a block describes; ValueError unless it crafts images by itself."""
    attack = build(ATTACKS, block, at=at)
    if isinstance(attack, Transfer):
        raise ValueError("expected an attack that crafts images, got a transfer")
    return attack


def checked_names(names: Iterable[str], *, but: Iterable[str] = ()) -> None:
    """ValueError unless every name can be a word of a reading's place, and is none of `but`."""
    taken = set(but)
    for name in names:
        if not WORD.fullmatch(name) or name in taken:
            raise ValueError(
                f"expected a name of lower-case letters, digits and '_' that is free, got {name!r}"
            )


def checked_measures(names: Iterable[str]) -> None:
    """ValueError unless each is a measure of shift, and none stands twice."""
    found = list(names)
    for name in found:
        if name not in SHIFTS:
            raise ValueError(f"expected a measure of shift, got {name!r}{nearest(name, SHIFTS)}")
    if len(set(found)) < len(found):
        raise ValueError(f"expected every measure once, got {', '.join(found)}")


def maps_of(case: Case, method: Attribution, x: Tensor, target: Tensor) -> Tensor:
    """Signed maps of images x for the classes target, on the CPU. What a method draws is the same at every call, so
    that two sets of maps differ by images and classes alone.
    """
    return method(case.model, x, target, rng=case.rng("maps")).cpu()


@contextmanager
def noted_refusal(readings: Readings, name: str) -> Iterator[None]:
    """A method that refuses the network inside becomes a note."""
    try:
        yield
    except UserError as error:
        readings.notes.append(f"There are no readings of {name}: {error}.")


def noise_like(case: Case, attack: Any, x: Tensor, moved: Tensor, readings: Readings, purpose: str) -> Tensor:
    """Images x with random signs of the same size per image as what moved them. Where the attack's norm is neither Linf
    nor L2 (or it has none), the size is taken in L2, and a note says so.
    """
    own = getattr(getattr(attack, "threat", None), "norm", None)
    norm: Literal["linf", "l2"] = "linf" if own == "linf" else "l2"
    if own != norm:
        readings.notes.append(
            "The attack's budget is neither Linf nor L2: noise has the L2 norm of what it did."
        )
    return noisy_twin(x, moved, norm=norm, rng=case.rng(purpose))


def scattered(values: Tensor, rows: Tensor, count: int) -> Floats:
    """Numbers (n,) of the images at the ascending places rows (n,) as (count,), NaN elsewhere."""
    chosen = torch.zeros(count, dtype=torch.bool)
    chosen[rows.cpu()] = True
    return selected(values, chosen, count)


def mean_of(values: Floats) -> float:
    """Mean of the finite ones; NaN where there are none."""
    known = values[np.isfinite(values)]
    return float(known.mean()) if len(known) else float("nan")


def drawable(values: Tensor) -> NDArray[np.float32]:
    """Images or maps as float32 arrays for the report."""
    return values.detach().cpu().float().numpy()
