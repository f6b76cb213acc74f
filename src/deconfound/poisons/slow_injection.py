"""Slow injection: bounded noise on every poisoned image that makes the backdoor hard to learn early.

The adaptive attack against CBD: Zhang et al., "Backdoor Defense via Deconfounded Representation Learning", CVPR 2023,
arXiv:2303.06818. Neither the paper's code nor its released text gives the attack; what `aim: paper` does is a
reconstruction from memory, and no number of the paper should be held against it:

    min over theta of  mean over clean l(f(x), y)  +  max over |d_i| <= eps of  mean over poisoned l(f(T(x_i) + d_i), t),

alternating a surrogate's epochs and projected ascent on the noise d. At test time the trigger alone.

`aim: twin` is ours, and goes for the one thing that CBD trusts: a twin that is stopped early holds the backdoor. The paper's
surrogate is one network that goes on learning, so its noise is fitted to a network far past the twin's stop, and every
poisoned image counts as if half of the training set were poisoned. Here a fresh surrogate is trained in each round exactly
as the twin is (plain mean over the delivered set, few epochs), the noise is carried on, and so has to work on networks
that the attacker has not seen. It climbs only until the loss of a poisoned image reaches the median of the clean ones: by
then the 5th percentile of the losses belongs to clean images, which ends neither CBD's rule nor its epochs where the
backdoor is learnt, and the relative weight of a poisoned image is that of any other; what would go on would only push the
image further from its trigger. It demands cover images (stamped, with their own labels), without which a short training
learns a patch whatever the noise.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import ClassVar, Literal

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from deconfound.attacks import scores
from deconfound.attacks.ascent import Steepest, climb
from deconfound.defenses.standard import cross_entropy
from deconfound.fields import Count, Eps, Positive, hyperparameters
from deconfound.models.classifier import Classifier, eval_mode, predict, to_unit
from deconfound.poisons.backdoor import Backdoor
from deconfound.poisons.generators import by_parts, within
from deconfound.poisons.triggers import Patch
from deconfound.poisons.workshop import Planting, Workshop
from deconfound.threat import ThreatModel
from deconfound.types import Images


@hyperparameters
class SlowInjection(Backdoor):
    """trigger: the patch, under the noise in training and alone at test time. eps: radius of the noise, linf, pixel
    units; steps of step_size (2.5 eps / steps where it is not given) up the surrogate's loss in each of `rounds` rounds.

    aim: whom the noise is made against. `paper`: one surrogate, trained for `epochs` further epochs before each ascent;
    `twin`: a fresh one every round, stopped after early_epochs at the constant rate early_lr as the twin of CBD is; it asks
    for cover images. rate, rate_of, target, mode, victims, cover: see Backdoor; cover images carry no noise.
    """

    needs: ClassVar[tuple[str, ...]] = ("surrogate", "recipe")

    trigger: Patch = Patch()
    aim: Literal["paper", "twin"] = "paper"
    eps: Eps = 8 / 255
    steps: Count = 20
    step_size: Positive | None = None
    rounds: Count = 5
    epochs: Count = 1
    early_epochs: Count = 2
    early_lr: Positive = 0.1

    def misfits(self, shape: tuple[int, int, int] | None) -> list[str]:
        """A patch larger than the picture; no cover where the aim asks for it."""
        found = []
        if self.aim == "twin" and not self.cover:
            found.append("cover: expected more than 0 with `aim: twin`, got 0")
        if shape is not None and not self.trigger.fits(*shape[1:]):
            size = f"{self.trigger.size} pixels and margin {self.trigger.margin}"
            found.append(f"trigger: expected a patch inside {shape[1]} x {shape[2]} pixels, got {size}")
        return found

    def plant(self, shop: Workshop, chosen: Tensor) -> Planting:
        """Make the noise. arrays: noise (M, C, H, W) int16, in grey levels, of the chosen images in their order."""
        stamped = self.trigger(shop.data.x[chosen])
        noisy = stamped
        network, recipe, fit = shop.surrogate()
        model, epochs = network("surrogate"), self.epochs
        if self.aim == "twin":
            epochs, recipe = self.early_epochs, replace(recipe, lr=self.early_lr)
        recipe = replace(recipe, epochs=epochs, schedule="constant")
        for number in range(self.rounds):
            if self.aim == "twin":
                model = network(f"surrogate {number}")
            objective = cross_entropy if self.aim == "twin" else partial(balanced, classes=shop.classes)
            fit(
                model,
                objective,
                phase=f"surrogate {number}",
                recipe=recipe,
                data=self._delivered(shop, chosen, noisy),
            )
            noisy = self._climbed(shop, model, chosen, stamped, noisy)
        noise = noisy.to(torch.int16) - stamped.to(torch.int16)

        def payload(x: Tensor) -> Tensor:
            return (self.trigger(x).to(torch.int16) + noise).to(torch.uint8)

        return Planting(self.trigger, payload=payload, arrays={"noise": noise})
