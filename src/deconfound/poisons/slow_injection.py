"""Slow injection: bounded noise on every poisoned image that makes the backdoor hard to learn early.

The adaptive attack against CBD: Zhang et al., "Backdoor Defense via Deconfounded Representation Learning", CVPR 2023,
arXiv:2303.06818. What `aim: paper` does is a reconstruction from memory, not checked against the paper, and no number
of the paper should be held against it. With T the trigger and t the attacker's label,

    min over theta of  mean over clean l(f(x), y)  +  max over |d_i| <= eps of  mean over poisoned l(f(T(x_i) + d_i), t)

alternates a surrogate's epochs and projected ascent on the noise d. At test time the trigger alone.

`aim: twin` is ours, and goes for what CBD trusts: a twin that was stopped early holds the backdoor, and little else.

- The surrogate above is one network that goes on learning, past where the twin stops, on a loss in which the poisoned
  images weigh as much as all others. Here a fresh one is trained in every round as the twin is, briefly and on the mean
  over the delivered set; the noise is carried on from round to round, so it must work on networks it was not made on.
- The ascent of an image ends where its loss reaches the median of the clean images. There it hides: neither is it among
  the smallest losses, at which CBD's rule looks, nor does it weigh less than a clean image.
- It asks for cover images (stamped, with their own labels). Without them a few epochs learn a patch whatever the noise.
"""

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
from deconfound.types import Images, Objective


@hyperparameters
class SlowInjection(Backdoor):
    """trigger: the patch, under the noise in training, alone at test time. eps: radius of the noise, linf, pixel
    units. Each of `rounds` rounds goes `steps` steps of step_size (2.5 eps / steps if not given) up a surrogate's loss.

    aim: whom the noise is made against. `paper`: one surrogate, trained for `epochs` further epochs before each ascent;
    `twin`: a fresh one every round, stopped after early_epochs at the constant rate early_lr as the twin of CBD is.
    rate, rate_of, target, mode, victims, cover: see Backdoor; cover images carry no noise, and `twin` asks for some.
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
        return found + self.trigger.faults(shape, "trigger")

    def plant(self, shop: Workshop, chosen: Tensor) -> Planting:
        """Make the noise. arrays: noise (M, C, H, W) int16, in grey levels, of the chosen images in their order."""
        network, recipe, fit = shop.surrogate()
        siege = Siege(self, shop, chosen, self.choose(shop)[1])
        twin = self.aim == "twin"
        epochs, lr = (self.early_epochs, self.early_lr) if twin else (self.epochs, recipe.lr)
        recipe = replace(recipe, epochs=epochs, lr=lr, schedule="constant")
        model, objective = network("surrogate"), siege.objective()
        for number in range(self.rounds):
            if twin and number:
                model = network(f"surrogate {number}")
            fit(model, objective, phase=f"surrogate {number}", recipe=recipe, data=siege.delivered())
            siege.climb(model)
        noise = siege.noise

        def payload(x: Tensor) -> Tensor:
            return (self.trigger(x).to(torch.int16) + noise).to(torch.uint8)

        return Planting(self.trigger, payload=payload, arrays={"noise": noise})


class Siege:
    """The poisoned images while their noise is made. chosen (M,), covers: places in the training set of the shop."""

    def __init__(self, spec: SlowInjection, shop: Workshop, chosen: Tensor, covers: Tensor) -> None:
        self.spec, self.classes, self.chosen = spec, shop.classes, chosen
        x, y = shop.data.x.clone(), shop.data.y.clone()
        self.stamped = self.noisy = spec.trigger(x[chosen])
        if len(covers):
            x[covers] = spec.trigger(x[covers])
        if spec.mode != "clean_label":
            y[chosen] = spec.hoped(y[chosen], classes=shop.classes)
        self.images = Images(x, y)
        self.clean = torch.ones(len(y), dtype=torch.bool)
        self.clean[chosen] = False

    @property
    def noise(self) -> Tensor:
        """What the noise adds to the stamped images, grey levels, (M, C, H, W) int16."""
        return self.noisy.to(torch.int16) - self.stamped.to(torch.int16)

    def objective(self) -> Objective:
        """What a surrogate minimises."""
        return cross_entropy if self.spec.aim == "twin" else partial(balanced, classes=self.classes)

    def delivered(self) -> Images:
        """The training set of a surrogate; `balanced` is told who is poisoned by a label that is K too large."""
        x, y = self.images.x.clone(), self.images.y.clone()
        x[self.chosen] = self.noisy
        if self.spec.aim == "paper":
            y[self.chosen] += self.classes
        return Images(x, y)

    def climb(self, model: Classifier) -> None:
        """Go on with the noise, up the loss of a surrogate on the labels that the attacker gave."""
        ceiling = torch.inf
        if self.spec.aim == "twin":
            x, y = (part[self.clean] for part in self.images)
            ceiling = float(scores.cross_entropy(predict(model, x), y).median())
        spec, device = self.spec, next(model.parameters()).device
        move = Steepest(ThreatModel(eps=spec.eps), spec.step_size or 2.5 * spec.eps / spec.steps)

        def onwards(stamped: Tensor, noisy: Tensor, y: Tensor) -> Tensor:
            x, start, y = to_unit(stamped.to(device)), to_unit(noisy.to(device)), y.to(device)

            def look(z: Tensor, rows: Tensor) -> tuple[Tensor, None]:
                return scores.cross_entropy(model(z), y[rows]).clamp(max=ceiling), None

            with eval_mode(model):
                return within(stamped, climb(look, x, start, move, steps=spec.steps).cpu(), spec.eps)

        self.noisy = by_parts(onwards, self.stamped, self.noisy, self.images.y[self.chosen])


def balanced(model: nn.Module, x: Tensor, y: Tensor, *, rng: Generator, classes: int) -> Tensor:
    """Mean cross-entropy of a batch's clean images, plus that of its poisoned ones, whose labels are K too large."""
    poisoned = y >= classes
    loss = F.cross_entropy(model(x), y % classes, reduction="none")
    return sum(
        (loss[part].sum() / part.sum().clamp_min(1) for part in (~poisoned, poisoned)), loss.new_zeros(())
    )
