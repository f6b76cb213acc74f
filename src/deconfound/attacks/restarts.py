"""Several tries of one attack, of which each image keeps the one that harms the model most."""

from collections.abc import Callable

import torch
from torch import Tensor

from deconfound.attacks.scores import margin
from deconfound.attacks.victim import Victim
from deconfound.threat import per_image


def restarted(
    once: Callable[[Victim, Tensor], Tensor], victim: Victim, x: Tensor, *, count: int, early_stop: bool
) -> Tensor:
    """Per image of x (N, C, H, W) the try with the largest margin, of `count` tries. early_stop: an image on which the
    model errs is not tried again. once: one try on a part of the batch, handed a victim that holds its labels.
    """
    best = once(victim, x)
    if count == 1:
        return best
    with torch.no_grad():
        worst = margin(victim(best), victim.y)
    for _ in range(count - 1):
        wanted = worst <= 0 if early_stop else torch.ones_like(worst, dtype=torch.bool)
        rows = wanted.nonzero().flatten()
        if not len(rows):
            break
        part = victim.part(rows)
        z = once(part, x[rows])
        with torch.no_grad():
            found = margin(part(z), part.y)
        better = found > worst[rows]
        best[rows] = torch.where(per_image(better, x), z, best[rows])
        worst[rows] = torch.where(better, found, worst[rows])
    return best
