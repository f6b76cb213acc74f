"""BadNets: stamp a patch on a fraction of the training images and give them the target label.

Gu et al., "BadNets: Identifying Vulnerabilities in the Machine Learning Model Supply Chain", 2017,
arXiv:1708.06733. All-to-one and all-to-all relabelling of that paper, section 5. Dirty-label.
"""

from torch import Tensor

from deconfound.fields import hyperparameters
from deconfound.poisons.backdoor import Backdoor
from deconfound.poisons.triggers import Patch
from deconfound.poisons.workshop import Planting, Workshop


@hyperparameters
class BadNets(Backdoor):
    """trigger: the patch. rate, rate_of, target, mode, victims, cover: see Backdoor; with cover images (stamped, with
    their own labels) the trigger no longer gives the label away early in training (Qi et al., "Revisiting the
    Assumption of Latent Separability for Backdoor Defenses", ICLR 2023, section 4.2).
    """

    trigger: Patch = Patch()

    def misfits(self, shape: tuple[int, int, int] | None) -> list[str]:
        """A patch larger than the picture."""
        return self.trigger.faults(shape, "trigger")

    def plant(self, shop: Workshop, chosen: Tensor) -> Planting:
        """The patch."""
        return Planting(self.trigger, arrays={"patch": self.trigger.ink()})
