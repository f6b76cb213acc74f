"""Which layers interpretations of units look at, and what these put out: units second, whatever the network."""

import re
from collections.abc import Sequence

import torch
from torch import Tensor

from deconfound.attributions.grad_cam import read_layer
from deconfound.detectors.layers import BODY, activations
from deconfound.errors import UserError
from deconfound.interpretations.case import Case
from deconfound.models.classifier import Classifier, to_unit

BATCH = 256  # images at a time
LAST_CONV, PENULTIMATE = "last_conv", "penultimate"


def located(model: Classifier, probe: Tensor, words: Sequence[str], notes: list[str]) -> dict[str, str]:
    """Names of modules by what readings call them. words: `last_conv` (the last maps before any pooling after them),
    `penultimate` (the input of the head), or names of modules that put out maps; what is not there is noted. probe (1,
    C, H, W) in [0, 1].
    """
    found = {}
    for word in words:
        try:
            name = (
                BODY if word == PENULTIMATE else read_layer(model, probe, None if word == LAST_CONV else word)
            )
        except UserError as error:
            notes.append(f"{word} is not read: {str(error).removeprefix('layer: ')}.")
            continue
        found[re.sub("[^a-z0-9_]", "_", word.lower())] = name
    return found


@torch.no_grad()
def outputs(model: Classifier, name: str, x: Tensor) -> Tensor:
    """Outputs (N, D, ...) of a module, on the CPU; images (N, C, H, W), uint8 or in [0, 1]."""
    device = next(model.parameters()).device
    parts = [
        activations(model, (name,), to_unit(part.to(device)), read=units_second)[0][0].cpu()
        for part in torch.split(x, BATCH)
    ]
    return torch.cat(parts)


def units_second(h: Tensor) -> Tensor:
    """Features of tokens (N, T, D) as (N, D, T); maps and features as they are."""
    return h.transpose(1, 2) if h.dim() == 3 else h


def means(h: Tensor) -> Tensor:
    """(N, D): activations (N, D, ...) of units, means over their positions."""
    return h.flatten(2).mean(2) if h.dim() > 2 else h


def victims_of(case: Case) -> Tensor | None:
    """(N,) bool on the CPU: test images that the trigger is to send to another class; None without a trigger."""
    if case.truth.stamped is None or case.truth.hoped is None:
        return None
    return case.truth.hoped.cpu() != case.test.y.cpu()
