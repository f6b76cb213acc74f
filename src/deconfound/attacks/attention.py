"""AoA: make the model attend less to what speaks for the true class than to what speaks for the runner-up.

Chen, He, Sun, Yang & Huang, "Universal Adversarial Attack on Attention and the Resulting Dataset DAmageNet", TPAMI,
arXiv:2001.06325. Their attention is SGLRP and their aim transfer under a bound on the root mean square; here attention
is input times gradient, by double backward passes, and the budget is that of projected ascent in any norm, so that the
attack can be set beside PGD. Expect less of it than of PGD: how the network attends says little about what it predicts,
so alone the mean ratio falls while most predictions stay, and with the cross-entropy added it still trails PGD. A black
pixel has no attention and no share in its gradient.
"""

import torch
from torch import Generator, Tensor, nn

from deconfound.attacks.ascent import Steepest, climb
from deconfound.attacks.scores import cross_entropy, likeliest_wrong
from deconfound.attacks.victim import Victim, attacking
from deconfound.fields import Count, Eps, NonNegative, Positive, hyperparameters
from deconfound.threat import TINY, Norm, ThreatModel


def attention(z: Tensor, logits: Tensor, labels: Tensor) -> Tensor:
    """Sum over all pixels of |input times gradient| of one logit each, (n,), differentiable by z.

    z (n, C, H, W) with a gradient; logits (n, K) of z; labels (n,).
    """
    asked = logits.gather(1, labels[:, None]).sum()
    (slope,) = torch.autograd.grad(asked, z, create_graph=True, materialize_grads=True)
    return (z * slope).flatten(1).abs().sum(1)


def log_ratio(z: Tensor, logits: Tensor, y: Tensor) -> Tensor:
    """Logarithm of the attention for the true class over that for the likeliest wrong one, (n,)."""
    other = likeliest_wrong(logits.detach(), y, 1).squeeze(1)
    true, wrong = (attention(z, logits, labels).clamp_min(TINY).log() for labels in (y, other))
    return true - wrong


@hyperparameters
class AttentionAttack:
    """eps and step_size in pixel units of `norm`; step_size defaults to 2.5 eps / steps; steps from the image itself.
    weight: of the cross-entropy (nats) beside the logarithm of the ratio of attentions; 0 is attention alone.
    early_stop: leave an image as soon as the model errs on it.
    """

    eps: Eps
    norm: Norm = "linf"
    steps: Count = 20
    step_size: Positive | None = None
    weight: NonNegative = 1.0
    early_stop: bool = False

    @property
    def threat(self) -> ThreatModel:
        """The budget that an evaluator holds this attack to."""
        return ThreatModel(norm=self.norm, eps=self.eps)

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, *, rng: Generator) -> Tensor:
        """The last iterate (or the first on which the model errs), like x. Draws nothing."""
        x = x.detach()
        with attacking(model, x, y) as victim:
            if self.eps == 0 or not len(x):
                return x.clone()
            move = Steepest(self.threat, self.step_size or 2.5 * self.eps / self.steps)

            def look(z: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
                return self._look(victim, z, rows)

            return climb(look, x, x, move, steps=self.steps, early_stop=self.early_stop)

    def _look(self, victim: Victim, z: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        logits, y = victim(z), victim.y[rows]
        score = self.weight * cross_entropy(logits, y)
        if logits.requires_grad:  # without, the ascent itself refuses
            score = score - log_ratio(z, logits, y)
        return score, victim.errs(logits, rows)
