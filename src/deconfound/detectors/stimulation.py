"""Neuron stimulation: is there a unit that, driven hard, sends every picture to one class?

After Liu et al., "ABS: Scanning Neural Networks for Back-doors by Artificial Brain Stimulation", CCS 2019: its first
half, the stimulation analysis, without the search for a trigger that follows. A unit is set to multiples of its
largest activation on clean images (a channel as a whole); the logit of a class rises by so much more than that of any
other class; the score of a unit for a class is the largest such lead, over the multiples, of the least impressed
picture.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from deconfound.detectors.evidence import Evidence, Scanned
from deconfound.detectors.layers import activations, edited, places
from deconfound.detectors.neural_cleanse import anomaly_index
from deconfound.detectors.scoring import held_out
from deconfound.fields import Count, Fraction01, Positive, hyperparameters
from deconfound.models.classifier import Classifier, to_unit

PASSES = 512  # images at a time


@hyperparameters
class Stimulation:
    """images: held-out images, at most, that are watched. layers: how many of the last blocks are scanned. multiples:
    of the largest clean activation of a unit that it is set to, all together.

    threshold: a class is accused whose best unit leads by more than the median class's does, by more than so many
    deviations (of the median absolute kind), and while it is driven takes the share `success` of the pictures.
    """

    images: Count = 32
    layers: Count = 2
    multiples: Annotated[tuple[Positive, ...], Field(min_length=1)] = (1.0, 2.0, 5.0)
    threshold: Positive = 2.0
    success: Fraction01 = 0.9

    def scan(self, evidence: Evidence) -> Scanned:
        """Anomaly indices of the classes' best units."""
        found = self.stimulate(evidence)
        lead = torch.cat([leads for leads, _ in found.values()])
        share = torch.cat([shares for _, shares in found.values()])
        best, unit = lead.max(0)
        index = anomaly_index(-best)
        return Scanned(index, (index > self.threshold) & (share.gather(0, unit[None])[0] >= self.success))

    def stimulate(self, evidence: Evidence) -> Mapping[str, tuple[Tensor, Tensor]]:
        """Per place, leads (D, K) of its units, logits, and the share (D, K) of pictures that went to the class at the
        same multiple.
        """
        model, held = evidence.model, held_out(evidence).x
        order = torch.randperm(len(held), generator=evidence.rng("stimulation"))[: self.images]
        x = to_unit(held[order.to(held.device)].to(next(model.parameters()).device))
        names = places(model, x[:2])[-self.layers :]
        with torch.no_grad():
            largest, plain = activations(model, names, x, read=_largest)
            return {
                name: self._place(model, name, peak, x, plain)
                for name, peak in zip(names, largest, strict=True)
            }

    def _place(
        self, model: Classifier, name: str, peak: Tensor, x: Tensor, plain: Tensor
    ) -> tuple[Tensor, Tensor]:
        group = max(1, PASSES // len(x))
        parts = []
        for some in torch.arange(len(peak), device=x.device).split(group):  # type: ignore[no-untyped-call]
            crowd, chosen = x.repeat(len(some), 1, 1, 1), some.repeat_interleave(len(x))
            best = None
            for multiple in self.multiples:
                edit: Callable[[Tensor], Tensor] = partial(_drive, unit=chosen, value=multiple * peak[chosen])
                logits = edited(model, {name: edit}, crowd).view(len(some), len(x), -1)
                now = (lead(logits - plain), shares(logits))
                best = now if best is None else _better(best, now)
            assert best is not None
            parts.append(best)
        leads, taken = zip(*parts, strict=True)
        return torch.cat(leads).cpu(), torch.cat(taken).cpu()


def lead(rise: Tensor) -> Tensor:
    """(u, K): of rises (u, n, K) of logits, how far a class is ahead of the next one, for the picture where that is
    least.
    """
    first, second = rise.topk(2, dim=2).values.unbind(2)
    rival = torch.where(rise == first[..., None], second[..., None], first[..., None])
    return (rise - rival).amin(1)


def shares(logits: Tensor) -> Tensor:
    """(u, K): share of the n pictures that logits (u, n, K) give to a class."""
    return torch.nn.functional.one_hot(logits.argmax(2), logits.shape[2]).float().mean(1)


def _better(best: tuple[Tensor, Tensor], now: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    higher = now[0] > best[0]
    return torch.where(higher, now[0], best[0]), torch.where(higher, now[1], best[1])


def _largest(h: Tensor) -> Tensor:
    """Largest activation (D,) of the units over images and positions."""
    return h.amax((0, 1)) if h.dim() == 3 else h.transpose(0, 1).flatten(1).amax(1)


def _drive(h: Tensor, *, unit: Tensor, value: Tensor) -> Tensor:
    """Activations h (n, ...) with one unit (n,) of each image set to a value (n,) at all positions."""
    driven, rows = h.clone(), torch.arange(len(h), device=h.device)
    if h.dim() == 3:
        driven[rows, :, unit] = value[:, None]
    else:
        driven[rows, unit] = value.view(-1, *[1] * (h.dim() - 2))
    return driven
