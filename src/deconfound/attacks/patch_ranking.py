"""Patch ranking: overwrite the patches that an explanation calls important, until the model errs.

The representative here of black-box attacks that are guided by an explanation made from scores alone (boxes LIME and
SHAP of the survey "Adversarial Attacks and Defenses: An Interpretation Perspective", SIGKDD Explorations 2021,
arXiv:2004.11488); there is no paper of which this is the method. The ranking is KernelSHAP (Lundberg & Lee, "A Unified
Approach to Interpreting Model Predictions", NIPS 2017, arXiv:1705.07874) of the margin on a grid of patches. The model
is asked for scores and never for a gradient. The control is `order: random`: whether the explanation helped shows
against that, not against no attack.
"""

from collections.abc import Callable, Mapping
from typing import Literal

import torch
from pydantic import Field
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from deconfound.attacks.scores import margin
from deconfound.attacks.victim import Victim, attacking
from deconfound.attributions.baselines import Baseline
from deconfound.attributions.patches import KernelSHAP, grid_of
from deconfound.fields import Count, Fraction01, hyperparameters
from deconfound.threat import SparseBall, per_image

Fill = Literal["black", "white", "mean", "inverse"]
FILLS: Mapping[str, Callable[[Tensor], Tensor]] = {
    "black": torch.zeros_like,
    "white": torch.ones_like,
    "mean": lambda x: x.mean((2, 3), keepdim=True).expand_as(x),
    "inverse": lambda x: 1 - x,
}
"""What an image (n, C, H, W) would be if all of it were overwritten; `mean` is its own mean colour."""


@hyperparameters
class PatchRanking:
    """eps: part of the pixels that may change; a patch that no longer fits is passed over for the next one that does.
    grid: patches along a side, at most the shorter side of the image in pixels. order: in which patches are tried, by
    `kernel_shap` from the one that speaks most for the true class, or `random`, one draw for all images. samples:
    coalitions of patches that the ranking asks about per image; all of them, if there are no more. baseline: what
    covers a patch while ranking, `zero` (black), `blur` or `uniform` noise (which asks four times as much). fills: what
    a patch is tried with; it gets the one with the largest margin, or stays as it is where none raises the margin.
    chunk: images per pass through the model while ranking, which changes nothing but memory and speed.
    """

    eps: Fraction01
    grid: Count = 4
    order: Literal["kernel_shap", "random"] = "kernel_shap"
    samples: Count = 256
    baseline: Literal["zero", "blur", "uniform"] = "zero"
    fills: tuple[Fill, ...] = Field(default=("black", "white", "mean", "inverse"), min_length=1)
    chunk: Count = 256

    @property
    def threat(self) -> SparseBall:
        """The budget that an evaluator holds this attack to."""
        return SparseBall(eps=self.eps)

    @torch.no_grad()
    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, *, rng: Generator) -> Tensor:
        """The first image on which the model errs, where there is one; else the one with all patches tried."""
        x = x.detach()
        with attacking(model, x, y) as victim:
            if not self.threat.most(x) or not len(x):
                return x.clone()
            logits = victim(x)
            left = (~victim.errs(logits)).nonzero().flatten()
            found = x.clone()
            if len(left):
                ranks = self.ranks(model, x[left], y[left], rng=rng)
                search = Search(self, victim, x, found, left, margin(logits, y)[left])
                for place in ranks.unbind(1):
                    search.overwrite(place)
            return found

    def ranks(self, model: nn.Module, x: Tensor, y: Tensor, *, rng: Generator) -> Tensor:
        """Numbers of patches (N, P), the first to be tried first; of equal ones the lower number."""
        grid = self._grid(x)
        if self.order == "random":
            drawn = torch.randperm(grid**2, generator=rng).to(x.device)
            return drawn.expand(len(x), -1)
        if grid == 1:  # one patch needs no ranking
            return torch.zeros(len(x), 1, dtype=torch.int64, device=x.device)
        shap = KernelSHAP(
            samples=self.samples,
            grid=grid,
            baseline=Baseline(kind=self.baseline),
            scalar="margin",
            chunk=self.chunk,
        )
        maps = shap(model, x, y, rng=rng).sum(1).flatten(1).double()  # type: ignore[arg-type]
        inside = F.one_hot(grid_of(x.shape[1:], grid).flatten(), grid**2).to(maps)
        return (maps @ inside).argsort(dim=1, descending=True, stable=True)

    def _grid(self, x: Tensor) -> int:
        return int(min(self.grid, *x.shape[2:]))


class Search:
    """The state of one attack on images x (N, C, H, W), written into `found` like x; rows (n,): places of the images
    on which the model does not err yet; value (n,): their margins.
    """

    def __init__(
        self, spec: PatchRanking, victim: Victim, x: Tensor, found: Tensor, rows: Tensor, value: Tensor
    ) -> None:
        self.victim, self.found = victim, found
        self.rows, self.value = rows, value
        self.alive = torch.arange(len(rows), device=x.device)  # their places in the ranking
        self.left = torch.full_like(rows, spec.threat.most(x))  # pixels that may still change
        self.place = grid_of(x.shape[1:], spec._grid(x)).to(x.device)
        self.area = torch.bincount(self.place.flatten())
        self.painted = [FILLS[fill](x) for fill in spec.fills]

    def overwrite(self, patch: Tensor) -> None:
        """Try one patch of each image, patch (M,) of all that were ranked; keep the best fill, and leave the image if
        the model errs.
        """
        if not len(self.rows):
            return
        patch = patch[self.alive]
        mask = (self.place[None] == patch[:, None, None])[:, None]
        fits = self.area[patch] <= self.left
        mask = mask & per_image(fits, mask)
        if not bool(fits.any()):
            return
        best, now = self.value, self.found[self.rows]
        chosen, errs = now, torch.zeros_like(fits)
        for painted in self.painted:
            z = torch.where(mask, painted[self.rows], now)
            logits = self.victim(z)
            value = margin(logits, self.victim.y[self.rows])
            better = fits & (value > best)
            best = torch.where(better, value, best)
            errs = torch.where(better, self.victim.errs(logits, self.rows), errs)
            chosen = torch.where(per_image(better, z), z, chosen)
        self.found[self.rows] = chosen
        changed = best > self.value
        self.left = self.left - torch.where(changed, self.area[patch], 0)
        stays = ~errs
        self.rows, self.value, self.alive = self.rows[stays], best[stays], self.alive[stays]
        self.left = self.left[stays]
