"""Whether an attack moves the evidence: how far maps differ between an image and its attacked twin, beside controls.

Measures and controls of `attributions.shift`. A map moves under any perturbation: gradient maps hardly more under an
attack than under noise of its size. And a map for another class is another map: a change of prediction, not of
evidence. So successes, failures, noise and another image of the class stand beside each other, under both rules of what
class a map is asked for.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

import numpy as np
import torch
from pydantic import Field, field_validator
from torch import Tensor

from deconfound.attributions.asking import Attribution
from deconfound.attributions.shift import SHIFTS, another_of_the_class, normalised
from deconfound.fields import Count, Natural, hyperparameters
from deconfound.interpretations.case import Case, Floats, Place, Readings
from deconfound.interpretations.maps import (
    checked_measures,
    checked_names,
    crafting,
    drawable,
    maps_of,
    methods,
    noise_like,
    noted_refusal,
    scattered,
    usual_attributions,
)
from deconfound.properties.vulnerability import class_means, rank_correlation

Rule = Literal["true", "pred"]
SIGNED = ("sparsity_change",)  # whose floor is 0 on average: a share of the way to it says nothing


@hyperparameters
class AttributionShift:
    """attack: the block of an attack. attributions: blocks of methods by name. targets: rules of the class that a map
    is asked for: `true`, the label, or `pred`, what the model predicts on the very image. measures: of
    `attributions.shift.SHIFTS`. examples: the first so many test images. gallery: pictures of so many images, half of
    them fooled where there are as many.

    All of images that the model classifies right before the attack. Per image, with the attribution as subject and a
    measure as metric, the clean map against another, under the conditions
      success_true, success_pred  that of the attacked image, where the model errs on it
      failure                     the same, where it does not (the two rules agree there)
      noise_true, noise_pred      that of the image with random signs of the same size in the attack's norm
      floor                       that of another image of the class, classified right as well
    An image that the attack left as it was has neither attack nor noise. `prediction.attack.fooled` and
    `prediction.noise.fooled` are 1 where the model errs. Per run, `<measure>_normalised` under success_true,
    success_pred and failure: (mean - floor) / (noise - floor) of the same images and rule (of failures: the first of
    targets); 1 is what noise of that size does too, 0 as far off as another image. There is none where noise and floor
    are within two standard errors of each other, and none of a measure with a sign (sparsity_change). Where `spearman`
    is measured for the true class, `classes.fooled_rank`: over classes, Spearman's correlation of the share of images
    that the attack turns with the mean change of the map, of turned images and others (ADML, Lee et al., ICCV 2023,
    arXiv:2307.07250, holds that vulnerability differs from class to class; the measure is ours).

    Pictures: `labels` int64 (N,) of the test images. Of G images, fooled ones first: `gallery.clean`,
    `gallery.attacked`, `gallery.noisy` float32 (G, C, H, W)
    in [0, 1]; `gallery.row` (place among the test images), `gallery.label`, `gallery.predicted_attacked`,
    `gallery.predicted_noisy` int64 (G,) (the clean prediction is the label); `gallery.fooled` bool (G,);
    `map.<attribution>.clean`, `.attacked_true`, `.attacked_pred`, `.noisy_true`, `.noisy_pred` float32 (G, H, W),
    signed, summed over channels, not rescaled.
    """

    attack: dict[str, Any]
    attributions: dict[str, dict[str, Any]] = field(default_factory=usual_attributions)
    targets: tuple[Rule, ...] = Field(default=("true", "pred"), min_length=1)
    measures: tuple[str, ...] = Field(
        default=("spearman", "top_k", "local_top_k", "cosine", "centre_shift", "sparsity_change"),
        min_length=1,
    )
    examples: Count = 60
    gallery: Natural = 6

    @field_validator("attack")
    @classmethod
    def _crafts(cls, block: dict[str, Any]) -> dict[str, Any]:
        crafting(block, at="attack")
        return block

    @field_validator("attributions")
    @classmethod
    def _attributes(cls, blocks: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
        checked_names(blocks)
        methods(blocks)
        return blocks

    @field_validator("targets")
    @classmethod
    def _once(cls, rules: tuple[Rule, ...]) -> tuple[Rule, ...]:
        if len(set(rules)) < len(rules):
            raise ValueError("expected every rule once")
        return rules

    @field_validator("measures")
    @classmethod
    def _measure(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        checked_measures(names)
        return names

    def __call__(self, case: Case) -> Readings:
        """See the class."""
        case, readings = case.first(self.examples), Readings()
        readings.pictures["labels"] = case.test.y.cpu().numpy()
        states = self._states(case, readings)
        count, moved = len(case.test.y), states.rows[states.moved]
        for name, predicted in (("attack", states.predicted), ("noise", states.predicted_noisy)):
            fooled = (predicted != states.y)[states.moved]
            readings.add("prediction", name, "fooled", scattered(fooled.double(), moved, count))
        chosen = states.shown(self.gallery)
        if len(chosen):
            _draw(readings, states, chosen)
        for name, method in methods(self.attributions).items():
            with noted_refusal(readings, name):
                maps = self._maps(case, method, states)
                self._read(readings, name, maps, states, count)
                self._compare_classes(readings, name, case)
                for state, found in maps.items() if len(chosen) else ():
                    readings.pictures[f"map.{name}.{state}"] = drawable(found[chosen].sum(1))
        return readings

    def _states(self, case: Case, readings: Readings) -> "States":
        attack = crafting(self.attack, at="attack")
        attacked = case.adversarial(attack)
        rows = case.right().nonzero().flatten()
        x, y, attacked = case.x[rows], case.y[rows], attacked[rows]
        noisy = noise_like(case, attack, x, attacked, readings, "shift noise")
        after, beside = (case.logits(z).argmax(1).cpu() if len(z) else y.cpu() for z in (attacked, noisy))
        partner, paired = _partners(case, y.cpu())
        found = States(rows.cpu(), x, attacked, noisy, y.cpu(), after, beside, partner, paired)
        readings.notes += _sentences(found, len(case.test.y))
        return found

    def _maps(self, case: Case, method: Attribution, states: "States") -> dict[str, Tensor]:
        """By state, (n, C, H, W) each. Maps for the prediction are made anew only where it is not the label."""
        found = {"clean": maps_of(case, method, states.x, states.y.to(case.device))}
        pairs = {
            "attacked": (states.attacked, states.predicted),
            "noisy": (states.noisy, states.predicted_noisy),
        }
        for state, (z, predicted) in pairs.items():
            own = maps_of(case, method, z, states.y.to(case.device))
            if "true" in self.targets:
                found[f"{state}_true"] = own
            if "pred" in self.targets:
                other = (predicted != states.y).nonzero().flatten()
                found[f"{state}_pred"] = own.clone()
                if len(other):
                    place = other.to(case.device)
                    again = maps_of(case, method, z[place], predicted[other].to(case.device))
                    found[f"{state}_pred"][other] = again
        return found

    def _read(
        self, readings: Readings, name: str, maps: Mapping[str, Tensor], states: "States", count: int
    ) -> None:
        clean, first = maps["clean"], self.targets[0]
        fooled, kept = states.fooled & states.moved, ~states.fooled & states.moved
        pairs = {f"success_{rule}": (maps[f"attacked_{rule}"], fooled) for rule in self.targets}
        pairs["failure"] = (maps[f"attacked_{first}"], kept)
        pairs |= {f"noise_{rule}": (maps[f"noisy_{rule}"], states.moved) for rule in self.targets}
        pairs["floor"] = (clean[states.partner], states.paired)
        lost = []
        for metric in self.measures:
            found = {}
            for condition, (other, chosen) in pairs.items():
                values = _measured(metric, clean[chosen], other[chosen])
                found[condition] = scattered(values, states.rows[chosen], count)
                readings.add(name, condition, metric, found[condition])
            for condition, rule in self._scored() if metric not in SIGNED else ():
                noise, floor, own = found[f"noise_{rule}"], found["floor"], found[condition]
                score = score_of(own, floor=floor, noise=noise)
                readings.note(name, condition, f"{metric}_normalised", score)
                if np.isnan(score) and np.isfinite(own).any():
                    lost.append(f"{condition}.{metric}")
        if lost:
            readings.notes.append(
                f"{name}: noise and floor cannot be told apart (two standard errors) on the images of some rows: no"
                f" normalised score of {', '.join(lost)}."
            )

    def _compare_classes(self, readings: Readings, name: str, case: Case) -> None:
        """Do the maps of those classes move that the attack turns?"""
        if "true" not in self.targets or "spearman" not in self.measures:
            return
        success, failure = (
            readings.each[Place(name, condition, "spearman")] for condition in ("success_true", "failure")
        )
        fooled = readings.each[Place("prediction", "attack", "fooled")]
        change = 1 - np.where(np.isfinite(success), success, failure)
        known, labels = np.isfinite(fooled) & np.isfinite(change), case.test.y.cpu().numpy()
        means = [class_means(part[known], labels[known], case.classes) for part in (fooled, change)]
        readings.note(name, "classes", "fooled_rank", rank_correlation(*means))

    def _scored(self) -> list[tuple[str, Rule]]:
        """Conditions that have a normalised score, and the rule of the noise beside them."""
        return [*((f"success_{rule}", rule) for rule in self.targets), ("failure", self.targets[0])]


@dataclass(frozen=True)
class States:
    """The n images that the model classifies right, in their states, on the model's device: x, attacked, noisy
    (n, C, H, W); on the CPU: rows, their places among the test images; labels y; predictions on attacked and noisy
    ones; partner, the place in this list of another image of the class, where there is one: paired.
    """

    rows: Tensor
    x: Tensor
    attacked: Tensor
    noisy: Tensor
    y: Tensor
    predicted: Tensor
    predicted_noisy: Tensor
    partner: Tensor
    paired: Tensor

    @cached_property
    def fooled(self) -> Tensor:
        """(n,) bool: does the model err on the attacked image?"""
        return self.predicted != self.y

    @cached_property
    def moved(self) -> Tensor:
        """(n,) bool: did the attack change the image?"""
        return (self.attacked != self.x).flatten(1).any(1).cpu()

    def shown(self, count: int) -> Tensor:
        """Places (G,) of at most `count` moved images: half of them fooled, if there are, and these first."""
        fooled, kept = ((mask & self.moved).nonzero().flatten() for mask in (self.fooled, ~self.fooled))
        half = max(count - count // 2, count - len(kept))
        fooled = fooled[:half]
        return torch.cat([fooled, kept[: count - len(fooled)]])


def score_of(values: Floats, *, floor: Floats, noise: Floats) -> float:
    """The normalised score of means over the images (N,) that have all three. NaN unless noise and floor differ by two
    standard errors there: else it would be a ratio of accidents.
    """
    shared = np.isfinite(values) & np.isfinite(floor) & np.isfinite(noise)
    room = (noise - floor)[shared]
    if len(room) < 2 or abs(room.mean()) <= 2 * room.std(ddof=1) / len(room) ** 0.5:
        return float("nan")
    means = [torch.tensor(part[shared].mean()) for part in (values, floor, noise)]
    return float(normalised(means[0], floor=means[1], noise=means[2]))


def _measured(metric: str, a: Tensor, b: Tensor) -> Tensor:
    return SHIFTS[metric](a, b) if len(a) else torch.zeros(0)


def _partners(case: Case, y: Tensor) -> tuple[Tensor, Tensor]:
    """For each of the images with labels y (n,) the place of another one of its class; and whether there is one."""
    paired = torch.bincount(y, minlength=case.classes)[y] > 1 if len(y) else torch.zeros(0, dtype=torch.bool)
    rows, partner = paired.nonzero().flatten(), torch.arange(len(y))
    if len(rows):
        partner[rows] = rows[another_of_the_class(y[rows], rng=case.rng("shift floor"))]
    return partner, paired


def _sentences(states: States, count: int) -> list[str]:
    """What cannot be read, and why."""
    if not len(states.rows):
        return [
            f"The model classifies none of the {count} images right, so that there is no attack to look at."
        ]
    found = []
    moved, fooled = states.moved, states.fooled & states.moved
    if not fooled.any():
        found.append("The attack fooled the model on no image that it classified right: no row of successes.")
    elif fooled.sum() == moved.sum():
        found.append("The attack fooled the model on every image that it moved: no row of failures.")
    if still := int((~moved).sum()):
        found.append(
            f"The attack left {still} of {len(moved)} images as they were; they have no noise either."
        )
    if alone := int((~states.paired).sum()):
        found.append(f"{alone} images are alone in their class, and have no other image for a floor.")
    return found


def _draw(readings: Readings, states: States, chosen: Tensor) -> None:
    place = chosen.to(states.x.device)
    for name, images in (("clean", states.x), ("attacked", states.attacked), ("noisy", states.noisy)):
        readings.pictures[f"gallery.{name}"] = drawable(images[place])
    numbers = {"row": states.rows, "label": states.y, "predicted_attacked": states.predicted}
    numbers |= {"predicted_noisy": states.predicted_noisy, "fooled": states.fooled}
    for name, values in numbers.items():
        readings.pictures[f"gallery.{name}"] = values[chosen].numpy()
