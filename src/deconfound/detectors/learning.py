"""How detectors learn from examples: clean held-out images, noisy ones, adversarial ones, and a logistic regression.

Noise of the same l2 norm as the attack always counts as negative: a detector that fires on it has learnt what is
noisy, not what is adversarial. Only images take part that the network classifies right and that the attack turned.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Generator, Tensor

from deconfound.detectors.evidence import Evidence
from deconfound.detectors.scoring import held_out
from deconfound.errors import UserError
from deconfound.models.classifier import Classifier, eval_mode, predict, to_unit

BATCH = 128  # images at a time
HALVINGS = 50  # of an interval that holds the scale of noise
ITERATIONS = 5000  # of the logistic regression, at most

Score = Callable[[Tensor], Tensor]


class Lesson(NamedTuple):
    """Three times (n, C, H, W) in [0, 1] on the CPU, row by row of the same image: clean, with Gaussian noise, and
    with a perturbation of the same l2 norm that fools the network.
    """

    clean: Tensor
    noisy: Tensor
    adversarial: Tensor


class Rule(NamedTuple):
    """A logistic regression: standardise with mean and scale (F,), then weight (F,) and bias; the score is log-odds."""

    mean: Tensor
    scale: Tensor
    weight: Tensor
    bias: float

    def __call__(self, features: Tensor) -> Tensor:
        """Log-odds (n,) that features (n, F) are those of an adversarial example."""
        at = features.device
        standard = (features.double() - self.mean.to(at)) / self.scale.to(at)
        return standard @ self.weight.to(at) + self.bias


def lesson(evidence: Evidence, attacks: tuple[str, ...] = ()) -> Lesson:
    """What there is to learn from, of the named attacks, of all of them where none is named."""
    known = evidence.crafted
    if not known:
        raise UserError(
            "detector: expected crafted adversarial examples of the held-out images to learn from, got none"
        )
    if unknown := sorted(set(attacks) - known.keys()):
        raise UserError(f"detector: expected attacks among {', '.join(sorted(known))}, got {unknown[0]!r}")
    x, y = held_out(evidence)
    pixels, right = to_unit(x.cpu()), predict(evidence.model, x).argmax(1) == y.cpu()
    parts: list[Lesson] = []
    for name in attacks or sorted(known):
        crafted = known[name].detach().cpu()
        if crafted.shape[1:] != x.shape[1:] or len(crafted) > len(x):
            raise UserError(
                f"detector: expected crafted images of {name} like the first of {tuple(x.shape)},"
                f" got {tuple(crafted.shape)}"
            )
        n = len(crafted)
        fooled = right[:n] & (predict(evidence.model, crafted).argmax(1) != y.cpu()[:n])
        clean, adversarial = pixels[:n][fooled], crafted[fooled]
        noise = with_noise(clean, distance(clean, adversarial), rng=evidence.rng(f"noise like {name}"))
        parts.append(Lesson(clean, noise, adversarial))
    found = Lesson(*(torch.cat(part) for part in zip(*parts, strict=True)))
    if not len(found.clean):
        raise UserError(
            "detector: expected crafted images that fool the network where it was right, got none; use a larger eps"
        )
    return found


def distance(x: Tensor, other: Tensor) -> Tensor:
    """l2 distance (n,) of images (n, C, H, W)."""
    length: Tensor = (other - x).flatten(1).norm(dim=1)
    return length


def with_noise(x: Tensor, radius: Tensor, *, rng: Generator) -> Tensor:
    """Images x (n, C, H, W) plus Gaussian noise at the distance radius (n,), in [0, 1]: the noise is scaled so that it
    has that l2 norm after clipping. Where no scale reaches it, the noise is as large as the direction allows.
    """
    direction = torch.randn(x.shape, generator=rng).to(x)
    wanted, shape = radius.to(x), (-1, *[1] * (x.dim() - 1))
    low, high = torch.zeros_like(wanted), torch.ones_like(wanted)
    for _ in range(HALVINGS):
        short = distance(x, (x + high.view(shape) * direction).clamp(0, 1)) < wanted
        high = torch.where(short & (high < 1e6), high * 2, high)
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        short = distance(x, (x + middle.view(shape) * direction).clamp(0, 1)) < wanted
        low, high = torch.where(short, middle, low), torch.where(short, high, middle)
    return (x + high.view(shape) * direction).clamp(0, 1)


def refuse_twins(learnt: Tensor, judged: Tensor) -> None:
    """Raises UserError where an image (C, H, W) uint8 is both in what a detector learnt from and in what judges it."""
    rows = {image.numpy().tobytes() for image in learnt.cpu().contiguous()}
    twins = sum(image.numpy().tobytes() in rows for image in judged.cpu().contiguous())
    if twins:
        raise UserError(
            f"detector: expected images to judge it by that it did not learn from, got {twins} of both"
        )


def logistic(negative: Tensor, positive: Tensor, *, c: float, rng: Generator) -> Rule:
    """Fit on features (n, F) of negatives and (m, F) of positives, each side weighing the same. c: inverse strength of
    the l2 penalty.
    """
    from sklearn.linear_model import LogisticRegression

    rows = torch.cat([negative, positive]).double().cpu()
    mean, scale = rows.mean(0), rows.std(0, correction=0)
    scale = torch.where(scale > 1e-12, scale, 1.0)
    label = (torch.arange(len(rows)) >= len(negative)).numpy()
    state = int(torch.randint(2**31, (), generator=rng))
    fit = LogisticRegression(C=c, class_weight="balanced", max_iter=ITERATIONS, random_state=state)
    fit.fit(((rows - mean) / scale).numpy(), label)
    return Rule(mean, scale, torch.from_numpy(fit.coef_[0]).double(), float(fit.intercept_[0]))


def taught(
    evidence: Evidence, features: Score, *, attacks: tuple[str, ...], c: float, size: int = BATCH
) -> Score:
    """The log-odds of a logistic regression on features: images (n, C, H, W) in [0, 1] on the network's device -> (n,
    F), learnt from the lesson.
    """
    found = lesson(evidence, attacks)
    look = by_batches(evidence.model, features, size)
    negative = torch.cat([look(found.clean), look(found.noisy)])
    rule = logistic(negative, look(found.adversarial), c=c, rng=evidence.rng("logistic regression"))
    return lambda x: rule(features(x))


def by_batches(model: Classifier, score: Score, size: int = BATCH) -> Score:
    """The score of any number of images (n, C, H, W), uint8 or in [0, 1], on the CPU and without a graph."""
    device = next(model.parameters()).device

    def scored(x: Tensor) -> Tensor:
        if not len(x):
            return torch.zeros(0, dtype=torch.float64)
        with eval_mode(model), torch.no_grad():
            return torch.cat([score(to_unit(part.to(device))).cpu() for part in torch.split(x, size)])

    return scored
