"""Components: what the single units of a layer answer to, and which of them a trigger or a perturbation moves.

The statistics are those of `deconfound.components`, with their papers: class selectivity (Morcos et al., ICLR 2018),
trigger activation change (Zheng et al., ECCV 2022), neuron sensitivity (Zhang et al., IEEE TIP 2021), network
dissection (Bau et al., CVPR 2017) with masks that are known here. Conductance: Dhamdhere, Sundararajan, Yan, "How
Important Is a Neuron?", ICLR 2019, arXiv:1805.12233. Pictures that excite a unit: see `portraits`.

Ours: noise of the same l2 norm as the trigger or the perturbation stands beside either, since any change of the pixels
moves every unit. Dissection is read twice. As published, a unit is active at the top 0.5 % of the positions, whatever
the size of the mask; where the masks cover more than an eighth of the pictures, as pasted objects may, no unit can
reach an IoU of 0.04 that way. So each unit is also given as many positions as the masks have, beside the IoU that a
unit without any relation to the masks would have then. Which units are a cause is not said here: `prune_curve` takes
them away.
"""

from dataclasses import dataclass

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from deconfound.attacks import ATTACKS
from deconfound.attributions.shift import noisy_twin
from deconfound.components import DETECTOR, TOP, activation_change, overlap, selectivity, sensitivity
from deconfound.fields import Count, Natural, OpenFraction, hyperparameters
from deconfound.interpretations.case import Case, Readings, selected
from deconfound.interpretations.layers import (
    BATCH,
    LAST_CONV,
    PENULTIMATE,
    located,
    means,
    outputs,
    units_second,
    victims_of,
)
from deconfound.interpretations.portraits import Portrait
from deconfound.interpretations.regions import AttackBlock
from deconfound.models.classifier import Classifier, eval_mode, to_unit
from deconfound.properties.vulnerability import rank_correlation
from deconfound.registry import build

BINS = 20  # of histograms of selectivity, on [0, 1]
BEST = 3  # units that count as the top ones
SHOWN = 9  # images that a unit is shown with
PATH_IMAGES = 64  # images, at most, whose conductances are averaged


@dataclass(frozen=True)
class Layer:
    """word: what readings call it; name: of the module; h (N, D, ...): its outputs on the test images."""

    word: str
    name: str
    h: Tensor


@dataclass(frozen=True)
class Twins:
    """Images (n, C, H, W) in [0, 1] that were changed, and noise of the same size; chosen (N,) bool: which they are."""

    chosen: Tensor
    changed: Tensor
    noisy: Tensor


@hyperparameters
class Components:
    """layers: `last_conv`, the last maps before any pooling after them; `penultimate`, the input of the head; or names
    of modules. A unit is a channel or a feature. examples: test images, at most. attack: the block of an attack,
    {kind: pgd, ...}, for the sensitivities; without one there are none. top: share of the positions at which a unit
    counts as active.

    shown: units per layer that are drawn: those that the trigger moves most, or the most selective ones where there is
    no trigger; each with the nine test images that excite it most and with a portrait, a picture made to excite it, in
    which activations count in parts of the largest one on the test images. conductance: points on the way from an image
    to its stamped twin; 0 leaves it out.

    Per layer and run: selectivity; how much few units stand out in activation change and in sensitivity
    (`concentration`: mean of the top three over the median; `top_share`: of the sum); IoU with object and trigger. Per
    image: the relative change of the whole layer. Expected: in a backdoored model the change under the trigger is
    concentrated on few units and larger than under noise; where a defense worked, both are as in a clean model.
    """

    layers: tuple[str, ...] = Field(default=(LAST_CONV, PENULTIMATE), min_length=1)
    examples: Count = 300
    attack: AttackBlock | None = None
    top: OpenFraction = TOP
    shown: Natural = 2
    portrait: Portrait = Portrait()
    conductance: Natural = 0

    def __call__(self, case: Case) -> Readings:
        """See the class. Pictures of a layer L: L_selectivity (20,) counts on [0, 1]; L_change (2, D) under trigger and
        noise, largest first, of the units L_change_units (D,); L_sensitivity (2, D) under attack and noise; L_units
        (u,), drawn: L_top_images (u, n, C, H, W) uint8, L_maximised (u, C, H, W) uint8, L_reached (u,) in parts of the
        largest activation on the images, L_began (u,), 0 at noise, 1 at the mean of the top images, 2 at the first of
        them, -1 for a unit that nothing wakes; L_conductance (D,), of the units L_change_units.
        """
        case, found = case.first(self.examples), Readings()
        twins = self._twins(case, found)
        for word, name in located(case.model, case.x[:1], self.layers, found.notes).items():
            layer = Layer(word, name, outputs(case.model, name, case.test.x))
            heights = means(layer.h)
            selective = selectivity(heights.double(), case.test.y.cpu(), case.classes)
            _note_selectivity(found, layer, selective)
            order = selective.argsort(descending=True, stable=True)
            changes = {kind: _changes(case, found, layer, kind, pair) for kind, pair in twins.items()}
            if "trigger" in twins:
                order = changes["trigger"].argsort(descending=True, stable=True)
                if self.conductance:
                    self._conduct(case, found, layer, twins["trigger"], changes["trigger"])
            self._dissect(case, found, layer)
            if self.shown:
                self._draw(case, found, layer, heights, order[: self.shown])
        return found

    def _twins(self, case: Case, found: Readings) -> dict[str, Twins]:
        """By condition, `attack` and `trigger`."""
        changed: dict[str, tuple[Tensor, Tensor]] = {}
        if self.attack is not None:
            adversarial = case.adversarial(build(ATTACKS, self.attack, at="attack"))
            changed["attack"] = torch.ones(len(adversarial), dtype=torch.bool), adversarial
        victims = victims_of(case)
        if victims is None or case.truth.stamped is None or not bool(victims.any()):
            found.notes.append(
                "Activation change under a trigger: the run has no trigger, or it has no victims."
            )
        else:
            stamped = case.truth.stamped[victims].to(case.device)
            changed["trigger"] = victims, to_unit(stamped)
        twins = {}
        for kind, (chosen, z) in changed.items():
            rng = case.rng(f"components noise {kind}")
            twins[kind] = Twins(chosen, z, noisy_twin(case.x[chosen.to(case.device)], z, norm="l2", rng=rng))
        return twins

    def _dissect(self, case: Case, found: Readings, layer: Layer) -> None:
        """IoU with the object on untouched images, with the trigger's place on stamped ones."""
        if layer.h.dim() != 4:
            found.notes.append(f"Dissection of {layer.word}: its units have no positions.")
            return
        if case.truth.mask is None:
            found.notes.append(f"Dissection of {layer.word}: nobody knows where the objects lie.")
        else:
            self._overlap(found, layer.word, "object", layer.h, case.truth.mask.bool())
        victims = victims_of(case)
        if victims is not None and case.truth.stamped is not None and bool(victims.any()):
            stamped = case.truth.stamped[victims]
            region = (stamped != case.test.x.cpu()[victims]).any(1)
            self._overlap(found, layer.word, "trigger", outputs(case.model, layer.name, stamped), region)
            self._overlap(found, layer.word, "trigger_absent", layer.h[victims], region)

    def _overlap(self, found: Readings, word: str, condition: str, maps: Tensor, masks: Tensor) -> None:
        area = float(masks.double().mean())
        if not 0 < area < 1:
            found.notes.append(
                f"Dissection of {word}, {condition}: the masks are empty, or cover everything."
            )
            return
        published, matched = overlap(maps, masks, top=self.top), overlap(maps, masks, top=area)
        found.note(word, condition, "iou_max", float(published.max()))
        found.note(word, condition, "iou_detectors", float((published > DETECTOR).double().mean()))
        found.note(word, condition, "matched_iou_max", float(matched.max()))
        found.note(word, condition, "matched_iou_chance", area / (2 - area))
        if self.top / area < DETECTOR:
            found.notes.append(
                f"Dissection of {word}, {condition}: the masks cover {area:.0%} of the pictures, so that no unit active"
                f" at {self.top:.1%} of the positions can exceed an IoU of {DETECTOR}; see matched_iou_max."
            )

    def _conduct(self, case: Case, found: Readings, layer: Layer, twins: Twins, change: Tensor) -> None:
        """Through which units the logit of the hoped label rises on the way from an image to its stamped twin."""
        assert case.truth.hoped is not None
        rows = twins.chosen.nonzero().squeeze(1)[:PATH_IMAGES]
        clean, stamped = case.x[rows.to(case.device)], twins.changed[: len(rows)]
        hoped = case.truth.hoped[rows].to(case.device)
        flow = conductance(case.model, layer.name, clean, stamped, hoped, steps=self.conductance)
        order = found.pictures[f"{layer.word}_change_units"]
        found.pictures[f"{layer.word}_conductance"] = flow[order].float().numpy()
        found.note(layer.word, "trigger", "conductance_top_share", top_share(flow.clamp_min(0)))
        rank = rank_correlation(flow.numpy(), change.double().numpy())
        found.note(layer.word, "trigger", "conductance_rank", rank)

    def _draw(self, case: Case, found: Readings, layer: Layer, heights: Tensor, units: Tensor) -> None:
        best = heights.topk(min(SHOWN, len(heights)), dim=0).indices[:, units].T
        images = to_unit(case.test.x.cpu()[best])
        others, rng = [images.mean(1), images[:, 0]], case.rng(f"components {layer.word}")
        largest = heights.amax(0)[units]
        picture, reached, began = self.portrait(case.model, layer.name, units, largest, others, rng=rng)
        found.pictures[f"{layer.word}_units"] = units.numpy()
        found.pictures[f"{layer.word}_top_images"] = case.test.x.cpu()[best].numpy()
        found.pictures[f"{layer.word}_maximised"] = (255 * picture).round().to(torch.uint8).numpy()
        found.pictures[f"{layer.word}_reached"] = reached.numpy()
        found.pictures[f"{layer.word}_began"] = began.numpy()
        if asleep := units[began < 0].tolist():
            found.notes.append(f"Portraits of units {asleep} of {layer.word}: no picture wakes them.")


def top_share(values: Tensor) -> float:
    """The three largest of values (D,) that are not negative, as a part of their sum; NaN where that is 0."""
    total = float(values.sum())
    return float(values.topk(min(BEST, len(values))).values.sum()) / total if total > 0 else float("nan")


def concentration(values: Tensor) -> float:
    """Mean of the three largest of values (D,) that are not negative, over their median; NaN where that is 0."""
    middle = float(values.double().quantile(0.5))
    return float(values.topk(min(BEST, len(values))).values.mean()) / middle if middle > 0 else float("nan")


def conductance(
    model: Classifier, name: str, start: Tensor, end: Tensor, target: Tensor, *, steps: int
) -> Tensor:
    """(D,) float64 on the CPU: through which units of a module the logits of the classes `target` (n,) change on the
    straight way from images to others (n, C, H, W), mean over the images; they add up to the mean change.
    """
    from captum.attr import LayerConductance

    with eval_mode(model):
        flow: Tensor = LayerConductance(model, model.get_submodule(name)).attribute(
            end.clone().requires_grad_(),
            baselines=start,
            target=target,
            n_steps=steps,
            internal_batch_size=max(BATCH, len(start)),
        )
    found = units_second(flow.detach().double().cpu())
    return found.flatten(2).sum(2).mean(0) if found.dim() > 2 else found.mean(0)


def _changes(case: Case, found: Readings, layer: Layer, kind: str, twins: Twins) -> Tensor:
    """Note how a trigger or an attack, and noise of the same size, move the units; (D,) of the former."""
    before, count = layer.h[twins.chosen], len(layer.h)
    statistic = activation_change if kind == "trigger" else sensitivity
    rows, name = [], "change" if kind == "trigger" else "sensitivity"
    for condition, z in ((kind, twins.changed), (f"{kind}_noise", twins.noisy)):
        after = outputs(case.model, layer.name, z)
        moved = statistic(before, after)
        rows.append(moved)
        found.note(layer.word, condition, f"{name}_mean", float(moved.mean()))
        found.note(layer.word, condition, f"{name}_concentration", peak := concentration(moved))
        if np.isnan(peak):
            found.notes.append(
                f"Concentration of {layer.word} under {condition}: half of the units do not move at all."
            )
        found.note(layer.word, condition, f"{name}_top_share", top_share(moved))
        length = before.flatten(1).norm(dim=1)
        share = (after - before).flatten(1).norm(dim=1) / torch.where(length > 0, length, torch.nan)
        found.add(layer.word, condition, "relative_change", selected(share, twins.chosen, count))
    order = rows[0].argsort(descending=True, stable=True)
    found.pictures[f"{layer.word}_{name}"] = torch.stack(rows)[:, order].float().numpy()
    found.pictures[f"{layer.word}_{name}_units"] = order.numpy()
    return rows[0]


def _note_selectivity(found: Readings, layer: Layer, values: Tensor) -> None:
    found.note(layer.word, "clean", "selectivity_mean", float(values.mean()))
    for percent in (10, 50, 90):
        found.note(layer.word, "clean", f"selectivity_q{percent}", float(values.quantile(percent / 100)))
    found.note(layer.word, "clean", "selectivity_above_half", float((values > 0.5).double().mean()))
    counts, _ = np.histogram(values.numpy(), BINS, (0, 1))
    found.pictures[f"{layer.word}_selectivity"] = counts
    silent = int((layer.h.transpose(0, 1).flatten(1) == 0).all(1).sum())
    found.note(layer.word, "clean", "silent", silent / len(values))
