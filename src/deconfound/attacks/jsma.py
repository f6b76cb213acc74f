"""JSMA: saturate pixels in pairs, chosen by a saliency map, until the model errs.

Papernot et al., "The Limitations of Deep Learning in Adversarial Settings", EuroS&P 2016, arXiv:1511.07528: forward
derivatives of all classes, pairs of pixels. Of logits, since probabilities saturate.

Ours differs in three ways. Success is any error, not the target class. In colour a pixel is a place, whose channels
move and count together. In large images the pair is sought among the `candidates` most promising pixels only.
"""

from typing import Literal

import torch
from torch import Generator, Tensor, nn

from deconfound.attacks.ascent import Point, climb
from deconfound.attacks.scores import likeliest_wrong
from deconfound.attacks.victim import Victim, attacking
from deconfound.fields import Count, Fraction01, Positive, hyperparameters
from deconfound.threat import SparseBall

Aim = Literal["all", "likeliest", "least_likely", "next", "random"]
PAIRS = 2**22  # pairs of pixels looked at at a time, over all images


def targets(logits: Tensor, y: Tensor, aim: Aim, *, rng: Generator) -> Tensor:
    """Wrong classes (N, T) to aim at, one column after the other, from logits (N, K) of the images; T is K - 1 for all
    (likeliest first), else 1.
    """
    classes = logits.shape[1]
    if aim == "next":
        return ((y + 1) % classes)[:, None]
    if aim == "random":
        further = torch.randint(1, classes, (len(y),), generator=rng).to(y.device)
        return ((y + further) % classes)[:, None]
    wrong = likeliest_wrong(logits, y, classes - 1)
    return {"all": wrong, "likeliest": wrong[:, :1], "least_likely": wrong[:, -1:]}[aim]


def best_pair(alpha: Tensor, beta: Tensor, free: Tensor, candidates: int) -> tuple[Tensor, Tensor]:
    """Per row the pair p < q of free pixels with the largest -(alpha_p + alpha_q) (beta_p + beta_q), of those whose
    first sum is positive and second negative: places (n, 2), and whether there is one, (n,) bool.

    alpha, beta (n, D): derivatives of the target and of all others; free (n, D) bool. candidates: only so many pixels
    with the largest alpha - beta are compared; with D or more the answer is exact.
    """
    promise = (alpha - beta).masked_fill(~free, -torch.inf)
    near = promise.topk(min(candidates, alpha.shape[1]), dim=1).indices.sort(1).values
    count = near.shape[1]
    above = torch.ones(count, count, dtype=torch.bool, device=near.device).triu(1)
    places, exists = [], []
    for rows in torch.split(torch.arange(len(near), device=near.device), max(1, PAIRS // count**2)):
        at = near[rows]
        a, b, usable = (values[rows].gather(1, at) for values in (alpha, beta, free))
        gain, loss = a[:, :, None] + a[:, None], b[:, :, None] + b[:, None]
        legal = (gain > 0) & (loss < 0) & usable[:, :, None] & usable[:, None] & above
        value, index = (-gain * loss).masked_fill(~legal, -torch.inf).flatten(1).max(1)
        places.append(at.gather(1, torch.stack([index // count, index % count], 1)))
        exists.append(value > -torch.inf)
    return torch.cat(places), torch.cat(exists)


class Search:
    """Look and rule of one run towards targets (n,): the look takes a second derivative, of all classes but the target,
    and the rule moves the best pair. An image without an admissible pair is done with.
    """

    looks_back = False

    def __init__(self, victim: Victim, x: Tensor, target: Tensor, *, theta: float, candidates: int) -> None:
        self.victim, self.target, self.theta, self.candidates = victim, target, theta, candidates
        self.others = torch.zeros_like(x)
        self.stuck = torch.zeros_like(target, dtype=torch.bool)

    def look(self, z: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Logit of the target, and whether an image is done with."""
        logits = self.victim(z)
        aimed = logits.gather(1, self.target[rows, None]).squeeze(1)
        if logits.requires_grad and z.requires_grad:
            rest = (logits.sum(1) - aimed).sum()
            (slope,) = torch.autograd.grad(rest, z, retain_graph=True, materialize_grads=True)
            self.others[rows] = slope
        return aimed, self.victim.errs(logits, rows) | self.stuck[rows]

    def __call__(self, step: int, at: Point) -> Tensor:
        """The next iterate: theta brighter in one pair of pixels."""
        room = at.z < 1
        alpha = (at.gradient * room).sum(1).flatten(1)
        beta = (self.others[at.rows] * room).sum(1).flatten(1)
        pair, exists = best_pair(alpha, beta, room.any(1).flatten(1), self.candidates)
        self.stuck[at.rows] = ~exists
        chosen = torch.zeros_like(alpha).scatter(1, pair, 1.0) * exists[:, None]
        return (at.z + self.theta * chosen.view_as(at.z[:, :1])).clamp_max(1.0)

    def result(self, at: Point) -> Tensor:
        """The last iterate."""
        return at.z


@hyperparameters
class JSMA:
    """eps: part of the pixels that may change; an image takes at most floor(eps D / 2) rounds of two of its D pixels.
    theta: pixel units by which a round brightens the pixels of its pair, 1 saturates them. aim: the wrong class whose
    logit is raised: the `likeliest` one, the `least_likely`, the `next` number, a `random` one, or `all` in turn from
    the likeliest on, on what is left standing. candidates: pixels among which the pair is sought, those with the
    largest difference of derivatives; at least D makes the search exact.
    """

    eps: Fraction01
    theta: Positive = 1.0
    aim: Aim = "all"
    candidates: Count = 128

    @property
    def threat(self) -> SparseBall:
        """The budget that an evaluator holds this attack to."""
        return SparseBall(eps=self.eps)

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, *, rng: Generator) -> Tensor:
        """The first image on which the model errs, where there is one; else the last iterate of the last aim."""
        x = x.detach()
        with attacking(model, x, y) as victim:
            rounds = self.threat.most(x) // 2
            if not rounds or not len(x):
                return x.clone()
            with torch.no_grad():
                clean = victim(x)
            found, left = x.clone(), (~victim.errs(clean)).nonzero().flatten()
            for target in targets(clean, y, self.aim, rng=rng).unbind(1):
                if not len(left):
                    break
                part = victim.part(left)
                search = Search(part, x[left], target[left], theta=self.theta, candidates=self.candidates)
                z = climb(search.look, x[left], x[left], search, steps=rounds, early_stop=True)
                found[left] = z
                with torch.no_grad():
                    left = left[~part.errs(part(z))]
            return found
