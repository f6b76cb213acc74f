"""What the perturbation does to the output, pixel by pixel, and what the natural image does: two patterns, one network.

An attacked image is the natural pattern x plus the adversarial pattern n = x' - x (Zhou et al., "Improving Adversarial
Robustness via Mutual Information Estimation", ICML 2022, arXiv:2207.12203). Integrated gradients from x to x' split the
change of a logit among the pixels of n: of the label's logit, which n suppresses, and of the wrong class's, which it
promotes. Promotion and suppression after Xu et al., "Interpreting Adversarial Examples by Activation Promotion and
Suppression", 2019, arXiv:1904.02057, who split by masking what class activation maps mark.
"""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from deconfound.attacks.scores import likeliest_wrong
from deconfound.attributions.asking import Scalar
from deconfound.attributions.baselines import Baseline, BaselineField
from deconfound.attributions.integrated_gradients import IntegratedGradients
from deconfound.attributions.mass import mass_ratio, mass_share
from deconfound.attributions.shift import strengths
from deconfound.fields import Count, Fraction01, Natural, OpenFraction, hyperparameters
from deconfound.interpretations.case import Case, Floats, Readings, selected
from deconfound.interpretations.gradients import slopes
from deconfound.interpretations.maps import crafting, drawable, noise_like
from deconfound.interpretations.regions import AttackBlock, as_bytes, leading
from deconfound.models.classifier import Classifier, eval_mode

CHUNK = 256  # images per pass with a gradient


@hyperparameters
class Patterns:
    """attack: the block of the attack whose perturbation is the adversarial pattern. steps: points on the ways of
    integrated gradients. baseline: where the natural pattern's begins. region: share of the pixels that count as the
    natural image's evidence. high: frequency above which a gradient counts as rough, as a share of the highest one
    along an axis. examples: of the test images; pictured: of those, in pictures.

    At `perturbation`, of images that were right, under `success` and `failure` of the attack and under `noise` (random
    signs of the same size): `suppression`, by how much it lowers the logit of the label; `promotion`, by how much it
    raises that of the likeliest wrong class of the perturbed image; `suppression_share` of their sum, where neither
    is negative; `promotion_to_label`, the promotion over how far the label's logit stood above the mean logit;
    `suppressing_pixels`, the share of the pixels that it changes that do more to the label than to the wrong class;
    `completeness_error`, what the pixels' sum lacks to the change of the margin, relative to it; `gradient_cosine` of
    the perturbation with the gradient g; `object_share` and `object_ratio` of its contributions to the margin that lie
    on the object (share, and over the object's area).

    At `natural` and `clean`, of all images: `object_share` and `object_ratio` of the evidence for the label. At
    `gradient` and `clean`, of g, the gradient of the strongest wrong logit minus that of the label at the clean image:
    `energy_outside` the evidence's region and `high_frequency` share of its energy; numbers at `by_chance`: the same of
    white noise.

    Pictures, successes first: `clean`, `attacked` (P, C, H, W) uint8; `suppression`, `promotion`, `natural` (P, H, W)
    float32, contributions summed over channels; `places`, `labels` and `wrong` (P,) int64.
    """

    attack: AttackBlock
    steps: Count = 16
    baseline: BaselineField = Baseline(kind="mean")
    region: OpenFraction = 0.2
    high: Fraction01 = 0.5
    examples: Count = 100
    pictured: Natural = 4

    def __call__(self, case: Case) -> Readings:
        """See the class."""
        case, found = case.first(self.examples), Readings()
        attack, clean = crafting(self.attack, at="attack"), case.logits(case.x)
        x_adv = case.adversarial(attack)
        right = (clean.argmax(1) == case.y).cpu()
        fooled = (case.logits(x_adv).argmax(1) != case.y).cpu()
        noisy = noise_like(case, attack, case.x, x_adv, found, "patterns noise")
        rival = likeliest_wrong(clean, case.y, 1)[:, 0]
        slope = slopes(case.model, case.x, _one_hot(rival, clean) - _one_hot(case.y, clean))
        mask = _known_mask(found, case)
        natural = self._natural(found, case, slope, mask)
        for condition, x, rows in (
            ("success", x_adv, right & fooled),
            ("failure", x_adv, right & ~fooled),
            ("noise", noisy, right),
        ):
            pattern = Pattern.of(case, x, rows, clean, steps=self.steps)
            self._perturbation(found, condition, pattern, slope, mask)
            if condition == "success":
                success = pattern
        if not bool(success.rows.any()):
            found.notes.append(
                "The attack turned no image that was right, so there was no adversarial pattern to read."
            )
        self._picture(found, case, success, natural)
        return found

    def _natural(self, found: Readings, case: Case, slope: Tensor, mask: Tensor | None) -> Tensor:
        """Record what is said of clean images; the evidence for the label, like x."""
        method = IntegratedGradients(steps=self.steps, baseline=self.baseline)
        natural = method(case.model, case.x, case.y, rng=case.rng("natural pattern"))
        size = torch.full((len(natural),), max(1, round(self.region * natural[0, 0].numel())))
        energy, evidence = slope.double().square().sum(1).cpu(), strengths(natural)
        inside = leading(evidence, size) & (evidence > 0)
        outside = (energy * ~inside).sum((1, 2)) / energy.sum((1, 2))
        found.add("gradient", "clean", "energy_outside", outside)
        found.add("gradient", "clean", "high_frequency", high_frequency(slope, self.high))
        height, width = slope.shape[2:]
        found.note("gradient", "by_chance", "energy_outside", 1 - int(size[0]) / (height * width))
        found.note("gradient", "by_chance", "high_frequency", float(_rough(height, width, self.high).mean()))
        everyone = torch.ones(len(natural), dtype=torch.bool)
        _on_object(found, "natural", "clean", natural, everyone, mask)
        return natural

    def _perturbation(
        self, found: Readings, condition: str, at: "Pattern", slope: Tensor, mask: Tensor | None
    ) -> None:
        rows, total = at.rows, at.suppression + at.promotion
        lowered, raised = (-at.label).sum(1), at.wrong.sum(1)
        changed = (at.shift != 0).any(1)
        doing = (lowered.abs() > raised.abs()) & changed
        g, n = (z.double().flatten(1) for z in (slope[rows.to(slope.device)], at.shift))
        both = (at.suppression >= 0) & (at.promotion >= 0)
        lacking = (lowered + raised).sum((1, 2)) - total
        values = {
            "suppression": at.suppression,
            "promotion": at.promotion,
            "suppression_share": torch.where(both, at.suppression / total, torch.nan),
            "promotion_to_label": at.promotion / at.standing,
            "suppressing_pixels": doing.sum((1, 2)) / changed.sum((1, 2)),
            "completeness_error": lacking.abs() / total.abs(),
            "gradient_cosine": (g * n).sum(1) / (g.norm(dim=1) * n.norm(dim=1)),
        }
        for metric, value in values.items():
            found.add("perturbation", condition, metric, selected(value, rows, len(rows)))
        _on_object(found, "perturbation", condition, at.wrong - at.label, rows, mask)

    def _picture(self, found: Readings, case: Case, at: "Pattern", natural: Tensor) -> None:
        places = at.rows.nonzero().squeeze(1)[: self.pictured]
        if not len(places):
            return
        chosen, count = places.to(case.device), len(places)
        found.pictures |= {
            "clean": as_bytes(case.x[chosen]),
            "attacked": as_bytes((case.x[at.rows.to(case.device)] + at.shift)[:count].clamp(0, 1)),
            "suppression": drawable((-at.label[:count]).sum(1)),
            "promotion": drawable(at.wrong[:count].sum(1)),
            "natural": drawable(natural[chosen].sum(1)),
            "places": places.numpy(),
            "labels": case.y[chosen].cpu().numpy(),
            "wrong": at.rival[:count].cpu().numpy(),
        }


class Pattern(NamedTuple):
    """A perturbation shift (n, C, H, W) of the images rows (N,) bool, and what it does to the logits of the label and
    of the rival (n,), the likeliest wrong class: label, wrong (n, C, H, W) float64, pixel by pixel; suppression,
    promotion (n,), in full. standing (n,): the label's logit above the mean one, before.
    """

    rows: Tensor
    shift: Tensor
    rival: Tensor
    label: Tensor
    wrong: Tensor
    suppression: Tensor
    promotion: Tensor
    standing: Tensor

    @staticmethod
    def of(case: Case, x_new: Tensor, rows: Tensor, clean: Tensor, *, steps: int) -> "Pattern":
        """Of perturbed images like x, from the logits (N, K) of the clean ones."""
        chosen = rows.to(case.device)
        x, z, y, before = case.x[chosen], x_new[chosen], case.y[chosen], clean[chosen].double()
        after = case.logits(z).double() if len(z) else before
        rival = likeliest_wrong(after, y, 1)[:, 0]
        change = after - before
        label, wrong = (change.gather(1, target[:, None]).squeeze(1) for target in (y, rival))
        own, other = (along(case.model, x, z, _one_hot(target, clean), steps=steps) for target in (y, rival))
        standing = before.gather(1, y[:, None]).squeeze(1) - before.mean(1)
        return Pattern(rows, z - x, rival, own, other, -label, wrong, standing)


def along(model: Classifier, x: Tensor, x_new: Tensor, weights: Tensor, *, steps: int) -> Tensor:
    """Integrated gradients (N, C, H, W) float64 from images x to x_new of the sum of logits, each times its weight (N,
    K).
    """
    from captum.attr import IntegratedGradients as CaptumIntegrated

    found = [torch.zeros_like(x[:0], dtype=torch.float64)]
    with eval_mode(model), torch.enable_grad():
        method = CaptumIntegrated(Scalar(model))
        parts = (torch.split(z.detach(), CHUNK) for z in (x, x_new, weights))
        for start, end, wanted in zip(*parts, strict=True):
            if len(start):
                maps = method.attribute(
                    end,
                    baselines=start,
                    additional_forward_args=(wanted,),
                    n_steps=steps,
                    internal_batch_size=CHUNK,
                )
                found.append(maps.detach().double())
    return torch.cat(found)


def high_frequency(maps: Tensor, high: float) -> Tensor:
    """Share of the energy of maps (N, C, H, W) at spatial frequencies above a part `high` of the highest one along an
    axis; (N,) float64 on the CPU, NaN where there is none.
    """
    energy = torch.fft.fft2(maps.double().cpu()).abs().square().sum(1)
    found: Tensor = (energy * _rough(maps.shape[2], maps.shape[3], high)).sum((1, 2)) / energy.sum((1, 2))
    return found


def _rough(height: int, width: int, high: float) -> Tensor:
    """Frequencies (H, W) of a Fourier transform, 1.0 where they are above the limit."""
    rows, columns = (2 * torch.fft.fftfreq(side, dtype=torch.float64) for side in (height, width))
    return (torch.hypot(rows[:, None], columns[None]) > high).double()


def _on_object(
    found: Readings, subject: str, condition: str, maps: Tensor, rows: Tensor, mask: Tensor | None
) -> None:
    """Record how much of maps (n, C, H, W) of the images rows (N,) lies on masks (N, H, W); nothing without masks."""
    if mask is None:
        return
    shown = mask.flatten(1).any(1)
    maps, chosen = maps[shown[rows].to(maps.device)], rows & shown
    for metric, measure in (("object_share", mass_share), ("object_ratio", mass_ratio)):
        values: Floats = selected(measure(maps, mask[chosen]), chosen, len(rows))
        found.add(subject, condition, metric, values)


def _known_mask(found: Readings, case: Case) -> Tensor | None:
    if case.truth.mask is None:
        found.notes.append("No mask says where the object lies, so no pattern's share on it could be read.")
        return None
    return case.truth.mask.bool().cpu()


def _one_hot(target: Tensor, like: Tensor) -> Tensor:
    return F.one_hot(target, like.shape[1]).to(like)
