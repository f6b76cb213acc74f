"""How much two representations tell of each other: bounds on mutual information, and a dependence gap.

Bounds take a matrix of scores (N, N): entry (i, j) is the critic's value for the pair (a_i, b_j), so the
diagonal holds draws from the joint distribution and the rest stands for the product of the margins. Values in
nats.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def donsker_varadhan(scores: Tensor) -> Tensor:
    """E_joint[T] - log E_product[exp T]; scalar, a lower bound in expectation over large batches.

    Donsker & Varadhan 1983, as used by Belghazi et al., "MINE", ICML 2018. Exact for T = log density ratio +
    c.
    """
    joint, product = _pairs(scores)
    return joint.mean() - (product.logsumexp(0) - math.log(len(product)))


def nguyen_wainwright_jordan(scores: Tensor) -> Tensor:
    """E_joint[T] - E_product[exp(T - 1)]; scalar lower bound. Exact for T = 1 + log density ratio.

    Nguyen, Wainwright & Jordan, "Estimating divergence functionals", IEEE Trans. Inf. Theory 2010.
    """
    joint, product = _pairs(scores)
    return joint.mean() - (product - 1).exp().mean()


def info_nce(scores: Tensor) -> Tensor:
    """Mean log-softmax of the diagonal plus log N; scalar lower bound that cannot exceed log N.

    van den Oord et al., "Representation Learning with Contrastive Predictive Coding", 2018, equation 4.
    """
    _pairs(scores)
    return scores.log_softmax(1).diagonal().mean() + math.log(len(scores))


def jensen_shannon(scores: Tensor) -> Tensor:
    """Lower bound on the Jensen-Shannon divergence of joint and product; scalar, nats, at most log 2.

    (E_joint[-softplus(-T)] - E_product[softplus(T)]) / 2 + log 2, exact for T = log density ratio: the Fenchel-dual
    form of Nowozin et al., "f-GAN", NeurIPS 2016, as in Hjelm et al., "Deep InfoMax", ICLR 2019, equation 4. It is no
    mutual information: read a critic trained on it as `nguyen_wainwright_jordan(scores + 1)` (Poole et al., "On
    Variational Bounds of Mutual Information", ICML 2019, section 2.1).
    """
    joint, product = _pairs(scores)
    return (-F.softplus(-joint).mean() - F.softplus(product).mean()) / 2 + math.log(2)


def row_donsker_varadhan(
    joint: Tensor, product: Tensor, *, count: int | None = None, released: bool = False
) -> Tensor:
    """T_i - log((1/M) sum_j exp T_ij) of every row: joint (N, ...), product (N, M, ...) -> (N, ...).

    The Donsker-Varadhan form with the average taken for each row alone, not over the batch; its mean over rows lies
    above `donsker_varadhan` of the same scores. An entry -inf of `product` is a pair that does not count; then `count`
    is the number of those that do (default M). released: the sum begins with 1, as in the code of NAMID, which sets the
    score of the row's own pair to zero where it meant to leave it out (namid.md section 4.2). Then scores of zero give
    -log((M + 1) / M), and adding a constant to all scores moves the value: a score, not nats.
    """
    total = product.logsumexp(1)
    if released:
        total = torch.logaddexp(total, torch.zeros_like(total))
    return joint - total + math.log(product.shape[1] if count is None else count)


def rows(scores: Tensor, *, released: bool = False) -> Tensor:
    """`row_donsker_varadhan` of scores (N, N), the other pairs of a row being its negatives; (N,)."""
    _pairs(scores)
    diagonal = torch.eye(len(scores), dtype=torch.bool, device=scores.device)
    product = scores.masked_fill(diagonal, -torch.inf)
    return row_donsker_varadhan(scores.diagonal(), product, count=len(scores) - 1, released=released)


def _pairs(scores: Tensor) -> tuple[Tensor, Tensor]:
    """Scores of the joint pairs (N,) and of the others (N (N - 1),)."""
    if scores.dim() != 2 or scores.shape[0] != scores.shape[1] or len(scores) < 2:
        raise ValueError(f"expected scores (N, N) with N >= 2, got {tuple(scores.shape)}")
    off = ~torch.eye(len(scores), dtype=torch.bool, device=scores.device)
    return scores.diagonal(), scores[off]


class Critic(nn.Module):
    """T(r, z): dropout, linear, leaky ReLU, dropout, linear, on the concatenation [r ; z]; (N, D_r), (N, D_z)
    -> (N,).

    CBD's critic (cbd.md section 4). Hidden width defaults to D_z.
    """

    def __init__(self, r: int, z: int, *, hidden: int | None = None, dropout: float = 0.2) -> None:
        super().__init__()
        self.dropout = dropout
        self.inner = nn.Linear(r + z, hidden or z)
        self.outer = nn.Linear(hidden or z, 1)

    def forward(self, r: Tensor, z: Tensor) -> Tensor:
        """One score per pair."""
        a = F.dropout(torch.cat([r, z], dim=1), self.dropout, self.training)
        b = F.dropout(F.leaky_relu(self.inner(a), 0.01), self.dropout, self.training)
        score: Tensor = self.outer(b).squeeze(1)
        return score

    @torch.no_grad()
    def project(self) -> None:
        """Divide both weight matrices by their largest singular value where it exceeds 1: 1-Lipschitz without
        dropout.
        """
        for layer in (self.inner, self.outer):
            layer.weight.div_(torch.linalg.matrix_norm(layer.weight, ord=2).clamp_min(1.0))

    @torch.no_grad()
    def project_as_released(self, iterations: int = 5) -> None:
        """Divide every tensor, biases too, by the square root of its largest singular value, as the CBD
        release does.
        """
        for tensor in self.parameters():
            matrix = tensor.view(1, -1) if tensor.dim() == 1 else tensor
            v = torch.ones(matrix.shape[1], device=matrix.device)
            for _ in range(iterations):
                v = F.normalize(matrix.T @ (matrix @ v), dim=0)
            sigma = (matrix @ v).norm()
            if sigma > 0:
                tensor.div_(sigma.sqrt())


def dependence_gap(critic: nn.Module, r: Tensor, z: Tensor) -> Tensor:
    """Mean score of the pairs minus mean score of pairs shifted by one inside the batch; scalar.

    The dual form of the Wasserstein-1 distance between p(r, z) and p(r) p(z) when the critic is 1-Lipschitz.
    Not a mutual information in nats; may be negative on a finite batch. Zero for a batch of one.
    """
    gap: Tensor = critic(r, z).mean() - critic(r, z.roll(1, 0)).mean()
    return gap
