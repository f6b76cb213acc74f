"""Targeted APGD: towards each of the likeliest wrong classes in turn.

Croce & Hein, "Reliable Evaluation of Adversarial Robustness with an Ensemble of Diverse Parameter-free Attacks", ICML
2020, section 4.2 (APGD on the targeted DLR score, equation 7).
"""

import torch
from torch import Generator, Tensor, nn

from deconfound.attacks.apgd import APGD
from deconfound.attacks.restarts import restarted
from deconfound.attacks.scores import likeliest_wrong, targeted_dlr
from deconfound.attacks.victim import Victim, attacking
from deconfound.fields import Count, Eps, OpenFraction, hyperparameters
from deconfound.threat import Norm, ThreatModel


@hyperparameters
class TargetedAPGD:
    """targets: number of wrong classes, the likeliest of the untouched image first (at most all of them), each with
    `restarts` random starts. eps in pixel units of `norm`; steps, rho, samples and early_stop are those of APGD.
    """

    eps: Eps
    norm: Norm = "linf"
    steps: Count = 100
    targets: Count = 9
    restarts: Count = 1
    rho: OpenFraction = 0.75
    samples: Count = 1
    early_stop: bool = False

    @property
    def threat(self) -> ThreatModel:
        """The budget that an evaluator holds this attack to."""
        return ThreatModel(norm=self.norm, eps=self.eps)

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, *, rng: Generator) -> Tensor:
        """Per image the ascent, over all targets and restarts, that ends at the largest margin."""
        x = x.detach()
        with attacking(model, x, y) as victim:
            if self.eps == 0 or not len(x):
                return x.clone()
            with torch.no_grad():
                targets = likeliest_wrong(victim(x), y, self.targets)
            count = targets.shape[1] * self.restarts
            tries = iter(range(count))

            def once(victim: Victim, x: Tensor) -> Tensor:
                target = targets[victim.rows, next(tries) // self.restarts]
                look = victim.look(lambda logits, rows: targeted_dlr(logits, victim.y[rows], target[rows]))
                return ascent.ascend(look, x, rng=rng)

            ascent = APGD(
                eps=self.eps,
                norm=self.norm,
                steps=self.steps,
                rho=self.rho,
                samples=self.samples,
                early_stop=self.early_stop,
            )
            return restarted(once, victim, x, count=count, early_stop=self.early_stop)
