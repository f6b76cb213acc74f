"""Projected gradient ascent, in every norm of the threat model and on every score.

Madry et al., "Towards Deep Learning Models Resistant to Adversarial Attacks", ICLR 2018, section 2.1.
"""

from torch import Generator, Tensor, nn

from deconfound.attacks.ascent import Steepest, climb
from deconfound.attacks.restarts import restarted
from deconfound.attacks.scores import ScoreName
from deconfound.attacks.victim import Victim, attacking
from deconfound.fields import Count, Eps, NonNegative, Positive, hyperparameters
from deconfound.threat import Norm, ThreatModel


@hyperparameters
class PGD:
    """eps and step_size in pixel units of `norm`; steps up the score from a random_start (or from the image itself);
    restarts are independent random starts. momentum: decay of the accumulated gradient, 0 for none. samples:
    evaluations whose mean gradient is taken, for models that draw. early_stop: leave an image as soon as the model errs
    on it, which is all that an evaluation asks; otherwise the last iterate of the restart with the largest margin is
    returned.

    step_size defaults to 2.5 eps / steps, the choice of Madry et al. for their l2 and MNIST experiments.
    """

    eps: Eps
    norm: Norm = "linf"
    steps: Count = 20
    step_size: Positive | None = None
    restarts: Count = 1
    score: ScoreName = "cross_entropy"
    random_start: bool = True
    momentum: NonNegative = 0.0
    samples: Count = 1
    early_stop: bool = False

    @property
    def threat(self) -> ThreatModel:
        """The budget that an evaluator holds this attack to."""
        return ThreatModel(norm=self.norm, eps=self.eps)

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, *, rng: Generator) -> Tensor:
        """Adversarial images like x; x (N, C, H, W) in [0, 1], y (N,) true labels."""

        def once(victim: Victim, x: Tensor) -> Tensor:
            start = self.threat.random_start(x, rng=rng) if self.random_start else x
            move = Steepest(self.threat, self.step_size or 2.5 * self.eps / self.steps, self.momentum)
            look = victim.look(victim.goal(self.score, x))
            return climb(
                look, x, start, move, steps=self.steps, samples=self.samples, early_stop=self.early_stop
            )

        x = x.detach()
        with attacking(model, x, y) as victim:
            if self.eps == 0 or not len(x):
                return x.clone()
            return restarted(once, victim, x, count=self.restarts, early_stop=self.early_stop)
