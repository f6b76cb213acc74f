"""How few training images decide about one test image: influence poisoning of the head.

Koh & Liang, "Understanding Black-box Predictions via Influence Functions", ICML 2017, arXiv:1703.04730; formulas and
what differs from the paper: `influence_poisoning`. The paper turned most of its test images by two training images
each, of two classes on features of a large network; here the head has all classes and small networks beneath it.
"""

import numpy as np
import torch
from pydantic import Field

from deconfound.fields import Count, Eps, Natural, Positive, hyperparameters
from deconfound.influence_poisoning import Outcome, frozen_head, poison_by_influence
from deconfound.interpretations.case import Case, Floats, Readings


@hyperparameters
class InfluencePoisoning:
    """moved: how many training images the attacker may move, each number an attack of its own. eps: linf, pixel units;
    steps of the ascent; l2: penalty of the head. targets: test images that are attacked one by one, the first that the
    head gets right; examples: test images among which they are sought. pictured: training images in pictures.

    Per test image that is a target, at `images_{moved}`: under `influence` `flipped`, the head trained again errs, and
    `loss_change`, nats; under `noise` `loss_change`, where the same images get random signs of the same size. Per
    run: under `influence` `correlation`, of predicted and actual changes over the targets, which says how far influence
    can be trusted here. At `head`, `clean` `right`: of the untouched head, fitted anew on the training images.

    Pictures of the first target and the largest number moved: `target` (C, H, W), `before`, `after` (P, C, H, W)
    uint8; `label` and `places` (P,) among the training images, int64.
    """

    moved: tuple[Count, ...] = Field(default=(1, 2, 10), min_length=1)
    eps: Eps = 0.1
    steps: Count = 15
    l2: Positive = 1e-2
    targets: Count = 8
    examples: Count = 100
    pictured: Natural = 4

    def __call__(self, case: Case) -> Readings:
        """See the class."""
        case, found = case.first(self.examples), Readings()
        head = frozen_head(case.model, case.train, l2=self.l2)
        features = case.features(case.test.x).double().cpu()
        told = head.logits(torch.cat([features, features.new_ones(len(features), 1)], 1)).argmax(1)
        right = told == case.test.y.cpu()
        found.add("head", "clean", "right", right.double())
        chosen = right.nonzero().flatten()[: self.targets].tolist()
        if not chosen:
            found.notes.append("The head gets no test image right, so there is none to turn.")
        for count in (k for k in self.moved if k <= len(case.train.y)):
            outcomes = {
                place: poison_by_influence(
                    case.model,
                    case.train,
                    case.test.x[place],
                    int(case.test.y[place]),
                    k=count,
                    eps=self.eps,
                    steps=self.steps,
                    rng=case.rng(f"influence poisoning {count} {place}"),
                    head=head,
                )
                for place in chosen
            }
            self._read(found, count, outcomes, len(right))
            if outcomes and count == max(self.moved):
                self._draw(found, case, chosen[0], outcomes[chosen[0]])
        return found

    @staticmethod
    def _read(found: Readings, count: int, outcomes: dict[int, Outcome], images: int) -> None:
        def at(values: dict[int, float]) -> Floats:
            row = np.full(images, np.nan)
            row[list(values)] = list(values.values())
            return row

        word = f"images_{count}"
        found.add(word, "influence", "flipped", at({p: float(o.flipped) for p, o in outcomes.items()}))
        found.add(word, "influence", "loss_change", at({p: o.actual for p, o in outcomes.items()}))
        found.add(word, "noise", "loss_change", at({p: o.noise for p, o in outcomes.items()}))
        pairs = np.array([(o.predicted, o.actual) for o in outcomes.values()]).reshape(-1, 2)
        if len(pairs) > 2 and (pairs.std(0) > 0).all():
            found.note(word, "influence", "correlation", float(np.corrcoef(pairs.T)[0, 1]))

    def _draw(self, found: Readings, case: Case, place: int, outcome: Outcome) -> None:
        rows = outcome.rows[: self.pictured]
        found.pictures["target"] = case.test.x[place].cpu().numpy()
        found.pictures["label"] = np.array([int(case.test.y[place])])
        found.pictures["before"] = case.train.x[rows].cpu().numpy()
        found.pictures["after"] = outcome.x[: self.pictured].cpu().numpy()
        found.pictures["places"] = rows.numpy()
