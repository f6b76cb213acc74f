"""What an attacker knows of a detector, and the best images that he has found so far."""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from deconfound.attacks.victim import Victim
from deconfound.threat import per_image

Score = Callable[[Tensor], Tensor]


class Known(NamedTuple):
    """What is known of a detector. suspicion: its score of images (n, C, H, W) -> (n,) on the CPU, without a graph;
    score: the same on the device of the images, attached to their graph, None where there is none. An image is flagged
    above limit; unit: standard deviation of the scores of clean images, positive.
    """

    detector: Any
    suspicion: Score
    score: Score | None
    limit: float
    unit: float


class Best:
    """Per image the best that was offered. z (n, C, H, W); rank (n,): 2 misclassified and not flagged, 1 misclassified
    only, 0 neither; score (n,): the detector's. It begins with the images themselves, at rank 0.
    """

    def __init__(self, victim: Victim, known: Known, x: Tensor) -> None:
        self.victim, self.known = victim, known
        self.z = x.clone()
        self.rank = torch.zeros(len(x), dtype=torch.int64, device=x.device)
        self.score = torch.full((len(x),), torch.inf, dtype=torch.float64, device=x.device)

    @torch.no_grad()
    def offer(self, z: Tensor, rows: Tensor) -> None:
        """Images z (m, C, H, W) for the places rows (m,), judged as the detector is used."""
        score = self.known.suspicion(z).to(z.device, torch.float64)
        fooled = self.victim.errs(self.victim(z), rows)
        rank = fooled.long() + (fooled & (score <= self.known.limit)).long()
        old = self.rank[rows]
        better = (rank > old) | ((rank == old) & fooled & (score < self.score[rows]))
        self.z[rows] = torch.where(per_image(better, z), z, self.z[rows])
        self.rank[rows] = torch.where(better, rank, old)
        self.score[rows] = torch.where(better, score, self.score[rows])

    def left(self) -> Tensor:
        """Places (m,) of images that are not yet misclassified and unflagged."""
        return (self.rank < 2).nonzero().flatten()
