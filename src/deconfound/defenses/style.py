"""CausalAdv's account of style: what in a representation is uncorrelated with content, and what label it suggests.

Zhang et al., "CausalAdv: Adversarial Robustness through the Lens of Causality", ICLR 2022, arXiv:2106.06196; sections
4.2 to 4.4 of causaladv.md. N images, D features, K classes; r the features, W (K, D) the head.
"""

from typing import Literal

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional as F

BasisKind = Literal["exact", "sequential", "random", "identity", "reshuffled"]
TINY = 1e-6


def unit(r: Tensor) -> Tensor:
    """r / (|r| + 1e-6), rows of (N, D): style does not depend on the scale of a feature."""
    scaled: Tensor = r / (r.norm(dim=1, keepdim=True) + TINY)
    return scaled


class RunningMoments(nn.Module):
    """Mean (G, D), covariance (G, D, D; divided by N) and count (G,) of all rows seen so far, in G groups.

    forget: weight of a new batch in an exponential average instead; 0 keeps all rows alike.
    """

    mean: Tensor
    covariance: Tensor
    count: Tensor

    def __init__(self, groups: int, width: int, *, forget: float = 0.0) -> None:
        super().__init__()
        self.forget = forget
        self.register_buffer("mean", torch.zeros(groups, width))
        self.register_buffer("covariance", torch.zeros(groups, width, width))
        self.register_buffer("count", torch.zeros(groups))

    @torch.no_grad()
    def update(self, z: Tensor, group: Tensor) -> None:
        """Merge rows z (N, D) of groups (N,) into the moments (Chan et al. 1979); nothing is differentiated."""
        member = F.one_hot(group, len(self.count)).to(z.dtype).T
        new = member.sum(1)
        mean = member @ z / new.clamp_min(1)[:, None]
        spread = (z[None] - mean[:, None]) * member[:, :, None]
        covariance = spread.transpose(1, 2) @ spread / new.clamp_min(1)[:, None, None]
        w = new / (new + self.count).clamp_min(1)
        if self.forget:
            w = torch.where((new > 0) & (self.count > 0), torch.full_like(w, self.forget), w)
        shift = self.mean - mean
        outer = shift[:, :, None] * shift[:, None]
        w2, w3 = w[:, None], w[:, None, None]
        self.covariance.copy_((1 - w3) * self.covariance + w3 * covariance + w3 * (1 - w3) * outer)
        self.mean.copy_((1 - w2) * self.mean + w2 * mean)
        self.count.add_(new)


def anchor_basis(width: int, *, rng: Generator) -> Tensor:
    """An orthonormal basis (D, D), rows, drawn once: of 4 D Gaussian vectors the D that overlap least with the others,
    made orthonormal.
    """
    drawn = torch.randn(4 * width, width, generator=rng)
    overlap = (drawn @ drawn.T).abs().fill_diagonal_(0).sum(1)
    chosen = drawn[overlap.argsort()[:width]]
    basis: Tensor = torch.linalg.qr(chosen.T).Q.T.contiguous()
    return basis


def content_directions(weight: Tensor, covariance: Tensor, *, tolerance: float = 1e-5) -> Tensor:
    """Orthonormal columns (D, rank) that span the covariance-corrected class directions v_k = M w_k.

    Singular values below tolerance times the largest count as 0, whichever classes depend on which. What is not finite
    is left out: the loss, which is not finite either, ends the training.
    """
    corrected = torch.nan_to_num(covariance @ weight.T, nan=0.0, posinf=0.0, neginf=0.0)
    factor = torch.linalg.svd(corrected, full_matrices=False)
    kept: Tensor = factor.U[:, tolerance * factor.S.max() < factor.S]
    return kept


def unit_rows(basis: Tensor, *, tolerance: float = 1e-5) -> Tensor:
    """Rows of (D, D) scaled to length 1; what a projection has left shorter than the tolerance is rounding, and 0."""
    size = basis.norm(dim=1, keepdim=True)
    return torch.where(size > tolerance, basis / size.clamp_min(tolerance), 0.0)


def style_basis(
    kind: BasisKind, anchor: Tensor, weight: Tensor, covariance: Tensor, *, rng: Generator | None = None
) -> Tensor:
    """Style directions B (D, D), rows of unit length, so that style s = B r is uncorrelated with content c = W r.
    Where the class directions leave no room for style (D <= rank(M W^T)), B is 0.

    `exact`: the anchor projected off all class directions, W M B^T = 0. `sequential`: class after class, as released;
    exact for the last class only. Placebos: `random` (projected off as many random directions, the same ones in
    every step), `identity`, and `reshuffled` (the exact basis with its rows in a new order, drawn from rng).
    """
    if kind == "identity":
        return torch.eye(len(anchor)).to(anchor)
    if kind == "sequential":
        basis = anchor
        for v in F.normalize(covariance @ weight.T, dim=0).T:
            basis = unit_rows(basis - (basis @ v)[:, None] * v)
        return basis
    off = content_directions(weight, covariance)
    if kind == "random":
        seed = torch.Generator().manual_seed(len(anchor))
        drawn = torch.linalg.qr(torch.randn(len(anchor), len(weight), generator=seed)).Q
        off = drawn[:, : off.shape[1]].to(anchor)
    basis = unit_rows(anchor - anchor @ off @ off.T)
    if kind == "reshuffled":
        assert rng is not None
        basis = basis[torch.randperm(len(basis), generator=rng).to(basis.device)]
    return basis


class StylePredictor(nn.Module):
    """g: style (N, D) -> logits (N, K), with the moments per class of its last hidden layer q.

    kind `mlp`: D -> D/2, batch norm, ReLU, -> D, ReLU, -> K, as released; `linear`: D -> K, as in the paper, where q is
    the style itself.
    """

    def __init__(
        self, width: int, classes: int, *, kind: Literal["mlp", "linear"] = "mlp", forget: float = 0.0
    ) -> None:
        super().__init__()
        half = max(1, width // 2)
        layers = [nn.Linear(width, half), nn.BatchNorm1d(half), nn.ReLU(), nn.Linear(half, width), nn.ReLU()]
        self.body = nn.Sequential(*(layers if kind == "mlp" else ()))
        self.last = nn.Linear(width, classes)
        self.moments = RunningMoments(classes, width, forget=forget)

    def forward(self, s: Tensor) -> Tensor:
        """Plain logits (N, K)."""
        logits: Tensor = self.last(self.body(s))
        return logits

    def observe(self, s: Tensor, y: Tensor) -> Tensor:
        """Plain logits (N, K), after the moments of unit(q) have taken in this batch."""
        q = self.body(s)
        self.moments.update(unit(q.detach()), y)
        logits: Tensor = self.last(q)
        return logits


def correction(weight: Tensor, covariance: Tensor) -> Tensor:
    """(u_k - u_y)^T Sigma_y (u_k - u_y) as a table (K, K), entry [y, k], of u (K, D) and Sigma (K, D, D), not negative.

    Half of rho times it, added to logit k, bounds the expected cross-entropy of q ~ N(q, rho Sigma_y) from above (Wang
    et al., "Implicit Semantic Data Augmentation", NeurIPS 2019, proposition 1).
    """
    apart = weight[None] - weight[:, None]
    found: Tensor = (apart @ covariance * apart).sum(2)
    return found.clamp_min(0)


def isotropic(weight: Tensor, variance: float) -> Tensor:
    """The same table for Sigma_y = variance * I, as the paper has it."""
    return variance * (weight[None] - weight[:, None]).square().sum(2)


def soft_cross_entropy(target: Tensor, logits: Tensor) -> Tensor:
    """-sum_k p_k log softmax(logits)_k, (N,) nats, of distributions p (N, K)."""
    return -(target * logits.log_softmax(1)).sum(1)
