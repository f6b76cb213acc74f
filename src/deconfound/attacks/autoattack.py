"""AutoAttack: several attacks without parameters to tune, each on what the ones before it left standing.

Croce & Hein, "Reliable Evaluation of Adversarial Robustness with an Ensemble of Diverse Parameter-free Attacks", ICML
2020, section 6; `plus` and `rand` as in the authors' evaluation protocol.
"""

from typing import Any, Literal

import torch
from torch import Generator, Tensor, nn

from deconfound.attacks.apgd import APGD
from deconfound.attacks.apgd_targeted import TargetedAPGD
from deconfound.attacks.fab import FAB
from deconfound.attacks.square import Square
from deconfound.attacks.victim import Victim, attacking
from deconfound.fields import Count, Eps, hyperparameters
from deconfound.threat import Norm, ThreatModel


@hyperparameters
class AutoAttack:
    """eps in pixel units of `norm`. version: `standard` (APGD on cross-entropy, targeted APGD and FAB, Square), `plus`
    (also untargeted APGD-DLR and FAB, with five restarts), or `rand` for models that draw (APGD on both scores, over
    `samples` evaluations). steps: of each gradient attack; targets: classes of the targeted ones, as far as there are
    so many; queries: of Square. The paper's numbers are the defaults; what is smaller cannot be compared with them.
    """

    eps: Eps
    norm: Norm = "linf"
    version: Literal["standard", "plus", "rand"] = "standard"
    steps: Count = 100
    targets: Count = 9
    queries: Count = 5000
    samples: Count = 20

    @property
    def threat(self) -> ThreatModel:
        """The budget that an evaluator holds this attack to."""
        return ThreatModel(norm=self.norm, eps=self.eps)

    def members(self) -> dict[str, Any]:
        """The attacks by name, in order; each stops at the first image on which the model errs."""
        budget: dict[str, Any] = {"eps": self.eps, "norm": self.norm}
        common: dict[str, Any] = budget | {"steps": self.steps, "early_stop": True}
        if self.version == "rand":
            scores: tuple[Literal["cross_entropy", "dlr"], ...] = ("cross_entropy", "dlr")
            drawn = {f"apgd_{score}": APGD(**common, score=score, samples=self.samples) for score in scores}
            return drawn
        restarts = 5 if self.version == "plus" else 1
        found: dict[str, Any] = {"apgd_cross_entropy": APGD(**common, restarts=restarts)}
        if self.version == "plus":
            found["apgd_dlr"] = APGD(**common, score="dlr", restarts=restarts)
            found["fab"] = FAB(**common, targeted=False, restarts=restarts)
            found["square"] = Square(**budget, queries=self.queries)
        found["apgd_targeted"] = TargetedAPGD(**common, targets=self.targets)
        found["fab_targeted"] = FAB(**common, targeted=True, targets=self.targets)
        return found | {"square": Square(**budget, queries=self.queries)}

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, *, rng: Generator) -> Tensor:
        """Adversarial images where one of the attacks found any, the images themselves elsewhere."""
        x = x.detach()
        found = x.clone()
        with attacking(model, x, y) as victim:
            if self.eps == 0 or not len(x):
                return found
            standing = _right(victim, x)
            for attack in self.members().values():
                if not len(standing):
                    break
                z = attack(model, x[standing], y[standing], rng=rng)
                broken = ~_right_mask(victim.part(standing), z)
                found[standing[broken]] = z[broken]
                standing = standing[~broken]
        return found


def _right(victim: Victim, x: Tensor) -> Tensor:
    return _right_mask(victim, x).nonzero().flatten()


@torch.no_grad()
def _right_mask(victim: Victim, x: Tensor) -> Tensor:
    return ~victim.errs(victim(x))
