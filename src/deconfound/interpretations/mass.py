"""Does the evidence lie on the object, and does it lie on the trigger? Attribution held against masks that are known.

Mass ratio, pointing game and overlap: see `attributions.mass`. The trigger as ground truth, and giving back the pixels
that a map marks: Lin, Lee, Celik, "What Do You See? Evaluation of Explainable Artificial Intelligence (XAI)
Interpretability through Neural Backdoors", KDD 2021, arXiv:2009.10639, of which the abstract alone was at hand: as many
of the strongest pixels as the trigger has are given back here. A map is evidence about sensitivity, not proof of cause;
so each stands beside an intervention, which erases the region.
"""

import copy
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor

from deconfound.attributions.baselines import Baseline, BaselineField
from deconfound.fields import Count, Fraction01, Natural, OpenFraction, hyperparameters
from deconfound.interpretations.case import Case, Readings, selected
from deconfound.interpretations.maps import crafting, mean_of, methods, noise_like
from deconfound.interpretations.regions import (
    AttackBlock,
    AttributionBlocks,
    Situation,
    add_galleries,
    changed_region,
    erased,
    read_masses,
)
from deconfound.models.classifier import Classifier, to_unit
from deconfound.optimisers import under
from deconfound.types import Images

Rule = Literal["true", "pred", "pred_clean"]
TWIN = "biased/"  # names of the biased network's tensors among the parts of a defense begin so
DECIDED = 1.1  # ratio from which on a map, or an intervention, takes a side
INTEGRATED: dict[str, Any] = {"kind": "integrated_gradients", "steps": 16, "baseline": "mean"}


@hyperparameters
class ObjectMass:
    """attributions: blocks of attributions by name. targets: classes asked about, `true` (the label), `pred` (what the
    network says of the very image), `pred_clean` (what it says of the clean twin). attack: the block of an attack, or
    null. fill: what replaces an erased region. examples: of the test images; pictured: of those, in pictures.

    Per image, at attribution and `{situation}_{rule}`: `share` of the map's strength on the object, `ratio`, that share
    over the object's share of the area (1 for a uniform map), `pointing` and `iou` of as many of the strongest pixels
    as the object has. Situations: `clean`; `floor`, the same maps against another image's object, which shows what a
    habit of looking at the centre earns; `moved`, under do(style), on images that it changes; of images that were
    right, `success` and `failure` of the attack (where all rules are one) and `noise`, random signs of the size of
    the perturbation. At `model` and `object_erased` or `ground_erased`: `changed`, the prediction is another, and
    `label_logit_change`. Number at attribution and `erasure`: `agrees`, 1 where the map (by its ratio) and the share of
    answers that erasing a region changes, over its area, favour the same region, 0 where they do not, which a note
    says, and none where one of them favours neither by a tenth.

    Pictures, for the first of the rules: `{situation}.images` (P, C, H, W) uint8, `.masks` (P, H, W) uint8, `.places`
    (P,) int64 among the test images and `.maps.{attribution}` (P, H, W) float32, signed, summed over channels.
    """

    attributions: AttributionBlocks = Field(
        default_factory=lambda: {"grad_cam": {"kind": "grad_cam"}, "integrated_gradients": dict(INTEGRATED)}
    )
    targets: tuple[Rule, ...] = Field(default=("true", "pred"), min_length=1)
    attack: AttackBlock | None = None
    fill: BaselineField = Baseline(kind="mean")
    examples: Count = 100
    pictured: Natural = 4

    def __call__(self, case: Case) -> Readings:
        """See the class."""
        case, found = case.first(self.examples), Readings()
        if case.truth.mask is None:
            found.notes.append("No mask says where the object lies, so the mass on it could not be read.")
            return found
        mask = case.truth.mask.bool().cpu()
        seen = mask.flatten(1).any(1)
        if not bool(seen.any()):
            found.notes.append("No test image shows its object, so the mass on it could not be read.")
            return found
        situations = self._situations(case, mask, seen, found)
        for name, method in methods(self.attributions).items():
            read_masses(found, case, name, method, situations, self.pictured)
        add_galleries(found, situations, self.pictured)
        self._erase(found, case, mask, seen)
        return found

    def _situations(self, case: Case, mask: Tensor, seen: Tensor, found: Readings) -> list[Situation]:
        before = case.logits(case.x).argmax(1)

        def asked(x: Tensor) -> dict[str, Tensor]:
            rules = {"true": case.y, "pred": case.logits(x).argmax(1), "pred_clean": before}
            return {rule: rules[rule] for rule in dict.fromkeys(self.targets)}

        clean = asked(case.x)
        if "pred" in clean:
            clean.pop("pred_clean", None)  # the same on the clean image itself
        first = {rule: clean[rule] for rule in list(clean)[:1]}
        other = _another(mask, seen, case)
        places = [
            Situation("clean", case.x, seen, clean, mask),
            Situation("floor", case.x, seen, first, other),
        ]
        if case.truth.moved is None:
            found.notes.append("There are no images under do(style), so the mass could not be read on them.")
        else:
            moved = to_unit(case.truth.moved.to(case.device))
            rows = seen & (moved != case.x).flatten(1).any(1).cpu()
            places.append(Situation("moved", moved, rows, asked(moved), mask))
        if self.attack is None:
            return places
        attack = crafting(self.attack, at="attack")
        x_adv, right = case.adversarial(attack), seen & (before == case.y).cpu()
        fooled = (case.logits(x_adv).argmax(1) != case.y).cpu()
        noisy = noise_like(case, attack, case.x, x_adv, found, "object mass noise")
        return [
            *places,
            Situation("success", x_adv, right & fooled, asked(x_adv), mask),
            Situation("failure", x_adv, right & ~fooled, {"true": case.y}, mask),
            Situation("noise", noisy, right, {"true": case.y}, mask),
        ]

    def _erase(self, found: Readings, case: Case, mask: Tensor, seen: Tensor) -> None:
        before, turned = case.logits(case.x), {}
        for name, region in (("object_erased", mask), ("ground_erased", ~mask)):
            after = case.logits(erased(case, case.x, region, self.fill))
            changed = (after.argmax(1) != before.argmax(1)).double()
            fall = (after - before).gather(1, case.y[:, None]).squeeze(1)
            for metric, values in (("changed", changed), ("label_logit_change", fall)):
                found.add("model", name, metric, selected(values[seen.to(values.device)], seen, len(seen)))
            area = float(region[seen].double().mean())
            turned[name] = float(changed[seen.to(changed.device)].mean()), area
        self._compare(found, turned)

    def _compare(self, found: Readings, turned: Mapping[str, tuple[float, float]]) -> None:
        """Say where a map and the intervention, each per area, take different sides."""
        (by_object, area), (by_ground, rest) = turned["object_erased"], turned["ground_erased"]
        by_answers = _side(by_object * rest, by_ground * area)
        for name in self.attributions:
            read = [place for place in found.each if place[::2] == (name, "ratio")]
            ratio = mean_of(found.each[read[0]]) if read else float("nan")  # clean images, the first rule
            by_map = _side(ratio, 1.0)
            if not by_map or not by_answers:
                continue
            found.note(name, "erasure", "agrees", float(by_map == by_answers))
            if by_map != by_answers:
                found.notes.append(
                    f"{name} and the intervention disagree: the map puts {ratio:.1f} times the object's share of the"
                    f" area on it ({area:.0%}), and erasing it changes {by_object:.0%} of the answers, erasing the"
                    f" ground {by_ground:.0%}."
                )


@hyperparameters
class TriggerMass:
    """attributions: blocks of attributions by name. fill: what replaces the erased trigger. widest: share of the pixels
    above which a trigger counts as spread over the image; then the share `strongest` of the pixels, those that it
    changes most, stand for it, and a note says so. examples: of the test images, of which only victims count (images
    whose label is not the one hoped for); pictured: of those, in pictures. reference: also ask a network of the same
    architecture and recipe that is trained plainly on the training set without its poisoned images (cover images, whose
    labels are right, stay); it costs a training per run.

    The mask of a trigger is what it changes of each image. At attribution and `{stamped,clean}_{hoped,pred}` (the class
    asked about: the attacker's, or the network's answer to the very image): `share`, `ratio` (the trigger mass ratio),
    `pointing` and `iou` as in ObjectMass; of stamped images also `uncovered`, the share of the trigger outside as many
    of the strongest pixels, and `recovered`, whether giving these back from the clean twin brings back the label.

    At `trigger`: `stamped`, per image `hoped` and `right`; `deleted`, after the mask is filled, `gain` (right after
    minus right before), `asr_drop` and `hoped_logit_drop`; `inserted`, stamped minus clean, `hoped_logit` and
    `label_logit`. Numbers: `changed_share` of the pixels, and the `area` of the mask. Pictures as in ObjectMass, of
    the situations `stamped` (maps for the class hoped for) and `clean`.

    Other networks of the run, of the same images and mask: `biased`, the twin that CBD keeps away from, where the
    defense left it among its parts, and `reference`. At attribution and `{biased,reference}_stamped_hoped`: `share`,
    `ratio`, `pointing` and `iou`; at `trigger`: `{biased,reference}_stamped` `hoped` and `{biased,reference}_inserted`
    `hoped_logit`.
    """

    attributions: AttributionBlocks = Field(
        default_factory=lambda: {"saliency": {"kind": "saliency"}, "integrated_gradients": dict(INTEGRATED)}
    )
    fill: BaselineField = Baseline(kind="mean")
    widest: Fraction01 = 0.25
    strongest: OpenFraction = 0.05
    reference: bool = False
    examples: Count = 100
    pictured: Natural = 4

    def __call__(self, case: Case) -> Readings:
        """See the class."""
        case, found = case.first(self.examples), Readings()
        if case.truth.stamped is None or case.truth.hoped is None:
            found.notes.append("No poison in this run: there is no trigger whose mass could be read.")
            return found
        stamped, hoped = to_unit(case.truth.stamped.to(case.device)), case.truth.hoped.to(case.device)
        change = (case.truth.stamped.int() - case.test.x.int()).abs().sum(1).cpu()
        rows = (hoped != case.y).cpu() & (change > 0).flatten(1).any(1)
        if not bool(rows.any()):
            found.notes.append("The trigger changes no victim's image, so its mass could not be read.")
            return found
        mask = self._mask(found, change, rows)
        situations = [
            Situation(name, x, rows, {"hoped": hoped, "pred": case.logits(x).argmax(1)}, mask)
            for name, x in (("stamped", stamped), ("clean", case.x))
        ]
        for name, method in methods(self.attributions).items():
            read_masses(found, case, name, method, situations, self.pictured)
        add_galleries(found, situations, self.pictured)
        self._intervene(found, case, situations[0])
        for word, network in self._others(found, case).items():
            self._ask(found, replace(case, model=network, crafted={}), word, situations[0])
        return found

    def _mask(self, found: Readings, change: Tensor, rows: Tensor) -> Tensor:
        """(N, H, W) bool, of changes (N, H, W)."""
        mask, share, cut = changed_region(change, rows, widest=self.widest, strongest=self.strongest)
        if cut:
            found.notes.append(
                f"The trigger changes {share:.0%} of the pixels: the {cut} of {change[0].numel()} that it changes most"
                " stand for it, and deletion leaves the rest of it in place."
            )
        found.note("trigger", "stamped", "changed_share", share)
        found.note("trigger", "stamped", "area", float(mask[rows].double().mean()))
        return mask

    def _intervene(self, found: Readings, case: Case, at: Situation) -> None:
        hoped, rows = at.targets["hoped"], at.rows
        logits = {
            "clean": case.logits(case.x),
            "stamped": case.logits(at.x),
            "deleted": case.logits(erased(case, at.x, at.mask, self.fill)),
        }
        said = {name: found_logits.argmax(1) for name, found_logits in logits.items()}
        right = {name: (answer == case.y).double() for name, answer in said.items()}
        obeyed = {name: (answer == hoped).double() for name, answer in said.items()}

        def risen(to: str, since: str, target: Tensor) -> Tensor:
            return (logits[to] - logits[since]).gather(1, target[:, None]).squeeze(1)

        values = {
            ("stamped", "hoped"): obeyed["stamped"],
            ("stamped", "right"): right["stamped"],
            ("deleted", "gain"): right["deleted"] - right["stamped"],
            ("deleted", "asr_drop"): obeyed["stamped"] - obeyed["deleted"],
            ("deleted", "hoped_logit_drop"): -risen("deleted", "stamped", hoped),
            ("inserted", "hoped_logit"): risen("stamped", "clean", hoped),
            ("inserted", "label_logit"): risen("stamped", "clean", case.y),
        }
        for (condition, metric), numbers in values.items():
            found.add(
                "trigger", condition, metric, selected(numbers[rows.to(numbers.device)], rows, len(rows))
            )

    def _others(self, found: Readings, case: Case) -> dict[str, Classifier]:
        """Further networks that the trigger is shown to, by the word that their conditions begin with."""
        others = {}
        if twin := under(case.parts, TWIN):
            others["biased"] = copy.deepcopy(case.model)
            others["biased"].load_state_dict(twin)
        if self.reference and (case.retrained is None or case.truth.poisoned is None):
            found.notes.append(
                "No network could be trained without the poisoned images, to be asked the same."
            )
        elif self.reference and case.retrained is not None and case.truth.poisoned is not None:
            kept = ~case.truth.poisoned.bool().cpu()
            clean = Images(case.train.x[kept], case.train.y[kept])
            others["reference"] = case.retrained(clean, "without poison")
        return others

    def _ask(self, found: Readings, case: Case, word: str, at: Situation) -> None:
        """The trigger's mass, and what putting it in does, in another network."""
        hoped, rows = at.targets["hoped"], at.rows
        same = Situation(f"{word}_stamped", at.x, rows, {"hoped": hoped}, at.mask)
        for name, method in methods(self.attributions).items():
            read_masses(found, case, name, method, [same], 0)
        before, after = case.logits(case.x), case.logits(at.x)
        rise = (after - before).gather(1, hoped[:, None]).squeeze(1)
        obeys = (after.argmax(1) == hoped).double()
        for condition, metric, values in (("stamped", "hoped", obeys), ("inserted", "hoped_logit", rise)):
            chosen = selected(values[rows.to(values.device)], rows, len(rows))
            found.add("trigger", f"{word}_{condition}", metric, chosen)


def _side(one: float, other: float) -> int:
    """1 where the first is larger by a tenth at least, -1 where the second is, 0 elsewhere."""
    return int(one > DECIDED * other) - int(other > DECIDED * one)


def _another(mask: Tensor, seen: Tensor, case: Case) -> Tensor:
    """For every image that shows its object the mask of another one that does, each used once."""
    rows = seen.nonzero().squeeze(1)
    order = rows[torch.randperm(len(rows), generator=case.rng("object mass floor"))]
    other = mask.clone()
    other[order] = mask[order.roll(1)]
    return other
