"""Influential examples: the training images that an answer leans on, image by image.

Influence is that of `deconfound.detectors.influence`, with its papers: TracIn (Pruthi et al., NeurIPS 2020), influence
functions (Koh and Liang, ICML 2017), their relative form (Barshan et al., AISTATS 2020); of the head of the network
alone. An image is asked about with the label that the model gives it, so that a helpful training image is one that
pulls towards this answer, right or wrong, and a harmful one pulls away. Ours: the share of poison among the most
helpful images stands beside the share of poison among all training images with that label, since helpful images mostly
bear the label, and half of a target class may be poison.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from deconfound.attacks import ATTACKS
from deconfound.detectors.evidence import Evidence
from deconfound.detectors.influence import Gradients, Influence, gradients_of
from deconfound.errors import UserError
from deconfound.fields import Count, Natural, Positive, hyperparameters
from deconfound.interpretations.case import Case, Floats, Readings, selected
from deconfound.interpretations.layers import victims_of
from deconfound.interpretations.regions import AttackBlock
from deconfound.measures import auroc
from deconfound.models.classifier import to_unit
from deconfound.registry import build
from deconfound.types import Images

PARTS = 20  # of the training set, by self-influence
SILENT = 1e-12  # norm of a gradient below which an answer leans on nothing that rounding has left


@dataclass(frozen=True)
class Asked:
    """Images x (n, C, H, W) that are asked about; chosen (N,) bool: which of the test images they are. given (n,):
    their labels by the model, of which the gradients are; loud (n,) bool: those with a gradient to speak of.
    """

    condition: str
    x: Tensor
    chosen: Tensor
    given: Tensor
    gradients: Gradients
    loud: Tensor


@hyperparameters
class InfluentialExamples:
    """form, damping, widest: of the influence, see `detectors.influence`. examples: test images, at most. top: how many
    of the most helpful training images count. attack: the block of an attack, {kind: pgd, ...}, whose images are asked
    about too where they fool the model. drawn: images per condition that pictures are kept of, with the `neighbours`
    most helpful and most harmful training images.

    Conditions: `clean`, images that the model gets right; `attack`, those that then are wrong; `trigger`, stamped ones
    that got the label hoped for. Per test image, of its `top` most helpful training images: `same_label`, the share
    that bears the label it is given, `poisoned`, the share of poison, and `poisoned_of_label`, what that share would be
    for images drawn from those with the label. Per run: `self_influence`, AUROC of an example's influence on itself for
    poison, `auroc_high` where a large one is suspicious, `auroc_low` where a small one is. Expected: for stamped images
    of a backdoored model, `poisoned` is near 1 and above `poisoned_of_label`; self-influence finds wrong labels in its
    high tail, but triggers, which are easy, often in its low one.
    """

    form: Literal["tracin", "influence", "relative", "per_gradient"] = "relative"
    damping: Positive = 1e-2
    widest: Count = 8192
    examples: Count = 200
    top: Count = 10
    attack: AttackBlock | None = None
    drawn: Natural = 2
    neighbours: Count = 4

    def __call__(self, case: Case) -> Readings:
        """See the class. Pictures per condition C: C_images (m, C, H, W) uint8, asked about, with the labels C_given
        (m,); C_helpful and C_harmful (m, k, C, H, W) uint8, the most so first, of the training images C_helpful_indices
        and C_harmful_indices (m, k), with the labels C_helpful_labels and C_harmful_labels, and C_helpful_poisoned and
        C_harmful_poisoned (m, k) bool where that is known; self_influence (20,): share of poison in the twentieths of
        the training set, from the smallest influence on itself to the largest.
        """
        case, found = case.first(self.examples), Readings()
        asked = self._asked(case, found)
        nobody = Images(case.train.x[:0], case.train.y[:0])
        influence = Influence(form=self.form, damping=self.damping, widest=self.widest, toward="itself")
        try:
            itself = influence.influences(Evidence(case.model, case.train, nobody, case.rng))
            if asked:
                whole = Gradients(*map(torch.cat, zip(*(one.gradients for one in asked), strict=True)))
                towards = influence.on(case.model, case.train, whole)
                for one, values in zip(
                    asked, torch.split(towards, [len(one.x) for one in asked], 1), strict=True
                ):
                    self._answer(case, found, one, values.argsort(dim=0, descending=True, stable=True))
        except UserError as error:
            found.notes.append(f"Influence is left out: {error}.")
            return found
        _on_itself(case, found, itself.numpy())
        return found

    def _asked(self, case: Case, found: Readings) -> list[Asked]:
        """Images by condition; those that there are."""
        asked = []
        for condition, (x, chosen) in self._situations(case, found).items():
            if not bool(chosen.any()):
                found.notes.append(
                    f"Nothing is asked in the condition {condition}: there are no such images."
                )
                continue
            images = x[chosen.to(x.device)]
            given = case.logits(images).argmax(1).cpu()
            gradients = gradients_of(case.model, Images(images, given))
            loud = gradients.errors.norm(dim=1) * gradients.h.norm(dim=1) > SILENT
            if not bool(loud.all()):
                count = int((~loud).sum())
                found.notes.append(
                    f"{condition}: the model is so sure of {count} images that nothing influences the answer."
                )
            asked.append(Asked(condition, images, chosen, given, gradients, loud))
        return asked

    def _situations(self, case: Case, found: Readings) -> dict[str, tuple[Tensor, Tensor]]:
        """Images (N, C, H, W) in [0, 1] by condition, and which of them are asked about, (N,) bool."""
        right = case.right().cpu()
        situations = {"clean": (case.x, right)}
        if self.attack is not None:
            z = case.adversarial(build(ATTACKS, self.attack, at="attack"))
            situations["attack"] = z, right & ~case.right(z).cpu()
        victims = victims_of(case)
        if victims is None or case.truth.stamped is None or case.truth.hoped is None:
            found.notes.append("Stamped images are not asked about: the run has no trigger.")
        else:
            z = to_unit(case.truth.stamped.to(case.device))
            situations["trigger"] = z, victims & (case.logits(z).argmax(1).cpu() == case.truth.hoped.cpu())
        return situations

    def _answer(self, case: Case, found: Readings, asked: Asked, order: Tensor) -> None:
        """order (M, n): the training images, the most helpful first, of every image that is asked about."""
        given, chosen = asked.given, asked.chosen
        labels, places = case.train.y.cpu(), order[: self.top].T
        values = {"same_label": (labels[places] == given[:, None]).double().mean(1)}
        if case.truth.poisoned is not None:
            poisoned = case.truth.poisoned.cpu().bool()
            total = torch.bincount(labels, minlength=case.classes).double()
            among = torch.bincount(labels[poisoned], minlength=case.classes) / total.clamp_min(1)
            values |= {"poisoned": poisoned[places].double().mean(1), "poisoned_of_label": among[given]}
        for metric, numbers in values.items():
            numbers = numbers.masked_fill(~asked.loud, torch.nan)
            found.add("influence", asked.condition, metric, selected(numbers, chosen, len(chosen)))
        shown = asked.loud.nonzero().squeeze(1)[: self.drawn]
        if len(shown):
            x = asked.x[shown.to(asked.x.device)]
            self._draw(case, found, asked.condition, x, given[shown], order[:, shown])

    def _draw(
        self, case: Case, found: Readings, condition: str, x: Tensor, given: Tensor, order: Tensor
    ) -> None:
        """order (N, m): training images of images x (m, C, H, W), the most helpful first."""
        count = min(self.neighbours, len(order))
        found.pictures[f"{condition}_images"] = (255 * x).round().to(torch.uint8).cpu().numpy()
        found.pictures[f"{condition}_given"] = given.numpy()
        for side, places in (("helpful", order[:count].T), ("harmful", order.flip(0)[:count].T)):
            name = f"{condition}_{side}"
            found.pictures[name] = case.train.x.cpu()[places].numpy()
            found.pictures[f"{name}_indices"] = places.numpy()
            found.pictures[f"{name}_labels"] = case.train.y.cpu()[places].numpy()
            if case.truth.poisoned is not None:
                found.pictures[f"{name}_poisoned"] = case.truth.poisoned.cpu().bool()[places].numpy()


def _on_itself(case: Case, found: Readings, values: Floats) -> None:
    """values (M,): influences of training images on themselves."""
    if case.truth.poisoned is None:
        found.notes.append("Shares of poison and self-influence are left out: the run has no poison.")
        return
    poisoned = case.truth.poisoned.cpu().numpy().astype(bool)
    found.note("influence", "train", "poisoned", float(poisoned.mean()))
    if poisoned.all() or not poisoned.any():
        found.notes.append("Self-influence is left out: all training images are poisoned, or none is.")
        return
    high = auroc(values, poisoned)
    found.note("self_influence", "train", "auroc_high", high)
    found.note("self_influence", "train", "auroc_low", 1 - high)
    parts = np.array_split(poisoned[values.argsort(kind="stable")], min(PARTS, len(values)))
    found.pictures["self_influence"] = np.array([part.mean() for part in parts])
