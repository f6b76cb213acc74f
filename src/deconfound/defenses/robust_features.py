"""Robust and non-robust features: training sets in which only one kind tells of the label. Experiments, not defenses.

Ilyas, Santurkar, Tsipras, Engstrom, Tran and Madry, "Adversarial Examples Are Not Bugs, They Are Features", NeurIPS
2019, arXiv:1905.02175. `robust_features` makes, for every training image, one with the same features for a robust
network, from another image: standard training on these should give some robustness. `non_robust_features` makes
adversarial images of a standard network and calls them what it takes them for: standard training on these should do
well on untouched images, although their labels look wrong.

Crafted images are rounded to 8 bits, as every training set here; what that undoes is in the notes. After a kill the
trained networks are kept and the images are crafted again, to the same bytes.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import ClassVar, Literal

import torch
from torch import Generator, Tensor

from deconfound.attacks.ascent import Ascent, Steepest, climb
from deconfound.attacks.feature_adversary import Highest
from deconfound.attacks.scores import cross_entropy as per_image_loss
from deconfound.defenses.adversarial_training import AdversarialTraining
from deconfound.defenses.help import standard_network
from deconfound.defenses.saliency_alignment import another
from deconfound.defenses.standard import cross_entropy
from deconfound.defenses.workbench import PLAIN, Adaptive, Defended, Workbench
from deconfound.fields import Count, Positive, hyperparameters
from deconfound.models.classifier import Classifier, eval_mode, predict, to_unit
from deconfound.threat import ThreatModel, size
from deconfound.types import Images

PART = 256  # images crafted at a time
TRAINING = Ascent(threat=ThreatModel(norm="l2", eps=0.5), step_size=0.1, steps=7)
CRAFTING = Ascent(threat=ThreatModel(norm="l2", eps=0.5), step_size=0.1, steps=100, start="image")


@hyperparameters
class RobustFeatures:
    """network: whose features are matched, of an adversarially trained one (`robust`), or, as the paper's control, of a
    `standard` one; trained in a phase of its own, unless the run starts from another, whose network is then taken as it
    is. ascent: of the adversarial training. epochs, lr: of the phase, by default those of the run's recipe.

    begin: where the search for an image starts, at `another` training image, whatever its label, or at uniform `noise`.
    steps, step_size: of normalised gradient descent on the l2 distance of features, l2 pixel units, inside the pixel
    box; the nearest iterate counts. Reimplementations take 1,000 steps of 0.1.
    """

    adaptive: ClassVar[Adaptive] = PLAIN

    network: Literal["robust", "standard"] = "robust"
    ascent: Ascent = TRAINING
    epochs: Count | None = None
    lr: Positive | None = None
    begin: Literal["another", "noise"] = "another"
    steps: Count = 1000
    step_size: Positive = 0.1

    def __call__(self, bench: Workbench) -> Defended:
        """Train the network whose features count, make the images, train a fresh network on them. trace: `distance`
        (N,), of the features of crafted and original images over that at the start.
        """
        source, data = self._source(bench), bench.data
        starts = self._starts(data.x, rng=bench.rng("start of the features"))
        made = by_parts(lambda x, z: self.invert(source, x, z), source, data.x, starts)
        before, after = (distances(source, data.x, images) for images in (starts, made))
        relative = after / before.clamp_min(1e-12)
        model = bench.network("model")
        bench.fit(model, cross_entropy, data=Images(made, data.y))
        notes = {"distance": float(relative.mean()), "kept_label": agreement(source, made, data.y)}
        return Defended(model, trace={"distance": relative.numpy()}, notes=notes)

    def _source(self, bench: Workbench) -> Classifier:
        if bench.start is not None:
            return bench.start.eval()
        if self.network == "standard":
            return standard_network(bench, epochs=self.epochs, lr=self.lr)
        network, recipe = bench.network("robust"), bench.recipe
        recipe = replace(recipe, epochs=self.epochs or recipe.epochs, lr=self.lr or recipe.lr)
        bench.fit(network, AdversarialTraining(ascent=self.ascent).objective, phase="robust", recipe=recipe)
        return network

    def _starts(self, x: Tensor, *, rng: Generator) -> Tensor:
        if self.begin == "noise":
            return torch.randint(256, x.shape, generator=rng, dtype=torch.uint8).to(x.device)
        return x[another(len(x), rng=rng).to(x.device)]

    def invert(self, model: Classifier, x: Tensor, start: Tensor) -> Tensor:
        """Images like `start` whose features approach those of images x (N, C, H, W) in [0, 1]."""
        box = ThreatModel(
            norm="l2", eps=float(x[0].numel()) ** 0.5
        )  # the ball holds all images: its radius is free
        with eval_mode(model):
            with torch.no_grad():
                aim = model.features(x)

            def look(z: Tensor, rows: Tensor) -> tuple[Tensor, None]:
                return -(model.features(z) - aim[rows]).square().sum(1), None

            return climb(look, start, start, Highest(Steepest(box, self.step_size)), steps=self.steps)


@hyperparameters
class NonRobustFeatures:
    """target: a class t that is drawn at `random` from all (the paper's D_rand), or the `next` one after the label
    (D_det). ascent: descent of the cross-entropy of t on the standard network, l2. labels: the new set says `target`;
    as a control, the same images keep their `own` labels. perturbation: `targeted`, or, as a placebo, random `noise` in
    the same ball, which tells of no target: D_rand is then noise, and D_det teaches the next class alone.

    epochs, lr: training of the standard network in its own phase, by default those of the run's recipe; a run that
    starts from another takes that network instead.
    """

    adaptive: ClassVar[Adaptive] = PLAIN

    target: Literal["random", "next"] = "random"
    ascent: Ascent = CRAFTING
    labels: Literal["target", "own"] = "target"
    perturbation: Literal["targeted", "noise"] = "targeted"
    epochs: Count | None = None
    lr: Positive | None = None

    def __call__(self, bench: Workbench) -> Defended:
        """Train the standard network, make the images, train a fresh network on them. trace: `target` (N,)."""
        source = (
            bench.start.eval() if bench.start else standard_network(bench, epochs=self.epochs, lr=self.lr)
        )
        data, rng = bench.data, bench.rng("targets")
        target = self.targets(data.y.cpu(), source.head.out_features, rng=rng)
        made = by_parts(lambda x, t: self.craft(source, x, t, rng=rng), source, data.x, target)
        labels = target if self.labels == "target" else data.y.cpu()
        model = bench.network("model")
        bench.fit(model, cross_entropy, data=Images(made, labels))
        moved = size((made.double() - data.x.cpu().double()) / 255, "l2")
        notes = {
            "taken_for_target": agreement(source, made, target),
            "target_is_label": float((target == data.y.cpu()).double().mean()),
            "l2_max": float(moved.max()),
        }
        return Defended(model, trace={"target": target.numpy()}, notes=notes)

    def targets(self, y: Tensor, classes: int, *, rng: Generator) -> Tensor:
        """A target (N,) for each label (N,)."""
        if self.target == "next":
            return (y + 1) % classes
        return torch.randint(classes, y.shape, generator=rng)

    def craft(self, model: Classifier, x: Tensor, target: Tensor, *, rng: Generator) -> Tensor:
        """Images of the ball around x (N, C, H, W) in [0, 1] that the model takes for the target (N,), or noise."""
        if self.perturbation == "noise":
            return self.ascent.threat.random_start(x, rng=rng)
        with eval_mode(model):
            return self.ascent(lambda z: -per_image_loss(model(z), target), x, rng=rng)


def by_parts(make: Callable[[Tensor, Tensor], Tensor], model: Classifier, x: Tensor, other: Tensor) -> Tensor:
    """What `make` makes of images x and of what goes with them, images or classes, some at a time on the device of the
    model: (N, C, H, W) uint8 on the CPU. Images come as uint8 and are handed on in [0, 1].
    """
    device = next(model.parameters()).device
    found = []
    for images, rest in zip(torch.split(x, PART), torch.split(other, PART), strict=True):
        made = make(to_unit(images.to(device)), to_unit(rest.to(device)))
        found.append((255 * made).round().clamp(0, 255).to(torch.uint8).cpu())
    return torch.cat(found)


@torch.no_grad()
def distances(model: Classifier, x: Tensor, z: Tensor) -> Tensor:
    """l2 distance (N,) between the features of images x and z (N, C, H, W) uint8, on the CPU."""
    device = next(model.parameters()).device
    with eval_mode(model):
        parts = [
            (model.features(to_unit(one.to(device))) - model.features(to_unit(other.to(device)))).norm(dim=1)
            for one, other in zip(torch.split(x, PART), torch.split(z, PART), strict=True)
        ]
    return torch.cat(parts).cpu()


def agreement(model: Classifier, x: Tensor, y: Tensor) -> float:
    """Fraction of images (N, C, H, W) uint8 that the model gives the class y (N,), in evaluation mode."""
    return float((predict(model, x).argmax(1) == y.cpu()).double().mean())
