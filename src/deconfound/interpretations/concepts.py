"""Concepts: does a thing that people have a word for raise the logit of a class?

Kim et al., "Interpretability Beyond Feature Attribution: Quantitative Testing with Concept Activation Vectors", ICML
2018, arXiv:1711.11279. The concepts need no labels: they are edits of test images, or known causes of them. A direction
leads from the mean activation of a random set of images to that of a set with the concept (the paper trains a linear
separator); activations are means over the positions of a layer; the share is that of images whose logit grows along the
direction. Random sets and concept never hold the same image, and differ in nothing but the concept: the same classes,
the same split. What p is, and why it is not the paper's: see `directions`. At the input of the head the derivatives
are the weights of the head, the same for every image.
"""

from collections.abc import Callable
from typing import Annotated, NamedTuple

import numpy as np
import torch
from pydantic import Field
from torch import Generator, Tensor
from torch.nn import functional as F

from deconfound.attacks import ATTACKS
from deconfound.components import concept_direction
from deconfound.fields import Count, Positive, hyperparameters
from deconfound.interpretations.case import Case, Readings, selected
from deconfound.interpretations.consistency import Consistency, Reader
from deconfound.interpretations.directions import Sets, answer
from deconfound.interpretations.layers import (
    LAST_CONV,
    PENULTIMATE,
    located,
    victims_of,
)
from deconfound.interpretations.regions import AttackBlock
from deconfound.measures import auroc
from deconfound.models.classifier import to_unit
from deconfound.registry import build

LEVEL = 0.05  # of significance
FEWEST = 2  # images of a set
FORMS = {
    "own_class": 0,
    "next_class": 1,
}  # how far a concept's class lies above the one whose logit is asked about


class Asked(NamedTuple):
    """Whose logit is asked about: of the test images that are chosen (N,) bool, derivatives (n, D)."""

    chosen: Tensor
    gradients: Tensor


@hyperparameters
class Concepts:
    """layer: `last_conv`, `penultimate` or the name of a module, as in `components`; a network without maps is read at
    the input of its head. examples: test images, at most. size: images of a set; sets: random ones. strength of the
    edits, pixel units; period of the stripes, pixels. attack: the block of an attack, {kind: pgd, ...}, for the concept
    of an adversarial perturbation; without one that is left out.

    Per test image: `share` of the directions along which its logit grows, a half by chance. Per run: `p`, and the
    central 95 % of the mean shares of random sets, `null_low` and `null_high`; of concepts that have a form for every
    class, `significant`, the share of classes with p below 0.05. Rows, and what is expected:

    - `trigger.target`, images and logit of the target class, and `trigger.victims`, images that the trigger sends away
      and the logit of where to: near 1 and significant in a backdoored model, as random sets without a backdoor.
    - `style.own_class`, the ground texture of a class and the logit of that class: above `style.next_class`, the
      texture of the next one, where a model relies on grounds that go with its labels.
    - `stripes`, `tint` (colour pictures only), `noise` (of high frequency), each `.own_class`: no direction is expected
      in general; noise comes near 0 where the model is fragile to it.
    - `adversarial.own_class`, perturbed images of a class against others of it, and the logit of that class: near 0,
      below `adversarial.next_class`, where the perturbations of a class have a direction in common.
    - `consistency`: `score` per image, clean, under the attack where it fools, stamped where it works; `auroc` of the
      latter two against clean images. On small networks about a half for PGD: it sees triggers, if anything.
    """

    layer: str = LAST_CONV
    examples: Count = 400
    size: Count = 50
    sets: Annotated[Count, Field(ge=3)] = 20
    strength: Positive = 0.2
    period: Annotated[Count, Field(ge=2)] = 4
    attack: AttackBlock | None = None

    def __call__(self, case: Case) -> Readings:
        """See the class. Pictures: `concepts` (M,) names; `class_shares` and `class_p` (M, K), of the images and logit
        of each class, mean over the random sets; `style_shares` and `adversarial_shares` (K, sets), `style_p` and
        `adversarial_p` (K,), by class; `examples` (M, 4, C, H, W) uint8.
        """
        case, found = case.first(self.examples), Readings()
        names = list(located(case.model, case.x[:1], [self.layer], found.notes).values())
        if not names:
            names = list(located(case.model, case.x[:1], [PENULTIMATE], found.notes).values())
            found.notes.append(
                "Concepts are read at the input of the head, where all images of a class have the same derivatives."
            )
        reader = Reader(case, names[0])
        own = Asked(torch.ones(len(case.test.y), dtype=torch.bool), reader.derivatives(case.x, case.test.y))
        self._edited(case, reader, own, found)
        self._attacked(case, reader, own, found)
        self._triggered(case, reader, found)
        self._styled(case, reader, own, found)
        self._consistent(case, reader, found)
        return found

    def _edited(self, case: Case, reader: Reader, own: Asked, found: Readings) -> None:
        edits = self.edits(case.x, rng=case.rng("concepts edits"))
        if "tint" not in edits:
            found.notes.append("The concept of a red tint is left out: the pictures have no colours.")
        plain, y = reader.heights(case.x), case.test.y.cpu()
        shares, ps = np.full((2, len(edits), case.classes), np.nan)
        for row, (name, z) in enumerate(edits.items()):
            sets = self._paired(reader.heights(z), plain, rng=case.rng(f"concepts {name}"))
            if not _answered(found, name, "own_class", own, sets) or sets is None:
                continue
            for label in torch.unique(y).tolist():
                said = answer(own.gradients[y == label], sets)
                shares[row, label], ps[row, label] = float(said.shares.mean()), said.p
        found.pictures["concepts"] = np.array(list(edits))
        found.pictures["class_shares"], found.pictures["class_p"] = shares, ps
        shown = torch.stack([z[:4] for z in edits.values()]).cpu()
        found.pictures["examples"] = (255 * shown).round().to(torch.uint8).numpy()

    def edits(self, x: Tensor, *, rng: Generator) -> dict[str, Tensor]:
        """Images x (N, C, H, W) in [0, 1] with horizontal stripes, a red tint (colours only), and noise of high
        frequency.
        """
        rows = torch.arange(x.shape[2], device=x.device)
        wave = 1.0 - 2.0 * (rows % self.period >= self.period / 2).to(x)
        drawn = torch.randn(x.shape, generator=rng)
        high = drawn - F.avg_pool2d(drawn, 3, stride=1, padding=1, count_include_pad=False)
        found = {"stripes": x + self.strength * wave[:, None]}
        if x.shape[1] == 3:
            found["tint"] = x + self.strength * torch.tensor([1.0, -1.0, -1.0]).to(x)[:, None, None]
        found["noise"] = x + self.strength * high.to(x)
        return {name: z.clamp(0, 1) for name, z in found.items()}

    def _triggered(self, case: Case, reader: Reader, found: Readings) -> None:
        victims = victims_of(case)
        if (
            victims is None
            or case.truth.stamped is None
            or case.truth.hoped is None
            or not bool(victims.any())
        ):
            found.notes.append(
                "The concept of a trigger is left out: the run has no trigger, or it has no victims."
            )
            return
        hoped, y = case.truth.hoped.cpu(), case.test.y.cpu()
        stamped, plain = reader.heights(case.truth.stamped[victims]), reader.heights(case.test.x[victims])
        sets = self._paired(stamped, plain, rng=case.rng("concepts trigger"))
        away = Asked(victims, reader.derivatives(case.test.x[victims], hoped[victims]))
        _answered(found, "trigger", "victims", away, sets)
        targets = torch.unique(hoped[victims])
        inside = y == targets[0]
        if len(targets) > 1 or not bool(inside.any()):
            found.notes.append(
                "trigger.target is left out: there is more than one target, or no image of it."
            )
            return
        target = Asked(inside, reader.derivatives(case.test.x[inside], y[inside]))
        _answered(found, "trigger", "target", target, sets)

    def _styled(self, case: Case, reader: Reader, own: Asked, found: Readings) -> None:
        moved, style = case.truth.moved, case.truth.moved_style
        if moved is None or style is None:
            found.notes.append("The concepts of style are left out: no image is known in another style.")
            return
        h, style = reader.heights(moved), style.cpu()

        def sets_of(k: int) -> Sets | None:
            return self._drawn(h[style == k], h[style != k], rng=case.rng(f"concepts style {k}"))

        self._by_class(case, own, found, "style", sets_of)

    def _attacked(self, case: Case, reader: Reader, own: Asked, found: Readings) -> None:
        if self.attack is None:
            return
        z, y = case.adversarial(build(ATTACKS, self.attack, at="attack")), case.test.y.cpu()
        changed, plain = reader.heights(z), reader.heights(case.x)

        def sets_of(k: int) -> Sets | None:
            return self._paired(changed[y == k], plain[y == k], rng=case.rng(f"concepts adversarial {k}"))

        self._by_class(case, own, found, "adversarial", sets_of)

    def _by_class(
        self,
        case: Case,
        own: Asked,
        found: Readings,
        concept: str,
        sets_of: Callable[[int], Sets | None],
    ) -> None:
        """Add the answers about a concept that has a form for every class."""
        y, forms = case.test.y.cpu(), [sets_of(k) for k in range(case.classes)]
        shares, ps = np.full((case.classes, self.sets), np.nan), np.full(case.classes, np.nan)
        for condition, above in FORMS.items():
            values = np.full(len(y), np.nan)
            for label in torch.unique(y).tolist():
                sets, rows = forms[(label + above) % case.classes], (y == label).numpy()
                if sets is None:
                    continue
                said = answer(own.gradients[rows], sets)
                values[rows] = said.images.numpy()
                if condition == "own_class":
                    shares[label], ps[label] = said.shares.numpy(), said.p
            found.add(concept, condition, "share", values)
        known = np.isfinite(ps)
        if not known.any():
            found.notes.append(f"The concept {concept} is left out: there are too few images of every class.")
            return
        found.note(concept, "own_class", "significant", float((ps[known] < LEVEL).mean()))
        found.pictures[f"{concept}_shares"], found.pictures[f"{concept}_p"] = shares, ps

    def _paired(self, changed: Tensor, plain: Tensor, *, rng: Generator) -> Sets | None:
        """Sets from activations (N, D) of the same images with and without a concept."""
        order, half = torch.randperm(len(plain), generator=rng), min(self.size, len(plain) // 3)
        return self._drawn(changed[order[:half]], plain[order[half:]], rng=rng)

    def _drawn(self, concept: Tensor, others: Tensor, *, rng: Generator) -> Sets | None:
        """Sets of equal size, the random ones drawn without replacement; None where there are too few images."""
        count = min(self.size, len(concept), len(others) // 2)  # so that random sets differ
        if count < FEWEST:
            return None
        order = torch.randperm(len(concept), generator=rng)[:count]
        draws = [torch.randperm(len(others), generator=rng)[:count] for _ in range(self.sets)]
        return Sets(concept[order], others, [others[draw] for draw in draws])

    def _consistent(self, case: Case, reader: Reader, found: Readings) -> None:
        if case.val is None or len(case.val.y) < FEWEST:
            found.notes.append("Consistency with concepts is left out: there are no held-out images.")
            return
        val, y = to_unit(case.val.x.to(case.device)), case.val.y.cpu()
        plain = reader.heights(val)
        edits = self.edits(val, rng=case.rng("concepts held out"))
        directions = [concept_direction(reader.heights(z), plain) for z in edits.values()]
        for label in torch.unique(y).tolist():
            if bool((y != label).any()):
                directions.append(concept_direction(plain[y == label], plain[y != label]))
        check = Consistency(reader, val, torch.stack(directions), case.classes)
        clean, right = check.score(case.x), case.right().cpu()
        found.add("consistency", "clean", "score", clean)
        situations: dict[str, tuple[Tensor, Tensor]] = {}
        if self.attack is not None:
            z = case.adversarial(build(ATTACKS, self.attack, at="attack"))
            situations["attack"] = z, right & ~case.right(z).cpu()
        victims = victims_of(case)
        if victims is not None and case.truth.stamped is not None and case.truth.hoped is not None:
            z = to_unit(case.truth.stamped.to(case.device))
            situations["trigger"] = z, victims & (case.logits(z).argmax(1).cpu() == case.truth.hoped.cpu())
        for situation, (z, chosen) in situations.items():
            if not bool(chosen.any()) or not bool(right.any()):
                found.notes.append(f"Consistency under the {situation}: it succeeded on no image.")
                continue
            scores = check.score(z[chosen.to(z.device)])
            found.add("consistency", situation, "score", selected(scores, chosen, len(chosen)))
            both = torch.cat([clean[right], scores]).numpy()
            positive = np.arange(len(both)) >= int(right.sum())
            found.note("consistency", situation, "auroc", auroc(both, positive))


def _answered(found: Readings, concept: str, condition: str, asked: Asked, sets: Sets | None) -> bool:
    """Add the answer of one concept, if there were enough images."""
    if sets is None or not len(asked.gradients):
        found.notes.append(f"The concept {concept} is left out: too few images.")
        return False
    said = answer(asked.gradients, sets)
    found.add(concept, condition, "share", selected(said.images, asked.chosen, len(asked.chosen)))
    found.note(concept, condition, "p", said.p)
    found.note(concept, condition, "null_low", float(said.null.quantile(0.025)))
    found.note(concept, condition, "null_high", float(said.null.quantile(0.975)))
    return True
