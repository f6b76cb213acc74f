"""Robust networks have gradients that look like images: the panel that puts a number to each side of the sentence.

Alignment and linearised robustness: Etmann, Lunz, Maass, Schönlieb, "On the Connection Between Adversarial Robustness
and Saliency Map Interpretability", ICML 2019, arXiv:1905.04172. Perceptually aligned gradients: Tsipras et al.,
"Robustness May Be at Odds with Accuracy", ICLR 2019, arXiv:1805.12152; Santurkar et al., "Image Synthesis with a Single
(Robust) Classifier", NeurIPS 2019, arXiv:1906.09453. For a linear model of two classes without bias alignment,
linearised robustness and the distance to the boundary are one number; for networks their agreement is what is read.
"""

from dataclasses import replace
from typing import Annotated, Any

import torch
from pydantic import AfterValidator, Field
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from deconfound.attacks import ATTACKS
from deconfound.attacks.ascent import Ascent
from deconfound.attacks.pgd import PGD
from deconfound.attributions.asking import Scalar
from deconfound.fields import Count, Natural, Positive, hyperparameters
from deconfound.interpretations.case import Case, Floats, Readings, selected
from deconfound.interpretations.maps import drawable
from deconfound.interpretations.regions import as_bytes
from deconfound.models.classifier import Classifier, eval_mode
from deconfound.properties.subject import BATCH
from deconfound.properties.vulnerability import rank_correlation
from deconfound.registry import build
from deconfound.threat import ThreatModel

CHUNK = 128  # images per pass with a gradient


def _minimises(block: dict[str, Any]) -> dict[str, Any]:
    made = build(ATTACKS, block, at="attack")
    if not hasattr(made, "minimal") or made.threat.norm != "l2":
        raise ValueError(f"expected an attack of minimal l2 norm, such as ddn, got {block.get('kind')!r}")
    return block


@hyperparameters
class RobustInterpretability:
    """attack: the block of an attack that finds the closest adversarial image in l2 (ddn, deepfool, cw_l2, fab); its
    eps plays no part. masking: the PGD that is run on the cross-entropy and on the margin. radius (l2, pixel units) and
    painting_steps: of the targeted ascent that paints; painted: images that are painted. judged: whether a network of
    the same make, trained on the same images from another start, says what was painted; it costs a training. examples:
    of the test images; pictured: of those, in pictures.

    Per image that is classified right, of the gradient g of the label's logit and pixels x in [0, 1]: at `gradient` and
    `clean`, `alpha` |<x, g>| / |g|, in pixel units, `alpha_centred`, the same of x minus the mean colour of the
    training images, `cosine` of x and g, `norm`, `loss_norm` (of the gradient of the cross-entropy), `variation`, the
    total variation of g over its l1 norm; at `other_image` `alpha` and `cosine` with another image in the place of x,
    the floor. At `boundary`: `linearised` `l2`, the smallest distance to any other class with the network taken as
    linear, and `attacked` `l2`, to the closest adversarial image that was found; numbers `linearised`, `alpha` and
    `rank_correlation`: of both with the latter over the images.

    At `masking`, `cross_entropy` and `margin` `right`: of all images, still right under PGD; `alarm` `gap`, the first
    minus the second, above 0 where the cross-entropy hides a gradient; `clean` `zero_gradient` of the cross-entropy.
    At `painted`, `model` and `judge` `target`: whether they take the painted image for its target; number `judge`
    `accuracy` on the clean images.

    Pictures: `images`, `gradients` (P, C, H, W) float32 and `places` (P,) int64; `starts`, `paintings` (Q, C, H, W)
    uint8, `labels` and `painted_targets` (Q,) int64.
    """

    attack: Annotated[dict[str, Any], AfterValidator(_minimises)] = Field(
        default_factory=lambda: {"kind": "ddn", "eps": 1.0, "steps": 40}
    )
    masking: PGD = PGD(eps=8 / 255)
    radius: Positive = 4.0
    painting_steps: Count = 40
    painted: Natural = 6
    judged: bool = False
    examples: Count = 100
    pictured: Natural = 4

    def __call__(self, case: Case) -> Readings:
        """See the class."""
        case, found = case.first(self.examples), Readings()
        logits = case.logits(case.x)
        right = (logits.argmax(1) == case.y).cpu()
        if not bool(right.any()):
            found.notes.append(
                "The network is right on no test image, so no gradient could be read on a right one."
            )
        own = F.one_hot(case.y, case.classes).to(logits)
        slope = slopes(case.model, case.x, own)
        alpha = self._alignment(found, case, slope, right)
        loss_slope = slopes(case.model, case.x, logits.softmax(1) - own)
        size = loss_slope.flatten(1).norm(dim=1)
        found.add("gradient", "clean", "loss_norm", _of(size, right))
        found.add("masking", "clean", "zero_gradient", (size == 0).double())
        self._boundary(found, case, logits, alpha, right)
        self._masking(found, case, right)
        self._paint(found, case, right)
        places = right.nonzero().squeeze(1)[: self.pictured]
        if len(places):
            found.pictures["images"] = drawable(case.x[places.to(case.device)])
            found.pictures["gradients"] = drawable(slope[places.to(case.device)])
            found.pictures["places"] = places.numpy()
        return found

    def _alignment(self, found: Readings, case: Case, slope: Tensor, right: Tensor) -> Tensor:
        """Record what is said of the gradients; alpha (N,)."""
        x, g = case.x.double().flatten(1), slope.double().flatten(1)
        mean = case.model.mean.detach().double().view(1, -1, 1, 1)
        centred = (case.x.double() - mean).flatten(1)
        product, size = (x * g).sum(1), g.norm(dim=1)
        alpha: Tensor = product.abs() / size
        values = {
            "alpha": alpha,
            "alpha_centred": (centred * g).sum(1).abs() / size,
            "cosine": product / (size * x.norm(dim=1)),
            "norm": size,
            "variation": variation(slope),
        }
        for metric, value in values.items():
            found.add("gradient", "clean", metric, _of(value, right))
        order = torch.randperm(len(x), generator=case.rng("alignment floor"))
        other = x.clone()
        other[order.to(x.device)] = x[order.roll(1).to(x.device)]
        rows = right if len(x) > 1 else torch.zeros_like(right)
        product = (other * g).sum(1)
        found.add("gradient", "other_image", "alpha", _of(product.abs() / size, rows))
        found.add("gradient", "other_image", "cosine", _of(product / (size * other.norm(dim=1)), rows))
        return alpha

    def _boundary(self, found: Readings, case: Case, logits: Tensor, alpha: Tensor, right: Tensor) -> None:
        attack, rng = build(ATTACKS, self.attack, at="attack"), case.rng("closest adversarial images")
        linear = linearised(case.model, case.x, logits, case.y)
        parts = zip(torch.split(case.x, BATCH), torch.split(case.y, BATCH), strict=True)
        closest = torch.cat([attack.minimal(case.model, x, y, rng=rng) for x, y in parts])
        distance = (closest - case.x).double().flatten(1).norm(dim=1)
        reached = right & (distance > 0).cpu()  # an image that is right and has not moved: none was found
        if missing := int((right & ~reached).sum()):
            found.notes.append(f"No adversarial image was found for {missing} of {int(right.sum())} images.")
        measured = _of(distance, reached)
        found.add("boundary", "linearised", "l2", _of(linear, right))
        found.add("boundary", "attacked", "l2", measured)
        for name, guess in (("linearised", linear), ("alpha", alpha)):
            agreement = rank_correlation(_of(guess, reached), measured)
            found.note("boundary", name, "rank_correlation", agreement)

    def _masking(self, found: Readings, case: Case, right: Tensor) -> None:
        stands = {}
        for score in ("cross_entropy", "margin"):
            x_adv = case.adversarial(replace(self.masking, score=score))
            stands[score] = (right & case.right(x_adv).cpu()).double()
            found.add("masking", score, "right", stands[score])
        found.add("masking", "alarm", "gap", stands["cross_entropy"] - stands["margin"])

    def _paint(self, found: Readings, case: Case, right: Tensor) -> None:
        """Ascend to a class that is drawn among the wrong ones, far beyond any training radius."""
        places = right.nonzero().squeeze(1)[: self.painted]
        if not len(places):
            return
        x, y = case.x[places.to(case.device)], case.y[places.to(case.device)]
        step = torch.randint(1, case.classes, y.shape, generator=case.rng("painted classes"))
        target = (y + step.to(y.device)) % case.classes
        pictures = self.painting(case.model, x, target, rng=case.rng("painting"))
        rows = torch.zeros_like(right)
        rows[places] = True
        taken = case.logits(pictures).argmax(1) == target
        found.add("painted", "model", "target", selected(taken, rows, len(rows)))
        if self.judged and case.retrained is None:
            found.notes.append("Nothing can be trained here, so no independent network judged the paintings.")
        elif self.judged and case.retrained is not None:
            judge = replace(case, model=case.retrained(case.train, "judge of paintings"), crafted={})
            taken = judge.logits(pictures).argmax(1) == target
            found.add("painted", "judge", "target", selected(taken, rows, len(rows)))
            found.note("painted", "judge", "accuracy", float(judge.right().double().mean()))
        found.pictures["starts"], found.pictures["paintings"] = as_bytes(x), as_bytes(pictures)
        found.pictures["labels"] = y.cpu().numpy()
        found.pictures["painted_targets"] = target.cpu().numpy()

    def painting(self, model: Classifier, x: Tensor, target: Tensor, *, rng: Generator) -> Tensor:
        """Images like x after the ascent on the log-probability of target (N,), from x itself."""
        threat = ThreatModel(norm="l2", eps=self.radius)
        ascent = Ascent(
            threat=threat,
            step_size=2.5 * self.radius / self.painting_steps,
            steps=self.painting_steps,
            start="image",
        )
        with eval_mode(model):
            painted: Tensor = ascent(
                lambda z: -F.cross_entropy(model(z), target, reduction="none"), x, rng=rng
            )
            return painted


def slopes(model: nn.Module, x: Tensor, weights: Tensor) -> Tensor:
    """Gradients (N, C, H, W) by the pixels x of the sums of the logits, each times its weight (N, K)."""
    found = []
    with eval_mode(model), torch.enable_grad():
        asked = Scalar(model)
        for z, wanted in zip(torch.split(x.detach(), CHUNK), torch.split(weights, CHUNK), strict=True):
            z = z.clone().requires_grad_(True)
            (gradient,) = torch.autograd.grad(asked(z, wanted.detach()).sum(), z)
            found.append(gradient)
    return torch.cat(found)


def linearised(model: nn.Module, x: Tensor, logits: Tensor, y: Tensor) -> Tensor:
    """min over j of (f_y - f_j) / |grad (f_y - f_j)|_2, (N,), from logits (N, K) of images x (N, C, H, W); NaN where no
    logit depends on the pixels. The pixel box is left out of account.
    """
    classes = logits.shape[1]
    own = F.one_hot(y, classes).to(logits)
    nearest = torch.full((len(x),), torch.inf, dtype=torch.float64, device=x.device)
    for j in range(classes):
        weights = own - F.one_hot(torch.full_like(y, j), classes).to(logits)
        steepness = slopes(model, x, weights).double().flatten(1).norm(dim=1)
        distance = (logits * weights).double().sum(1) / steepness
        nearest = torch.where((y != j) & (steepness > 0), torch.minimum(nearest, distance), nearest)
    return torch.where(nearest.isfinite(), nearest, torch.nan)


def variation(maps: Tensor) -> Tensor:
    """Total variation of maps (N, C, H, W), the sum of absolute differences of neighbours, over the sum of absolute
    values: (N,) float64, 0 for a constant map and the same at any scale.
    """
    maps = maps.double()
    total = maps.diff(dim=2).abs().sum((1, 2, 3)) + maps.diff(dim=3).abs().sum((1, 2, 3))
    found: Tensor = total / maps.abs().sum((1, 2, 3))
    return found


def _of(values: Tensor, rows: Tensor) -> Floats:
    return selected(values[rows.to(values.device)], rows, len(rows))
