"""Which map can be trusted: a battery of checks per attribution, each with its control, and a verdict.

Checks of `attributions.faithfulness`: deletion and insertion (Petsiuk, Das, Saenko, "RISE", BMVC 2018,
arXiv:1806.07421) against random orders; randomised weights and shuffled labels (Adebayo et al., "Sanity Checks for
Saliency Maps", NeurIPS 2018, arXiv:1810.03292); completeness (Sundararajan, Taly, Yan, ICML 2017, arXiv:1703.01365);
infidelity and sensitivity (Yeh et al., NeurIPS 2019, arXiv:1901.09392). No check proves a map right. A map that fails
one is marked, and says less than it seems to.

Where we differ: the papers set no thresholds. Half the rank correlation of a random head is a rule of this project for
gradients, here applied to all maps; shares of the completeness error are where Captum's users are told to worry.
"""

from collections.abc import Mapping
from dataclasses import field
from typing import Annotated, Any, Literal

import numpy as np
import torch
from pydantic import Field, field_validator
from torch import Tensor

from deconfound.attributions.asking import Attribution, ScalarName
from deconfound.attributions.baselines import Baseline, BaselineField
from deconfound.attributions.faithfulness import (
    Order,
    cascade,
    completeness_error,
    curves,
    infidelity,
    label_check,
    max_sensitivity,
    seed_stability,
    shuffled_labels,
)
from deconfound.fields import Count, Fraction01, NonNegative, Positive, Real, hyperparameters
from deconfound.interpretations.case import Case, Floats, Readings
from deconfound.interpretations.maps import (
    checked_names,
    drawable,
    maps_of,
    mean_of,
    methods,
    noted_refusal,
    usual_attributions,
)
from deconfound.models.classifier import Classifier

COMPLETE = ("integrated_gradients", "deep_lift", "shapley", "kernel_shap")  # maps that promise their sum
UNSIGNED = (
    "saliency",
    "smooth_grad",
    "guided_backprop",
)  # whose sign is a direction, not a vote for the class
Verdicts = dict[str, bool | None]


@hyperparameters
class MapTrust:
    """attributions: blocks of methods by name. target: the class that a map is asked for, `pred` (what the model
    predicts) or `true` (the label). examples: the first so many test images. labels: train a twin of the network on
    shuffled labels. baseline: what a pixel that goes is replaced by, the same for all maps (a map made against another
    one, such as black, answers another question, and may fail here for that). points, orders: of the curves, and random
    ones beside them. sigma: standard deviation of the noise of infidelity, pixel units; samples: draws. eps: radius
    (Linf, pixel units) of the neighbours of max-sensitivity; neighbours: how many. seeds: of seed stability.

    Per image, with the attribution as subject (condition.metric):
      deletion.area, insertion.area     probability of the class as pixels go or come, most important first
      deletion.random_area, ...         the same in random order (a mean over orders)
      deletion.gain, insertion.gain     by how much the map does better than random; above 0 where it does
      weights_<i>_<layer>.agreement     signed rank correlation with the map after the layers from the head down to this
                                        one (i = 00, 01, ...) were drawn anew; it must fall
      labels.agreement                  the same with the map of the twin trained on shuffled labels
      baseline.error, .relative_error   of completeness, logits, and its share of the difference that it should sum to
      noise.infidelity                  squared logits, at the best scale of the map
      neighbours.max_sensitivity        change of the map over its norm
      seeds.stability                   rank correlation between maps under different seeds
    Per run: baseline.relative_error_median and _p95; under `verdict`, 1 for passed and 0 for failed, `passes_deletion`,
    `passes_insertion`, `passes_weights`, `passes_labels`, `passes_completeness`, `passes_seeds`, as far as they apply;
    and `marked`, 1 where any failed. Infidelity and sensitivity have no threshold that would hold for all maps.

    Thresholds. least_gain: two standard errors above it, a mean gain passes. most_agreement: the mean agreement is
    below it after the head alone, after all layers, and with shuffled labels (Spearman 0.5 after a random head: a rule
    of this project; Adebayo et al. judge by eye). median_error, p95_error: the largest relative completeness errors
    (where a report turns red: 5 % and 20 %; of few images p95 is nearly the largest). least_stability: of the mean over
    images (a choice of this project).

    Pictures: `curves.<attribution>` float32 (4, points), means over images of deletion, insertion, random deletion and
    random insertion, from no pixel to all of them. Of saliency, smooth_grad and guided_backprop the strongest pixels of
    either sign come first, of other maps those with the largest evidence for the class.
    """

    attributions: dict[str, dict[str, Any]] = field(default_factory=usual_attributions)
    target: Literal["pred", "true"] = "pred"
    examples: Count = 16
    labels: bool = True
    baseline: BaselineField = Baseline(kind="mean")
    points: Annotated[Count, Field(ge=2)] = 11
    orders: Count = 2
    sigma: Positive = 0.1
    samples: Count = 32
    eps: NonNegative = 0.02
    neighbours: Count = 3
    seeds: Annotated[Count, Field(ge=2)] = 3
    least_gain: Real = 0.0
    most_agreement: Fraction01 = 0.5
    median_error: Positive = 0.05
    p95_error: Positive = 0.2
    least_stability: Fraction01 = 0.8

    @field_validator("attributions")
    @classmethod
    def _attributes(cls, blocks: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
        checked_names(blocks)
        methods(blocks)
        return blocks

    def __call__(self, case: Case) -> Readings:
        """See the class."""
        case, readings = case.first(self.examples), Readings()
        target = case.y if self.target == "true" else case.logits(case.x).argmax(1)
        twin = self._twin(case, readings)
        for name, method in methods(self.attributions).items():
            with noted_refusal(readings, name):
                check = _Check(self, case, readings, name, method, target)
                passed: Verdicts = check.curves(str(self.attributions[name]["kind"]))
                passed |= {"weights": check.weights()}
                passed |= {"labels": check.labels(twin)} if twin is not None else {}
                if self.attributions[name]["kind"] in COMPLETE:
                    passed["completeness"] = check.completeness()
                check.robustness()
                passed["seeds"] = check.stability()
                check.verdict(passed)
        return readings

    def _twin(self, case: Case, readings: Readings) -> Classifier | None:
        """A network that learnt shuffled labels."""
        if not self.labels or case.retrained is None:
            why = "the experiment asks for none" if not self.labels else "nothing can be trained here"
            readings.notes.append(f"There is no comparison with a network trained on shuffled labels: {why}.")
            return None
        shuffled = shuffled_labels(case.train, rng=case.rng("map trust labels"))
        return case.retrained(shuffled, "shuffled labels")


class _Check:
    """The checks of one attribution; each reads, and says whether it was passed (None: there was nothing to judge)."""

    def __init__(
        self, spec: MapTrust, case: Case, readings: Readings, name: str, method: Attribution, target: Tensor
    ) -> None:
        self.spec, self.case, self.readings, self.name = spec, case, readings, name
        self.method, self.target = method, target
        self.maps = maps_of(case, method, case.x, target)

    def add(self, condition: str, metric: str, values: Tensor) -> Floats:
        """A reading per image; what is not finite counts as missing."""
        found = values.detach().double().cpu().numpy()
        found = np.where(np.isfinite(found), found, np.nan)
        self.readings.add(self.name, condition, metric, found)
        return found

    def curves(self, kind: str) -> Verdicts:
        """Deletion and insertion."""
        order: Order = "absolute" if kind in UNSIGNED else "signed"
        found = curves(
            *(self.case.model, self.case.x, self.target, self.maps),
            rng=self.case.rng("map trust curves"),
            baseline=self.spec.baseline,
            order=order,
            points=self.spec.points,
            orders=self.spec.orders,
        )
        means = [curve.mean(0) for curve in vars(found).values()]
        self.readings.pictures[f"curves.{self.name}"] = drawable(torch.stack(means))
        areas, passed = found.areas(), Verdicts()
        for condition, sign in (("deletion", -1), ("insertion", 1)):
            self.add(condition, "area", areas[condition])
            self.add(condition, "random_area", areas[f"random_{condition}"])
            gain = self.add(condition, "gain", sign * (areas[condition] - areas[f"random_{condition}"]))
            passed[condition] = surely_above(gain, self.spec.least_gain)
        return passed

    def weights(self) -> bool | None:
        """Weights drawn anew, from the head down."""
        found = cascade(
            self.method, self.case.model, self.case.x, self.target, rng=self.case.rng("map trust weights")
        )
        means = []
        for place, (layer, agreement) in enumerate(found.items()):
            word = "".join(letter if letter.isalnum() else "_" for letter in layer.lower())
            means.append(mean_of(self.add(f"weights_{place:02}_{word}", "agreement", agreement)))
        return below([means[0], means[-1]], self.spec.most_agreement)

    def labels(self, twin: Classifier) -> bool | None:
        """A network that learnt from shuffled labels."""
        rng = self.case.rng("map trust labels")
        found = label_check(self.method, self.case.model, twin, self.case.x, self.target, rng=rng)
        return below([mean_of(self.add("labels", "agreement", found))], self.spec.most_agreement)

    def completeness(self) -> bool | None:
        """The sum of a map against what it promises."""
        method: Any = self.method
        error, share = completeness_error(
            *(self.case.model, self.case.x, self.target, self.maps.to(self.case.device)),
            rng=self.case.rng("maps"),
            baseline=method.baseline,
            scalar=method.scalar,
        )
        self.add("baseline", "error", error)
        shares = self.add("baseline", "relative_error", share)
        known = shares[np.isfinite(shares)]
        if not len(known):
            return None
        median, high = (float(np.quantile(known, part)) for part in (0.5, 0.95))
        self.readings.note(self.name, "baseline", "relative_error_median", median)
        self.readings.note(self.name, "baseline", "relative_error_p95", high)
        return median <= self.spec.median_error and high <= self.spec.p95_error

    def robustness(self) -> None:
        """Noise and neighbours, without a verdict."""
        spec, rng = self.spec, self.case.rng("map trust noise")
        model, x = self.case.model, self.case.x
        maps = self.maps.to(x.device)
        scalar: ScalarName = getattr(self.method, "scalar", "logit")
        found = infidelity(
            model, x, self.target, maps, rng=rng, sigma=spec.sigma, samples=spec.samples, scalar=scalar
        )
        self.add("noise", "infidelity", found)
        moved = max_sensitivity(
            *(self.method, model, x, self.target),
            rng=self.case.rng("map trust neighbours"),
            eps=spec.eps,
            samples=spec.neighbours,
        )
        self.add("neighbours", "max_sensitivity", moved)

    def stability(self) -> bool | None:
        """Other seeds."""
        rng = self.case.rng("map trust seeds")
        found = seed_stability(
            self.method, self.case.model, self.case.x, self.target, rng=rng, seeds=self.spec.seeds
        )
        mean = mean_of(self.add("seeds", "stability", found))
        return None if np.isnan(mean) else mean >= self.spec.least_stability

    def verdict(self, passed: Mapping[str, bool | None]) -> None:
        """What was passed; a check without a single number is said, and counts as no failure."""
        for check, good in passed.items():
            if good is None:
                self.readings.notes.append(
                    f"{self.name}: the check of {check} has no number (constant maps, or a single image)."
                )
            else:
                self.readings.note(self.name, "verdict", f"passes_{check}", float(good))
        self.readings.note(self.name, "verdict", "marked", float(False in passed.values()))


def surely_above(values: Floats, least: float) -> bool | None:
    """Is the mean of the finite numbers two standard errors above `least`? None with fewer than two of them."""
    known = values[np.isfinite(values)]
    if len(known) < 2:
        return None
    return bool(known.mean() - 2 * known.std(ddof=1) / len(known) ** 0.5 > least)


def below(means: list[float], most: float) -> bool | None:
    """Are those that are known all below `most`? None where none is known."""
    known = [mean for mean in means if np.isfinite(mean)]
    return all(mean < most for mean in known) if known else None
