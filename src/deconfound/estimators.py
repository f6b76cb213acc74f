"""NAMID's estimators: how much an output tells of the image, and of the noise that was added to it.

Zhou et al., "Improving Adversarial Robustness via Mutual Information Estimation", ICML 2022, arXiv:2207.12203, with the
choices of its code where the paper is silent (namid.md section 4). Two pairs of networks, alike but for their weights:
the natural pair reads the clean image x as its pattern, the adversarial pair the noise x_adv - x.

N examples, K classes, L locations of a pattern's map of features, H features, M patterns of a bank. Patterns are
(N, C, height, width) in pixel units. Estimates grow with the information; the paper's code has the opposite sign.
"""

from typing import Annotated, Literal, NamedTuple

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from deconfound.fields import Count, Fraction01, Positive, hyperparameters
from deconfound.information import row_donsker_varadhan
from deconfound.profiles import Profile

Bound = Literal["released", "donsker_varadhan"]
Training = Literal["contrastive", "eq5", "max_only", "random"]
SCORES = 2**24  # scores held at once, 64 MiB; more are computed in parts, and again for the gradient


@hyperparameters
class EstimatorSpec:
    """hidden: H. widths: channels of the local network's two convolutions. bound: what training maximises and what is
    read. training: `contrastive` as released, `eq5` the paper's equation 5, `max_only` its equation 4 with a selection,
    `random` leaves the initial weights (a control). epochs, batch_size (at least 2; the last partial batch is dropped,
    since an estimate depends on N), lr of Adam, multiplied by factor before each epoch of milestones.

    Defaults are those of the released contrastive run on CIFAR-10; its max_only run has epochs 50, batch_size 200,
    milestones 20, 30, 40 and factor 0.5. For 8 x 8 images: hidden 64 to 128, widths 16 and 32, lr 1e-3, batch_size 128,
    10 to 30 epochs; at such H the scores are small, and `donsker_varadhan` is the better bound (namid.md section 11).
    """

    hidden: Count = 2048
    widths: tuple[Count, Count] = (64, 128)
    bound: Bound = "released"
    training: Training = "contrastive"
    epochs: Count = 25
    batch_size: Annotated[Count, Field(ge=2)] = 400
    lr: Positive = 1e-2
    milestones: tuple[Count, ...] = (10, 20)
    factor: Annotated[Fraction01, Field(gt=0)] = 0.1

    def lr_at(self, epoch: int) -> float:
        """Learning rate in an epoch, counted from 0."""
        return self.lr * self.factor ** sum(epoch >= milestone for milestone in self.milestones)


class Residual(nn.Module):
    """Linear, batch norm, ReLU, linear, beside a linear shortcut that begins as a noisy identity; then layer norm.

    The 1 x 1 block of the paper, on the last axis: (..., features) -> (..., hidden).
    """

    def __init__(self, features: int, hidden: int) -> None:
        super().__init__()
        self.inner = nn.Linear(features, hidden, bias=False)
        self.norm = nn.BatchNorm1d(hidden)
        self.outer = nn.Linear(hidden, hidden)
        self.shortcut = nn.Linear(features, hidden, bias=False)
        self.scale = nn.LayerNorm(hidden)
        with torch.no_grad():
            self.shortcut.weight.uniform_(-0.01, 0.01).fill_diagonal_(1.0)

    def forward(self, x: Tensor) -> Tensor:
        """(..., features) -> (..., hidden)."""
        flat = x.flatten(0, -2)
        y = self.outer(self.norm(self.inner(flat)).relu()) + self.shortcut(flat)
        out: Tensor = self.scale(y).unflatten(0, x.shape[:-1])
        return out


class LocalNet(nn.Module):
    """A pattern (N, C, height, width) -> (N, L, H), a vector for each of L places.

    Images of 16 pixels and more shrink by 4 on each side, as in the paper (32 x 32: L = 64); smaller ones by 2 (8 x 8:
    L = 16). No gradient reaches the pattern. Raises ValueError for images of fewer than 2 pixels on a side.
    """

    def __init__(
        self, shape: tuple[int, int, int], *, width_in: tuple[int, int] = (64, 128), hidden: int
    ) -> None:
        super().__init__()
        channels, height, width = shape
        if min(height, width) < 2:
            raise ValueError(f"expected images of 2 x 2 pixels or more, got {height} x {width}")
        large = min(height, width) >= 16
        kernel, stride = (4, 2) if large else (3, 1)
        first, second = width_in
        self.map = nn.Sequential(
            nn.Conv2d(channels, first, kernel, stride, 1, bias=False),
            nn.BatchNorm2d(first),
            nn.ReLU(),
            nn.Conv2d(first, second, 4, 2, 1, bias=False),
            nn.BatchNorm2d(second),
            nn.ReLU(),
        )
        self.block = Residual(second, hidden)
        shrink = 4 if large else 2
        self.locations = (height // shrink) * (width // shrink)

    def forward(self, pattern: Tensor) -> Tensor:
        """(N, C, height, width) -> (N, L, H)."""
        out: Tensor = self.block(self.map(pattern.detach()).flatten(2).transpose(1, 2))
        return out


GlobalNet = Residual  # of logits: (N, K) -> (N, H)


def row_estimates(
    outputs: Tensor, local: Tensor, *, bound: Bound = "released", bank: Tensor | None = None
) -> Tensor:
    """Estimates (N,) from the features of outputs (N, H) and of their own patterns, local (N, L, H).

    Row i is the mean over places l of u_iil - log(S / M), where u_ijl is the inner product of output i and place l of
    pattern j (no temperature), and S the sum of exp u_ijl over the M patterns that are not its own, plus 1 if the bound
    is `released`. These are the M = N - 1 others of the batch; with a bank (M, L, H) they are its patterns, whatever
    the batch, and a row's value depends on no other row. Raises ValueError on other shapes and without any negative.
    """
    if outputs.dim() != 2 or local.dim() != 3 or len(outputs) != len(local):
        raise ValueError(
            f"expected (N, H) and (N, L, H), got {tuple(outputs.shape)} and {tuple(local.shape)}"
        )
    others = local if bank is None else bank
    if others.shape[1:] != local.shape[1:] or len(others) < (2 if bank is None else 1):
        raise ValueError(f"expected a batch of 2 or more, or a bank (M, L, H), got {tuple(others.shape)}")
    size = max(1, SCORES // (len(others) * others.shape[1]))
    starts = range(0, len(outputs), size)
    parts = []
    for start in starts:
        part = (outputs[start : start + size], local[start : start + size], others)
        first = start if bank is None else None
        if len(starts) > 1 and torch.is_grad_enabled():
            parts.append(checkpoint(_row_estimates, *part, first, bound, use_reentrant=False))
        else:
            parts.append(_row_estimates(*part, first, bound))
    return torch.cat(parts)


def _row_estimates(outputs: Tensor, own: Tensor, others: Tensor, first: int | None, bound: Bound) -> Tensor:
    """Some rows; first: place of the first row's own pattern among the others, None if it is not there."""
    scores = (outputs @ others.flatten(0, 1).T).view(len(outputs), *others.shape[:2])
    if first is not None:
        here = torch.arange(first, first + len(outputs), device=outputs.device)
        mask = here[:, None] == torch.arange(len(others), device=outputs.device)
        scores = scores.masked_fill(mask[:, :, None], -torch.inf)
    joint = torch.einsum("nh,nlh->nl", outputs, own)
    count = len(others) - (first is not None)
    return row_donsker_varadhan(joint, scores, count=count, released=bound == "released").mean(1)


class Estimator(nn.Module):
    """A local and a global network, whose features meet in an inner product."""

    def __init__(self, spec: EstimatorSpec, shape: tuple[int, int, int], classes: int) -> None:
        super().__init__()
        self.local_net = LocalNet(shape, width_in=spec.widths, hidden=spec.hidden)
        self.global_net = GlobalNet(classes, spec.hidden)

    def local(self, pattern: Tensor) -> Tensor:
        """Features of patterns, (N, L, H): for a caller who needs them twice, or as a bank."""
        features: Tensor = self.local_net(pattern)
        return features

    def estimate(
        self, logits: Tensor, pattern: Tensor, *, bound: Bound = "released", bank: Tensor | None = None
    ) -> Tensor:
        """Estimates (N,) for logits (N, K) and their patterns; see `row_estimates`. Gradients reach the logits."""
        return self.estimate_local(logits, self.local(pattern), bound=bound, bank=bank)

    def estimate_local(
        self, logits: Tensor, local: Tensor, *, bound: Bound = "released", bank: Tensor | None = None
    ) -> Tensor:
        """`estimate` from features (N, L, H) that are known already."""
        return row_estimates(self.global_net(logits), local, bound=bound, bank=bank)


class Banks(NamedTuple):
    """Features of reference patterns (M, L, H): of clean images, and of noise."""

    natural: Tensor
    adversarial: Tensor


class Estimators(nn.Module):
    """The natural and the adversarial pair. history: a record per epoch of training, not part of the state."""

    def __init__(self, spec: EstimatorSpec, shape: tuple[int, int, int], classes: int) -> None:
        super().__init__()
        self.natural = Estimator(spec, shape, classes)
        self.adversarial = Estimator(spec, shape, classes)
        self.history: list[dict[str, float]] = []

    @torch.no_grad()
    def banks(self, x: Tensor, noise: Tensor) -> Banks:
        """Features of reference images and of their noise, as negatives that stay the same for every batch."""
        return Banks(self.natural.local(x), self.adversarial.local(noise))


def profile(
    estimators: Estimators,
    clean: Tensor,
    adversarial: Tensor,
    x: Tensor,
    noise: Tensor,
    *,
    bound: Bound = "released",
    banks: Banks | None = None,
) -> Profile:
    """All four estimates of a batch: logits (N, K) of x and of x_adv, patterns x and noise = x_adv - x.

    Modes are left alone: use evaluation mode unless the estimators are being trained.
    """
    found = []
    bank = banks or (None, None)
    for pair, pattern, negatives in zip(
        (estimators.natural, estimators.adversarial), (x, noise), bank, strict=True
    ):
        local = pair.local(pattern)
        found += [
            pair.estimate_local(logits, local, bound=bound, bank=negatives) for logits in (clean, adversarial)
        ]
    return Profile(*found)
