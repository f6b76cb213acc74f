"""What NAMID says of a network: how much its outputs tell of images and of noise, read by estimators trained on it.

Zhou et al., ICML 2022, arXiv:2207.12203; statistics of namid.md section 10. Estimates are scores, not nats (see the
calibration page), so ranks (AUROC) stand beside every difference, and beside those the trivial baseline: on Omega the
clean image is classified right and the attacked one is not, so anything that follows correctness separates them.
"""

import math
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from deconfound.attacks.pgd import PGD
from deconfound.defenses.namid import Learnt
from deconfound.estimator_training import train_estimators
from deconfound.estimators import Banks, Bound, Estimators, EstimatorSpec, Training, profile
from deconfound.fields import Count, hyperparameters
from deconfound.measures import auroc
from deconfound.profiles import Profile, gaps, masked_cosine, select
from deconfound.properties.subject import Found, Subject


@hyperparameters
class MutualInformation:
    """attack: crafts the noise that estimators are trained on, and that Omega is taken from; unseen: an attack that no
    estimator was trained on. estimator: networks and contrastive training of the estimators; fewest: images in Omega
    without which nothing is said (NaN).

    Per run, on held-out images in Omega: `natural_gap` E_n(h(x)) - E_n(h(x_adv)), `adversarial_gap` E_a(h(x_adv)) -
    E_a(h(x)); the AUROC of either; `logp_auc` of the log-probability of the true class and what the estimates gain over
    it; the AUROC with patterns of other images (`shuffled_`); `_profile`, one minus the cosine of clean and attacked
    estimates. With the estimators that the defense trained against, the same with `_frozen`. `contrastive_` gains: of
    AUROC on the unseen attack over estimators trained by maximisation only. `mi_` steps: of I(x; h(x)) > I(x_adv;
    h(x_adv)) > I(x; h(x_adv)), read by the maximised natural estimator.
    """

    attack: PGD
    unseen: PGD
    estimator: EstimatorSpec = EstimatorSpec()
    fewest: Count = 8

    def __call__(self, subject: Subject) -> Found:
        """See the class."""
        contrastive = self._learn(subject, "contrastive")
        maximised = self._learn(subject, "max_only")
        seen = self._read(subject, contrastive, self.attack)
        placebo = self._read(subject, contrastive, self.attack, shuffled=True)
        numbers = seen | {
            f"shuffled_{side}_auc": placebo[f"{side}_auc"] for side in ("natural", "adversarial")
        }
        ours, theirs = (self._read(subject, learnt, self.unseen) for learnt in (contrastive, maximised))
        for side in ("natural", "adversarial"):
            numbers[f"{side}_auc_gain"] = seen[f"{side}_auc"] - seen["logp_auc"]
            numbers[f"contrastive_{side}_gain"] = ours[f"{side}_auc"] - theirs[f"{side}_auc"]
        numbers |= self._order(subject, maximised)
        if "bank/x" in subject.parts:
            spec = subject.defense.estimator
            frozen = Learnt.load(spec, subject.classes, subject.parts)
            found = self._read(subject, frozen, self.attack, bound=subject.defense.bound)
            numbers |= {f"{name}_frozen": value for name, value in found.items() if name != "logp_auc"}
        return Found(numbers=numbers)

    def _learn(self, subject: Subject, training: Training) -> Learnt:
        """Estimators of this network, on its own crafted training set."""
        x, y = subject.train
        x_adv = subject.adversarial(self.attack, "train")
        spec = replace(self.estimator, training=training, batch_size=min(self.estimator.batch_size, len(y)))
        found = train_estimators(
            spec, subject.model, x, x_adv.cpu(), y, rng=subject.rng(f"property estimators {training}")
        )
        return Learnt.of(found, x, x_adv)

    @torch.no_grad()
    def _read(
        self,
        subject: Subject,
        learnt: Learnt,
        attack: PGD,
        *,
        bound: Bound | None = None,
        shuffled: bool = False,
    ) -> dict[str, float]:
        """Statistics on Omega of the attacked test images, with the bound of the training unless another is named."""
        x, y, x_adv = subject.x, subject.y, subject.adversarial(attack)
        clean, adversarial = subject.logits(x), subject.logits(x_adv)
        chosen = select(clean, adversarial, y)
        names = ("natural_gap", "adversarial_gap", "natural_auc", "adversarial_auc", "logp_auc")
        if int(chosen.fooled.sum()) < self.fewest:
            return dict.fromkeys((*names, "natural_profile", "adversarial_profile"), math.nan)
        order = torch.arange(len(x), device=x.device).roll(1) if shuffled else slice(None)
        patterns = x[order], (x_adv - x)[order]
        bound = bound or self.estimator.bound
        found = read(learnt.estimators, clean, adversarial, *patterns, learnt.banks(), bound=bound)
        numbers = {name: value for name, value in gaps(found, chosen).items() if name != "fooled"}
        fooled = chosen.fooled
        numbers["natural_auc"] = separated(found.natural_clean[fooled], found.natural_adversarial[fooled])
        numbers["adversarial_auc"] = separated(
            found.adversarial_adversarial[fooled], found.adversarial_clean[fooled]
        )
        logp = [-F.cross_entropy(logits, y, reduction="none")[fooled] for logits in (clean, adversarial)]
        numbers["logp_auc"] = separated(*logp)
        numbers["natural_profile"] = 1 - float(
            masked_cosine(found.natural_adversarial, found.natural_clean, fooled)
        )
        numbers["adversarial_profile"] = 1 - float(
            masked_cosine(found.adversarial_adversarial, found.adversarial_clean, fooled)
        )
        return numbers

    @torch.no_grad()
    def _order(self, subject: Subject, maximised: Learnt) -> dict[str, float]:
        """The two steps of the ordering, means over the attacked test images."""
        x, x_adv = subject.x, subject.adversarial(self.attack)
        clean, adversarial = subject.logits(x), subject.logits(x_adv)
        pair, bank = maximised.estimators.natural, maximised.banks().natural
        pairs = ((clean, x), (adversarial, x_adv), (adversarial, x))
        bound = self.estimator.bound
        own, moved, mixed = (
            float(pair.estimate(logits, z, bound=bound, bank=bank).mean()) for logits, z in pairs
        )
        return {"mi_clean_minus_adversarial": own - moved, "mi_adversarial_minus_mixed": moved - mixed}


def read(
    estimators: Estimators,
    clean: Tensor,
    adversarial: Tensor,
    x: Tensor,
    noise: Tensor,
    banks: Banks,
    *,
    bound: Bound = "released",
) -> Profile:
    """All four estimates of images against fixed banks, in evaluation mode."""
    return profile(estimators, clean, adversarial, x, noise, bound=bound, banks=banks)


def separated(higher: Tensor, lower: Tensor) -> float:
    """AUROC of values (n,) that should be higher against values (m,) that should be lower."""
    scores = torch.cat([higher, lower]).double().cpu().numpy()
    return auroc(scores, np.arange(len(scores)) < len(higher))
