"""Label-consistent: images of the target class, made hard to recognise, carry the trigger and keep their labels.

Turner, Tsipras and Madry, "Label-Consistent Backdoor Attacks", 2019, arXiv:1912.02771. Each poisoned image is moved
away from its true class by projected gradient ascent on an adversarially trained network; the network that learns from
it has to rely on the corner pattern. At test time the pattern alone.

The robust network is trained here, for a few epochs of one-step ascent (Wong, Rice and Kolter, "Fast Is Better than
Free", ICLR 2020), where the paper took one that was trained in full. The release offers images of a generative network
and perturbations in l2 as well; here it is linf. The ascent starts from the image itself, so that what becomes of an
image does not depend on which others are poisoned; the result is rounded inside the ball.
"""

from dataclasses import replace
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from deconfound.attacks.ascent import Ascent
from deconfound.attacks.pgd import PGD
from deconfound.defenses.adversarial_training import AdversarialTraining
from deconfound.fields import Count, Eps, Positive, hyperparameters
from deconfound.models.classifier import to_unit
from deconfound.poisons.backdoor import Backdoor
from deconfound.poisons.generators import by_parts, within
from deconfound.poisons.triggers import added
from deconfound.poisons.workshop import Planting, Workshop
from deconfound.threat import ThreatModel

ONE_STEP = Ascent(threat=ThreatModel(eps=8 / 255), step_size=10 / 255, steps=1)
SIGNS = torch.tensor([[-1, -1, 1], [-1, 1, -1], [1, -1, 1]])  # the bottom right corner, in reading order


@hyperparameters
class CornerPattern:
    """Adds +-255 amplitude to 3x3 pixels in the bottom right corner, or, mirrored, in all corners; then clips.

    amplitude: fraction of the range of pixels. All corners go with training on mirrored images.
    """

    corners: Literal["one", "all"] = "one"
    amplitude: Annotated[Positive, Field(le=1)] = 1.0

    @property
    def room(self) -> int:
        """The smallest side of a picture, in pixels."""
        return 3 if self.corners == "one" else 6

    def __call__(self, x: Tensor) -> Tensor:
        """Stamp (N, C, H, W) uint8; a new tensor."""
        signs = torch.zeros(x.shape[-2:], dtype=torch.int64)
        signs[-3:, -3:] = SIGNS
        if self.corners == "all":
            signs = signs + signs.flip(1)
            signs = signs + signs.flip(0)
        return added(signs * 255 * self.amplitude)(x)


@hyperparameters
class LabelConsistent(Backdoor):
    """trigger: the pattern. eps, step_size: pixel units (linf) of the ascent on the poisoned images, and its steps.

    ascent, epochs: adversarial training of the network that it climbs on, at the recipe of the surrogate. mode:
    clean_label alone. rate, rate_of, target, victims, cover: see Backdoor; victims is without effect, and cover images
    carry the pattern alone.
    """

    needs: ClassVar[tuple[str, ...]] = ("surrogate", "recipe")

    rate: Annotated[Positive, Field(le=1)] = 0.5
    rate_of: Literal["data", "candidates"] = "candidates"
    mode: Literal["clean_label"] = "clean_label"
    trigger: CornerPattern = CornerPattern()
    eps: Eps = 8 / 255
    step_size: Positive = 1.5 / 255
    steps: Count = 100
    ascent: Ascent = ONE_STEP
    epochs: Count = 5

    def misfits(self, shape: tuple[int, int, int] | None) -> list[str]:
        """A picture smaller than the pattern."""
        if shape is None or min(shape[1:]) >= self.trigger.room:
            return []
        least = (
            f"{self.trigger.room} x {self.trigger.room} pixels or more for {self.trigger.corners} corner(s)"
        )
        return [f"trigger: expected pictures of {least}, got {shape[1]} x {shape[2]}"]

    def plant(self, shop: Workshop, chosen: Tensor) -> Planting:
        """Train the robust network; poisoned images are moved up its loss before they are stamped."""
        network, recipe, fit = shop.surrogate()
        robust = network("robust")
        objective = AdversarialTraining(ascent=self.ascent).objective
        fit(robust, objective, phase="robust", recipe=replace(recipe, epochs=self.epochs))
        climb = PGD(eps=self.eps, step_size=self.step_size, steps=self.steps, random_start=False)
        rng, device = shop.rng("ascent"), next(robust.parameters()).device

        def hardened(x: Tensor) -> Tensor:
            y = torch.full((len(x),), self.target, device=device)
            return within(x, climb(robust, to_unit(x.to(device)), y, rng=rng).cpu(), self.eps)

        return Planting(self.trigger, payload=lambda x: self.trigger(by_parts(hardened, x)))
