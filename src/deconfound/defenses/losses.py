"""What robust defenses minimise: the images that they craft, and their losses as functions of logits.

N images, K classes; clean and adversarial are logits (N, K) of the images and of their perturbed copies, y (N,) labels;
losses are scalars in nats, attached to the graph of the logits. Lee, Kim and Ro, "Mitigating Adversarial Vulnerability
through Causal Parameter Estimation by Adversarial Double Machine Learning", ICCV 2023, arXiv:2307.07250, is ADML below.
"""

from typing import Literal

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from deconfound.attacks.ascent import Ascent
from deconfound.attacks.scores import cross_entropy, kl, likeliest_wrong
from deconfound.models.classifier import eval_mode
from deconfound.threat import ThreatModel

Base = Literal["adversarial", "trades", "mart"]
Tau = Literal["balancing", "one"]
Parts = Literal["both", "true", "fooled"]
Reduce = Literal["attacked", "half"]

CIFAR = Ascent(threat=ThreatModel(eps=8 / 255), step_size=1.84 / 255, steps=10)
"""The ascent in all experiments of ADML on CIFAR: steps of 2.3 eps / 10."""


def craft(ascent: Ascent, model: nn.Module, x: Tensor, y: Tensor, *, rng: Generator) -> Tensor:
    """Images (N, C, H, W) that climb the cross-entropy of the model in evaluation mode, detached."""
    with eval_mode(model):
        return ascent(lambda z: cross_entropy(model(z), y), x, rng=rng)


def base_loss(
    model: nn.Module,
    x: Tensor,
    x_adv: Tensor,
    y: Tensor,
    *,
    base: Base,
    trades_beta: float,
    mart_weight: float,
) -> Tensor:
    """A robust loss of images (N, C, H, W) and their perturbed copies, in the mode that the model is in.

    Forward passes in this order, which batch norm and dropout see: perturbed, then clean where the base needs it.
    """
    adversarial = model(x_adv)
    if base == "adversarial":
        return F.cross_entropy(adversarial, y)
    clean = model(x)
    return (
        trades(clean, adversarial, y, trades_beta)
        if base == "trades"
        else mart(clean, adversarial, y, mart_weight)
    )


def trades(clean: Tensor, adversarial: Tensor, y: Tensor, beta: float) -> Tensor:
    """Mean of CE(clean, y) + beta KL(clean || adversarial).

    Zhang et al., "Theoretically Principled Trade-off between Robustness and Accuracy", ICML 2019.
    """
    return F.cross_entropy(clean, y) + beta * kl(clean, adversarial).mean()


def mart(clean: Tensor, adversarial: Tensor, y: Tensor, weight: float) -> Tensor:
    """Boosted cross-entropy of the adversarial logits, plus weight times a divergence that counts most where the clean
    image is misclassified: mean of -log p'_y - log(1 - max_{k != y} p'_k) + weight KL(p || p') (1 - p_y).

    Wang et al., "Improving Adversarial Robustness Requires Revisiting Misclassified Examples", ICLR 2020. The ones are
    1.0001 and 1.0000001, and 1e-12 is added inside the logarithm, as in the code of MART and ADML.
    """
    wrong = adversarial.softmax(1).scatter(1, y[:, None], -torch.inf).amax(1)
    boosted = F.cross_entropy(adversarial, y) - (1.0001 - wrong + 1e-12).log().mean()
    p_true = clean.softmax(1).gather(1, y[:, None]).squeeze(1)
    return boosted + weight * (kl(clean, adversarial) * (1.0000001 - p_true)).mean()


def attacked(adversarial: Tensor, y: Tensor) -> Tensor:
    """Whether the prediction differs from the label, (N,) bool: the set S of ADML."""
    return adversarial.argmax(1) != y


def balancing(adversarial: Tensor) -> Tensor:
    """tau = 1 / p_a - 1, (N,) in [0, K - 1], with the probability p_a of the predicted class; detached.

    Small where the prediction is confident, 1 where it has probability one half.
    """
    return torch.expm1(-adversarial.detach().log_softmax(1).amax(1))


def perturbation_term(
    adversarial: Tensor,
    y: Tensor,
    *,
    tau: Tau = "balancing",
    floor: float = 1e-3,
    parts: Parts = "both",
    reduce: Reduce = "attacked",
) -> Tensor:
    """Mean over the attacked images of tau (-log(p_y + floor) + log(p_a + floor)), a the class they are taken for.

    The effect of the perturbation in ADML. floor 0 gives the weighted margin tau (z_a - z_y). tau `one`: unweighted;
    parts: only -log p_y (`true`) or only log p_a (`fooled`); reduce `half`: over N, not over the number of attacked
    images. Zero, with zero gradients, if none is attacked; an image that is classified right has no gradient at all.
    """
    mask = attacked(adversarial, y)
    value = outcome(adversarial, y, floor=floor, parts=parts)
    if tau == "balancing":
        value = balancing(adversarial) * value
    count = mask.sum().clamp_min(1) if reduce == "attacked" else max(1, len(y))
    return torch.where(mask, value, 0.0).sum() / count


def outcome(adversarial: Tensor, y: Tensor, *, floor: float, parts: Parts) -> Tensor:
    """-log(p_y + floor) + log(p_b + floor) per image, or one of the two `parts`, (N,); b is the likeliest wrong class.

    On an attacked image b is the predicted class.
    """
    rival = likeliest_wrong(adversarial, y, 1)
    z = adversarial if parts == "both" and not floor else adversarial.log_softmax(1)
    if floor:
        z = (z.exp() + floor).log()
    true, fooled = z.gather(1, y[:, None]).squeeze(1), z.gather(1, rival).squeeze(1)
    if parts == "both":
        return fooled - true
    return -true if parts == "true" else fooled


def contrast(value: Tensor, treated: Tensor) -> Tensor:
    """(n / n_S - 1) mean_S - (n / n_R - 1) mean_R of values (n,), S where treated (n,) bool, R elsewhere; signed.

    The estimate of the causal parameter in the development history of ADML (October 2022), with the outcomes of the
    attacked and of the robust images; its loss is the absolute value. Exchanging S and R changes the sign. An empty S
    or R leaves nothing to compare: zero.
    """
    here, there = treated.sum(), (~treated).sum()
    inside = torch.where(treated, value, 0.0).sum() / here.clamp_min(1)
    outside = torch.where(treated, 0.0, value).sum() / there.clamp_min(1)
    return there / here.clamp_min(1) * inside - here / there.clamp_min(1) * outside
