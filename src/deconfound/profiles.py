"""The four estimates of NAMID as vectors over a batch, whom they are compared on, and the losses of its estimators.

Pure functions; Zhou et al., ICML 2022, arXiv:2207.12203, and its code (namid.md section 4.3). N examples, K classes.
Estimates grow with the information; the paper's code has the opposite sign.
"""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F


class Profile(NamedTuple):
    """Estimates (N,): the pattern first, then whose output is read.

    natural_clean: E_n(h(x)), natural_adversarial: E_n(h(x_adv)), adversarial_clean: E_a(h(x)), adversarial_adversarial:
    E_a(h(x_adv)).
    """

    natural_clean: Tensor
    natural_adversarial: Tensor
    adversarial_clean: Tensor
    adversarial_adversarial: Tensor


class Selection(NamedTuple):
    """Masks (N,) bool. correct: right on x. fooled (Omega): right on x, wrong on x_adv. robust (R): right on both.
    wrong: wrong on x_adv, whatever x.
    """

    correct: Tensor
    fooled: Tensor
    robust: Tensor
    wrong: Tensor

    def at(self, index: Tensor) -> "Selection":
        """The masks of some examples."""
        return Selection(*(mask[index] for mask in self))


def select(clean: Tensor, adversarial: Tensor, y: Tensor) -> Selection:
    """Masks by the largest logit. (The released code takes it after a softmax over the batch, which is a slip.)"""
    right, still = clean.argmax(1) == y, adversarial.argmax(1) == y
    return Selection(right, right & ~still, right & still, ~still)


def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """Mean of the masked entries of (N,); 0 with zero gradient when there is none."""
    return torch.where(mask, values, 0).sum() / mask.sum().clamp_min(1)


def masked_cosine(u: Tensor, v: Tensor, mask: Tensor) -> Tensor:
    """Cosine of two vectors (N,) over their masked entries, one number for a batch, in [-1, 1].

    It is 0 with zero gradient when either vector is zero there, which includes an empty mask.
    """
    a, b = torch.where(mask, u, 0), torch.where(mask, v, 0)
    cosine = F.normalize(a, dim=0) @ F.normalize(b, dim=0)
    return torch.where((a != 0).any() & (b != 0).any(), cosine, 0)


class Losses(NamedTuple):
    """Scalars to minimise, one for each pair of networks."""

    natural: Tensor
    adversarial: Tensor


def contrastive_losses(found: Profile, chosen: Selection) -> Losses:
    """As released: profiles of x and x_adv orthogonal where the attack succeeded, equal where it failed.

    Without any image that is right on x: plain maximisation over the batch (namid.md section 4.3).
    """
    natural, moved, before, adversarial = found
    if not bool(chosen.correct.any()):
        return Losses(-natural.mean(), -adversarial.mean())
    count = chosen.correct.sum()
    fooled, robust = chosen.fooled, chosen.robust
    first = 5 * masked_cosine(natural, moved, fooled).abs() - torch.where(fooled, natural, 0).sum() / count
    second = (
        5 * (1 - masked_cosine(natural, moved, robust)).abs() - torch.where(robust, natural, 0).sum() / count
    )
    third = 5 * masked_cosine(adversarial, before, fooled).abs() - masked_mean(adversarial, fooled)
    fourth = 8 * (1 - masked_cosine(before, adversarial, robust)).abs() + 0.1 * masked_mean(
        adversarial, robust
    )
    return Losses(first + 0.5 * second, third + 0.5 * fourth)


def eq5_losses(found: Profile, chosen: Selection) -> Losses:
    """The paper's equation 5 on Omega: raise E_n(h(x)) - E_n(h(x_adv)) and E_a(h(x_adv)) - E_a(h(x)).

    Zero when Omega is empty.
    """
    natural = found.natural_adversarial - found.natural_clean
    adversarial = found.adversarial_clean - found.adversarial_adversarial
    return Losses(masked_mean(natural, chosen.fooled), masked_mean(adversarial, chosen.fooled))


def max_only_losses(natural_clean: Tensor, adversarial_adversarial: Tensor, chosen: Selection) -> Losses:
    """The paper's equation 4 with the code's selection: raise E_n(h(x)) where x is right, E_a(h(x_adv)) where x_adv is
    wrong. Zero for a pair without any such example.
    """
    natural = -masked_mean(natural_clean, chosen.correct)
    return Losses(natural, -masked_mean(adversarial_adversarial, chosen.wrong))


@torch.no_grad()
def gaps(found: Profile, chosen: Selection) -> dict[str, float]:
    """What the paper claims to be positive, on Omega: natural_gap, mean E_n(h(x)) - E_n(h(x_adv)); adversarial_gap,
    mean E_a(h(x_adv)) - E_a(h(x)). fooled: size of Omega; the gaps are absent when it is 0.
    """
    number = {"fooled": float(chosen.fooled.sum())}
    if number["fooled"] == 0:
        return number
    losses = eq5_losses(found, chosen)
    return number | {"natural_gap": -float(losses.natural), "adversarial_gap": -float(losses.adversarial)}
