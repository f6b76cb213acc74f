"""Training of NAMID's estimators on a fixed network and its adversarial images (namid.md section 4.3).

The network's logits are computed once, since it never changes; so there is no augmentation, and the adversarial images
are the same in every epoch, while the released code attacks each batch afresh.
"""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Generator, Tensor, nn

from deconfound.estimators import Estimators, EstimatorSpec, profile
from deconfound.models.classifier import predict, to_unit
from deconfound.optim import Adam
from deconfound.profiles import (
    Losses,
    Profile,
    Selection,
    contrastive_losses,
    eq5_losses,
    gaps,
    max_only_losses,
    select,
)
from deconfound.rng import global_seed


class _Pairs(NamedTuple):
    """Images, adversarial images, logits of both, and masks: what training reads, on the CPU."""

    x: Tensor
    x_adv: Tensor
    clean: Tensor
    adversarial: Tensor
    chosen: Selection

    def at(self, index: Tensor, device: torch.device) -> "_Batch":
        """The examples of a batch, on a device."""
        x, x_adv = (to_unit(images[index].to(device)) for images in (self.x, self.x_adv))
        logits = [values[index].to(device) for values in (self.clean, self.adversarial)]
        chosen = Selection(*(mask.to(device) for mask in self.chosen.at(index)))
        return _Batch(logits[0], logits[1], x, x_adv - x, chosen)


class _Batch(NamedTuple):
    """The arguments of `profile`, and the masks."""

    clean: Tensor
    adversarial: Tensor
    x: Tensor
    noise: Tensor
    chosen: Selection


def _pairs(model: nn.Module, x: Tensor, x_adv: Tensor, y: Tensor) -> _Pairs:
    """Logits once and for all, in evaluation mode; the model stays as it is."""
    clean, adversarial = predict(model, x), predict(model, x_adv)
    return _Pairs(x, x_adv, clean, adversarial, select(clean, adversarial, y.cpu()))


def train_estimators(
    spec: EstimatorSpec,
    model: nn.Module,
    x: Tensor,
    x_adv: Tensor,
    y: Tensor,
    *,
    rng: Generator,
    held: tuple[Tensor, Tensor, Tensor] | None = None,
) -> Estimators:
    """Estimators of a fixed network, in evaluation mode and on its device; the same `rng` gives the same weights.

    x, x_adv: images and their adversarial versions (N, C, height, width), in [0, 1] or uint8; y (N,) true labels. The
    network is read once, in evaluation mode, and comes back as it was. history: per epoch the mean losses of both
    pairs and the share of Omega; with held = (x, x_adv, y) also `gaps` on those images, in evaluation mode.

    training `random` takes no step: weights as drawn, with batch-norm statistics of one pass over the batches, so that
    their scores have the scale of trained ones. Raises ValueError with fewer images than one batch.
    """
    if len(x) < spec.batch_size:
        raise ValueError(f"expected {spec.batch_size} images (batch_size) or more, got {len(x)}")
    data = _pairs(model, x, x_adv, y)
    shape = (x.shape[1], x.shape[2], x.shape[3])
    with global_seed(rng):
        estimators = Estimators(spec, shape, data.clean.shape[1])
    device = next((parameter.device for parameter in model.parameters()), x.device)
    estimators.to(device).train()
    if spec.training == "random":
        _settle(estimators, _batches(data, spec, rng, device), spec)
        return estimators.eval()
    judges = _pairs(model, *held) if held else None
    optimizer = Adam(estimators.parameters(), lr=spec.lr)
    for epoch in range(spec.epochs):
        for group in optimizer.param_groups:
            group["lr"] = spec.lr_at(epoch)
        losses = []
        for batch in _batches(data, spec, rng, device):
            optimizer.zero_grad(set_to_none=True)
            loss = _losses(estimators, batch, spec)
            (loss.natural + loss.adversarial).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            losses.append(torch.stack(loss).detach())
        natural, adversarial = torch.stack(losses).mean(0).tolist()
        record = {"epoch": float(epoch + 1), "natural_loss": natural, "adversarial_loss": adversarial}
        record["fooled_share"] = float(data.chosen.fooled.float().mean())
        estimators.history.append(record | (_held_out(estimators, judges, spec, device) if judges else {}))
    return estimators.eval()


def _batches(data: _Pairs, spec: EstimatorSpec, rng: Generator, device: torch.device) -> Iterator[_Batch]:
    """Full batches in a fresh order."""
    order = torch.randperm(len(data.x), generator=rng)
    for start in range(0, len(order) - spec.batch_size + 1, spec.batch_size):
        yield data.at(order[start : start + spec.batch_size], device)


def _losses(estimators: Estimators, batch: _Batch, spec: EstimatorSpec) -> Losses:
    clean, adversarial, x, noise, chosen = batch
    if spec.training == "max_only":
        # Outputs that are not maximised leave no trace in the statistics either.
        natural = estimators.natural.estimate(clean, x, bound=spec.bound)
        return max_only_losses(
            natural, estimators.adversarial.estimate(adversarial, noise, bound=spec.bound), chosen
        )
    found = profile(estimators, clean, adversarial, x, noise, bound=spec.bound)
    return (eq5_losses if spec.training == "eq5" else contrastive_losses)(found, chosen)


@torch.no_grad()
def _settle(estimators: Estimators, parts: Iterator[_Batch], spec: EstimatorSpec) -> None:
    """Batch-norm statistics as the plain average over one pass."""
    norms = [m for m in estimators.modules() if isinstance(m, nn.BatchNorm1d | nn.BatchNorm2d)]
    usual = norms[0].momentum
    for norm in norms:
        norm.momentum = None
    for clean, adversarial, x, noise, _ in parts:
        profile(estimators, clean, adversarial, x, noise, bound=spec.bound)
    for norm in norms:
        norm.momentum = usual


@torch.no_grad()
def _held_out(
    estimators: Estimators, held: _Pairs, spec: EstimatorSpec, device: torch.device
) -> dict[str, float]:
    """`gaps` over batches of the size of training, the last partial one left out."""
    size = min(spec.batch_size, len(held.x))
    found: list[Profile] = []
    starts = range(0, len(held.x) - size + 1, size)
    estimators.eval()
    for start in starts:
        *values, _ = held.at(torch.arange(start, start + size), device)
        found.append(profile(estimators, *values, bound=spec.bound))
    estimators.train()
    joined = Profile(*(torch.cat(values).cpu() for values in zip(*found, strict=True)))
    return gaps(joined, held.chosen.at(torch.arange(len(starts) * size)))
