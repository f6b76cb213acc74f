"""MixMatch: train on images with labels and on images whose labels are guessed, both mixed.

Berthelot, Carlini, Goodfellow, Oliver, Papernot and Raffel, "MixMatch: A Holistic Approach to Semi-Supervised
Learning", NeurIPS 2019, arXiv:1905.02249. One mixing weight per batch. Here guesses are made in evaluation mode, all
mixed images go through the network in one pass, and a batch holds as many images with labels as it happens to.
"""

from collections.abc import Callable, Mapping

import numpy as np
import torch
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from deconfound.defenses.workbench import Pace
from deconfound.models.classifier import eval_mode, to_unit
from deconfound.recipe import Recipe, augment
from deconfound.types import Images

Judge = Callable[[nn.Module], Tensor]
"""Which training examples keep their labels, (N,) bool, as this network sees them."""


class MixMatch:
    """Objective over the training set with the place of each image for its label, see `places`; it knows the labels,
    and who keeps his.

    guesses: views that a guess is the mean of; temperature: its exponent is the inverse; alpha: of the Beta
    distribution of the mixing weight; weight: of the squared error of guessed images at the end, it grows linearly from
    0. recipe: of the views. judge: decides again after every epoch, if given.
    """

    def __init__(
        self,
        data: Images,
        kept: Tensor,
        classes: int,
        recipe: Recipe,
        *,
        guesses: int,
        temperature: float,
        alpha: float,
        weight: float,
        judge: Judge | None = None,
    ) -> None:
        self.data = data
        self.kept = kept
        self.classes = classes
        self.recipe = recipe
        self.guesses = guesses
        self.temperature = temperature
        self.alpha = alpha
        self.weight = weight
        self.judge = judge
        self.ramp = 0.0

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, *, rng: Generator) -> Tensor:
        """Cross-entropy of mixed images with labels + ramp * weight * squared error of mixed guessed ones; scalar."""
        place = y.cpu()
        kept = self.kept[place]
        labels = F.one_hot(self.data.y.cpu()[place[kept]], self.classes).float().to(x.device)
        here = kept.to(x.device)
        views = [x[~here], *(self._view(place[~kept], rng).to(x.device) for _ in range(self.guesses - 1))]
        guess = self._guess(model, views) if not kept.all() else labels[:0]
        images = torch.cat([x[here], *views])
        targets = torch.cat([labels, *[guess] * self.guesses])
        share = mixing_weight(self.alpha, rng=rng)
        order = torch.randperm(len(images), generator=rng).to(x.device)
        logits: Tensor = model(share * images + (1 - share) * images[order])
        targets = share * targets + (1 - share) * targets[order]
        count = len(labels)
        loss: Tensor = logits.new_zeros(())
        if count:
            loss = loss + F.cross_entropy(logits[:count], targets[:count])
        if count < len(images):
            wrong = logits[count:].softmax(1) - targets[count:]
            loss = loss + self.ramp * self.weight * wrong.square().mean()
        return loss

    def _view(self, place: Tensor, rng: Generator) -> Tensor:
        """Another view of the images at these places."""
        return augment(to_unit(self.data.x[place.to(self.data.x.device)]), self.recipe, rng=rng)

    @torch.no_grad()
    def _guess(self, model: nn.Module, views: list[Tensor]) -> Tensor:
        """Sharpened mean of the predicted probabilities of the views, (N, K)."""
        with eval_mode(model):
            mean = torch.stack([model(view).softmax(1) for view in views]).mean(0)
        return sharpened(mean, self.temperature)

    def pace(self, at: Pace) -> None:
        """The weight of guesses grows over the whole training."""
        self.ramp = at.fraction

    def after_epoch(self, step: int, model: nn.Module) -> bool:
        """A watch that never ends the training: who keeps his label now?"""
        if self.judge is not None:
            self.kept = self.judge(model)
        return False

    def state(self) -> dict[str, Tensor]:
        """Who keeps his label."""
        return {"kept": self.kept}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """The inverse of `state`."""
        self.kept = state["kept"]


def places(data: Images) -> Images:
    """The images, with their places in the training set for labels."""
    return Images(data.x, torch.arange(len(data.y)))


def sharpened(p: Tensor, temperature: float) -> Tensor:
    """p^(1/T) of each row (N, K), normalised to sum 1; T below 1 makes the largest larger."""
    raised = p ** (1 / temperature)
    return raised / raised.sum(1, keepdim=True)


def mixing_weight(alpha: float, *, rng: Generator) -> float:
    """max(l, 1 - l) of a draw l from Beta(alpha, alpha), in [0.5, 1]: a mixed image is mostly itself."""
    seed = int(torch.randint(2**62, (), generator=rng))
    drawn = float(np.random.Generator(np.random.PCG64(seed)).beta(alpha, alpha))
    return max(drawn, 1 - drawn)
