"""Attacks on the explanation: the prediction stays, and the map shows something else. Beside noise of the same size.

Ghorbani, Abid, Zou, "Interpretation of Neural Networks Is Fragile", AAAI 2019, arXiv:1710.10547, against one map;
whether others move along is measured here, and by how much more than under random signs, which the paper has as its
baseline too. Attention: Chen et al., "Universal Adversarial Attack on Attention and the Resulting Dataset DAmageNet",
TPAMI, arXiv:2001.06325, with input times gradient for attention (see `attacks.attention`); their claim is about
transfer, ours is the ratio alone, and plain attacks stand beside it.
"""

from dataclasses import field
from typing import Any

import torch
from pydantic import Field, field_validator
from torch import Tensor

from deconfound.attacks import EXPLANATION_ATTACKS
from deconfound.attacks.attention import log_ratio
from deconfound.attacks.fragile import ExplanationAttack
from deconfound.attributions.shift import SHIFTS
from deconfound.fields import Count, Natural, hyperparameters
from deconfound.interpretations.case import Case, Readings
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
from deconfound.models.classifier import eval_mode
from deconfound.registry import build

PART = 128  # images whose attention is read at a time


@hyperparameters
class AttackedExplanation:
    """explanation_attack: the block of an attack on maps ({kind: fragile, eps: 8/255, ...}). attributions: blocks of
    methods by name, whose maps are looked at; of the class that the model predicts on the clean image. measures: of
    `attributions.shift.SHIFTS`, between the maps of clean image and other. attacks: blocks of evasion attacks by name
    ({aoa: {kind: attention, ...}, pgd: {kind: pgd, ...}}), under which attention is measured. examples: the first so
    many test images. gallery: pictures of so many images.

    Per image, under the conditions `attacked` and `noise` (random signs of the same size in the attack's norm; missing
    where the attack found nothing better than the image):
      prediction.<condition>.kept             1 where the model predicts what it predicts on the clean image
      aimed_at.<condition>.top_k              share of the top pixels of the map under attack that stay on top, as the
                                              attack itself counts them; 1 where it failed
      <attribution>.<condition>.<measure>     of the maps of that method; the attack does not know it
      ....attacked.top_k_below_noise          top_k under noise minus top_k under attack: above 0, the attack does what
                                              noise of its size does not
    With attacks, of images that the model classifies right: attention.<clean or attack>.log_ratio, the logarithm of the
    attention for the label over that for the likeliest wrong class; attention.<attack>.log_ratio_change, against the
    clean image; and attention.<attack>.fooled.

    Pictures of the first G images: `gallery.clean`, `gallery.attacked`, `gallery.noisy` float32 (G, C, H, W);
    `gallery.label`, `gallery.predicted` (on the clean image) int64 (G,); `map.<attribution>.clean`, `.attacked`,
    `.noisy` float32 (G, H, W), signed, summed over channels, not rescaled.
    """

    explanation_attack: dict[str, Any]
    attributions: dict[str, dict[str, Any]] = field(default_factory=usual_attributions)
    measures: tuple[str, ...] = Field(default=("spearman", "top_k"), min_length=1)
    attacks: dict[str, dict[str, Any]] = field(default_factory=dict)
    examples: Count = 32
    gallery: Natural = 4

    @field_validator("explanation_attack")
    @classmethod
    def _explains(cls, block: dict[str, Any]) -> dict[str, Any]:
        _built(block)
        return block

    @field_validator("attributions")
    @classmethod
    def _attributes(cls, blocks: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
        checked_names(blocks, but=("prediction", "aimed_at", "attention"))
        methods(blocks)
        return blocks

    @field_validator("measures")
    @classmethod
    def _measure(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        checked_measures(names)
        return names

    @field_validator("attacks")
    @classmethod
    def _craft(cls, blocks: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
        checked_names(blocks, but=("clean",))
        for name, block in blocks.items():
            crafting(block, at=f"attacks.{name}")
        return blocks

    def __call__(self, case: Case) -> Readings:
        """See the class."""
        case, readings = case.first(self.examples), Readings()
        attack, x = _built(self.explanation_attack), case.x
        predicted = case.logits(x).argmax(1)
        attacked = attack(case.model, x, rng=case.rng("explanation attack"))
        noisy = noise_like(case, attack, x, attacked, readings, "explanation noise")
        moved = (attacked != x).flatten(1).any(1)
        if still := int((~moved).sum()):
            readings.notes.append(
                f"The attack found nothing for {still} of {len(x)} images; they have no noise."
            )
        others = {"attacked": (attacked, torch.ones_like(moved)), "noise": (noisy, moved)}
        for condition, (z, chosen) in others.items():
            kept = (case.logits(z).argmax(1) == predicted).double()
            readings.add("prediction", condition, "kept", _where(chosen, kept))
        self._aimed_at(case, attack, others, readings)
        for name, method in methods(self.attributions).items():
            with noted_refusal(readings, name):
                maps = [maps_of(case, method, z, predicted) for z in (x, attacked, noisy)]
                self._compare(readings, name, maps, moved.cpu())
        self._draw(readings, case, predicted, attacked, noisy)
        self._attention(case, readings)
        return readings

    def _aimed_at(
        self,
        case: Case,
        attack: ExplanationAttack,
        others: dict[str, tuple[Tensor, Tensor]],
        readings: Readings,
    ) -> None:
        """The map under attack, if the attack can tell it."""
        counted = getattr(attack, "intersection", None)
        if counted is None:
            readings.notes.append("The attack does not tell which pixels of its own map stayed on top.")
            return
        found = {
            condition: _where(chosen, counted(case.model, case.x, z).double())
            for condition, (z, chosen) in others.items()
        }
        for condition, values in found.items():
            readings.add("aimed_at", condition, "top_k", values)
        readings.add("aimed_at", "attacked", "top_k_below_noise", found["noise"] - found["attacked"])

    def _compare(self, readings: Readings, name: str, maps: list[Tensor], moved: Tensor) -> None:
        clean, attacked, noisy = maps
        everything = torch.ones_like(moved)
        for metric in self.measures:
            under = _where(everything, SHIFTS[metric](clean, attacked))
            beside = _where(moved, SHIFTS[metric](clean, noisy))
            readings.add(name, "attacked", metric, under)
            readings.add(name, "noise", metric, beside)
            if metric == "top_k":
                readings.add(name, "attacked", "top_k_below_noise", beside - under)
        for state, found in zip(("clean", "attacked", "noisy"), maps if self.gallery else (), strict=False):
            readings.pictures[f"map.{name}.{state}"] = drawable(found[: self.gallery].sum(1))

    def _draw(
        self, readings: Readings, case: Case, predicted: Tensor, attacked: Tensor, noisy: Tensor
    ) -> None:
        if not self.gallery:
            return
        shown = slice(self.gallery)
        for name, images in (("clean", case.x), ("attacked", attacked), ("noisy", noisy)):
            readings.pictures[f"gallery.{name}"] = drawable(images[shown])
        readings.pictures["gallery.label"] = case.y[shown].cpu().numpy()
        readings.pictures["gallery.predicted"] = predicted[shown].cpu().numpy()

    def _attention(self, case: Case, readings: Readings) -> None:
        """Before and after each attack, on images that are right before."""
        if not self.attacks:
            readings.notes.append("The experiment names no attacks under which attention is measured.")
            return
        rows, count = case.right().nonzero().flatten(), len(case.test.y)
        if not len(rows):
            readings.notes.append(f"The model classifies none of the {count} images right: no attention.")
        y = case.y[rows]
        before = attention_ratios(case, case.x[rows], y)
        readings.add("attention", "clean", "log_ratio", scattered(before, rows, count))
        for name, block in self.attacks.items():
            z = case.adversarial(crafting(block, at=f"attacks.{name}"))[rows]
            after = attention_ratios(case, z, y)
            fooled = (case.logits(z).argmax(1) != y).double() if len(rows) else torch.zeros(0)
            readings.add("attention", name, "log_ratio", scattered(after, rows, count))
            readings.add("attention", name, "log_ratio_change", scattered(after - before, rows, count))
            readings.add("attention", name, "fooled", scattered(fooled, rows, count))


def attention_ratios(case: Case, x: Tensor, y: Tensor) -> Tensor:
    """Logarithm of the attention for the labels y (n,) over that for the likeliest wrong class, on images x, (n,)."""
    found = [torch.zeros(0, device=x.device)]
    with eval_mode(case.model), torch.enable_grad():
        for part, labels in zip(torch.split(x, PART), torch.split(y, PART), strict=True):
            z = part.detach().clone().requires_grad_(True)
            found.append(log_ratio(z, case.model(z), labels).detach())
    return torch.cat(found)


def _where(chosen: Tensor, values: Tensor) -> Tensor:
    """Numbers (N,) of the chosen images, on the CPU, NaN elsewhere."""
    return torch.where(chosen.cpu(), values.detach().double().cpu(), torch.nan)


def _built(block: dict[str, Any]) -> Any:
    return build(EXPLANATION_ATTACKS, block, at="explanation_attack")
