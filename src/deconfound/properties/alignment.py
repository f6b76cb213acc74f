"""What CausalAdv says of a network: how far an attack moves P(Y | X) and P(Y | X, s), and whether style moves.

Zhang et al., ICLR 2022, arXiv:2106.06196; statistics of causaladv.md section 9, rows 1 to 4. Every network gets a fresh
probe of the same make, trained on its own clean style with the exact basis, whatever its defense.
"""

from typing import Annotated, NamedTuple

import torch
from pydantic import Field
from torch import Generator, Tensor
from torch.nn import functional as F

from deconfound.attacks.pgd import PGD
from deconfound.attacks.scores import kl
from deconfound.defenses.style import (
    RunningMoments,
    StylePredictor,
    anchor_basis,
    content_directions,
    style_basis,
    unit,
)
from deconfound.fields import Count, Positive, hyperparameters
from deconfound.optim import Adam
from deconfound.properties.subject import Found, Subject
from deconfound.rng import global_seed


@hyperparameters
class Alignment:
    """attack: crafts on the cross-entropy, without early stop. epochs, batch_size, lr (Adam): training of the probe.

    Per image, nats: `style_kl` KL(p^s(x) || p^s(x_adv)) of the probe without covariance correction, which would leak
    the label; `output_kl` the same of the network's own outputs. Per run: accuracy of the probe on clean and attacked
    style and their difference; `style_shift`, the mean change of style over the mean change of content W r;
    `content_style_correlation`, mean absolute correlation over images; `basis_residual` |W M B^T| / (|W M| |B|);
    `style_share`, the share of |r|^2 that is orthogonal to the class directions. Correlation and residual read the
    basis that the defense trained with, where it had one.
    """

    attack: PGD
    epochs: Count = 20
    batch_size: Annotated[Count, Field(ge=2)] = 64
    lr: Positive = 0.01

    def __call__(self, subject: Subject) -> Found:
        """See the class."""
        x_adv = subject.adversarial(self.attack)
        train, clean, moved = (unit(subject.features(x)) for x in (subject.train.x, subject.x, x_adv))
        y = subject.y
        probe = self.probe(subject, train)
        before, after = probe(clean), probe(moved)
        style_kl = kl(before, after)
        output_kl = kl(subject.logits(subject.x), subject.logits(x_adv))
        weight = subject.model.head.weight.detach()
        accurate = [float((logits.argmax(1) == y).double().mean()) for logits in (before, after)]
        style, content = ((clean - moved) @ side.T for side in (probe.basis, weight))
        numbers = {
            "style_accuracy_clean": accurate[0],
            "style_accuracy_adversarial": accurate[1],
            "style_gap": accurate[0] - accurate[1],
            "style_shift": float(style.norm(dim=1).mean() / content.norm(dim=1).mean().clamp_min(1e-12)),
        }
        basis = subject.parts.get("basis", probe.basis)
        numbers |= split_quality(weight, probe.covariance, basis, clean)
        return Found({"style_kl": style_kl.cpu().numpy(), "output_kl": output_kl.cpu().numpy()}, numbers)

    def probe(self, subject: Subject, style: Tensor) -> "Probe":
        """A predictor of the label from the style of unit training features (N, D), trained and frozen."""
        rng = subject.rng("property style probe")
        weight = subject.model.head.weight.detach()
        moments = RunningMoments(1, style.shape[1]).to(style.device)
        moments.update(style, torch.zeros(len(style), dtype=torch.long, device=style.device))
        covariance = moments.covariance[0]
        anchor = anchor_basis(style.shape[1], rng=rng).to(style.device)
        basis = style_basis("exact", anchor, weight, covariance)
        with global_seed(rng):
            predictor = StylePredictor(style.shape[1], subject.classes).to(style.device)
        self._train(predictor, style @ basis.T, subject.train.y.to(style.device), rng)
        return Probe(predictor, basis, covariance)

    def _train(self, predictor: StylePredictor, style: Tensor, y: Tensor, rng: Generator) -> None:
        optimizer = Adam(predictor.parameters(), lr=self.lr)
        predictor.train()
        for _ in range(self.epochs):
            order = torch.randperm(len(y), generator=rng).to(y.device)
            for start in range(0, len(y) - 1, self.batch_size):  # a last batch of one would have no variance
                chosen = order[start : start + self.batch_size]
                optimizer.zero_grad(set_to_none=True)
                F.cross_entropy(predictor(style[chosen]), y[chosen]).backward()  # type: ignore[no-untyped-call]
                optimizer.step()
        predictor.eval().requires_grad_(False)


class Probe(NamedTuple):
    """A style predictor, its basis (D, D), and the covariance (D, D) of unit training features."""

    predictor: StylePredictor
    basis: Tensor
    covariance: Tensor

    def __call__(self, features: Tensor) -> Tensor:
        """Logits (N, K) of unit features (N, D)."""
        logits: Tensor = self.predictor(features @ self.basis.T)
        return logits


def split_quality(weight: Tensor, covariance: Tensor, basis: Tensor, features: Tensor) -> dict[str, float]:
    """How well a basis B (D, D) parts style from the content W r of unit features (N, D); W (K, D), M (D, D)."""
    directions = content_directions(weight, covariance)
    corrected = weight @ covariance
    residual = (corrected @ basis.T).norm() / (corrected.norm() * basis.norm()).clamp_min(1e-12)
    inside = (features @ directions).square().sum(1)
    return {
        "content_style_correlation": mean_correlation(features @ weight.T, features @ basis.T),
        "basis_residual": float(residual),
        "style_share": float(1 - (inside / features.square().sum(1).clamp_min(1e-12)).mean()),
    }


def mean_correlation(a: Tensor, b: Tensor) -> float:
    """Mean absolute correlation of the columns of a (N, P) with those of b (N, Q); constant columns count as 0."""
    a, b = (z.double() - z.double().mean(0) for z in (a, b))
    sizes = a.norm(dim=0)[:, None] * b.norm(dim=0)[None]
    scale = float(sizes.max()) if sizes.numel() else 0.0
    found = torch.where(sizes > 1e-9 * scale, (a.T @ b) / sizes.clamp_min(1e-300), 0.0)
    return float(found.abs().mean())
