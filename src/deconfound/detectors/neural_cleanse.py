"""Neural Cleanse: a class that a much smaller patch reaches than any other is the target of a backdoor.

Wang et al., "Neural Cleanse: Identifying and Mitigating Backdoor Attacks in Neural Networks", IEEE S&P 2019.
Triggers are inverted on the held-out images (`inversion`). Its limits are its own: triggers
that cover the image or warp it, all-to-all backdoors, and few classes, among which a deviation from the median is
coarse.
"""

import torch
from torch import Tensor

from deconfound.detectors.evidence import Evidence, Scanned
from deconfound.detectors.inversion import Inversion, Inverted
from deconfound.detectors.scoring import held_out
from deconfound.fields import Positive, hyperparameters

CONSISTENT = 1.4826  # makes the median absolute deviation of a normal variable its standard deviation


@hyperparameters
class NeuralCleanse:
    """inversion: how the trigger of each class is sought. threshold: a class is accused whose mask is smaller than
    the median by more than so many deviations, and sends the images to the class as often as the inversion asked.
    """

    inversion: Inversion = Inversion()
    threshold: Positive = 2.0

    def scan(self, evidence: Evidence) -> Scanned:
        """Anomaly indices of the masks, larger for smaller masks."""
        return self.judge(self.invert(evidence))

    def invert(self, evidence: Evidence) -> Inverted:
        """The triggers."""
        held = held_out(evidence)
        return self.inversion(evidence.model, held.x, held.y, rng=evidence.rng)

    def judge(self, found: Inverted) -> Scanned:
        """Which of the triggers are too small. One that does not work is no evidence, however small."""
        index = anomaly_index(found.norms)
        return Scanned(index, (index > self.threshold) & (found.success >= self.inversion.success))


def anomaly_index(norms: Tensor) -> Tensor:
    """(median - n) / (1.4826 * median |n - median|) of norms (K,): positive below the median, 0 if all are alike."""
    middle = norms.quantile(0.5)
    deviation = CONSISTENT * (norms - middle).abs().quantile(0.5)
    return (middle - norms) / torch.clamp(deviation, min=1e-6)
