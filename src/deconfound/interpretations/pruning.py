"""Pruning curve: what a network loses when channels of its last convolution are taken away, in which order.

The orders: `activation`, the least active on clean images first, as in fine-pruning (Liu, Dolan-Gavitt, Garg,
"Fine-Pruning: Defending Against Backdooring Attacks on Deep Neural Networks", RAID 2018, arXiv:1805.12185); `change`,
those that the trigger moves most first (trigger activation change, Zheng et al., "Data-free Backdoor Removal Based on
Channel Lipschitzness", ECCV 2022, arXiv:2208.03111), which knows the trigger and bounds what any order can be hoped to
do; `weight`, the smallest own weight first (of a batch norm the absolute scale, as in Liu et al., "Learning Efficient
Convolutional Networks through Network Slimming", ICCV 2017, arXiv:1708.06519; of a convolution the l2 norm of the
kernel); and `random`, the control. Nothing is trained afterwards, so this is no defense: it says whether the backdoor
lives in channels that clean images do not need.
"""

import copy

import numpy as np
import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from deconfound.components import activation_change
from deconfound.defenses.batch_norms import silence
from deconfound.defenses.fine_pruning import last_layer, mean_activation
from deconfound.detectors.layers import activations
from deconfound.errors import UserError
from deconfound.fields import Count, Fraction01, hyperparameters
from deconfound.interpretations.case import Case, Readings, selected
from deconfound.interpretations.layers import BATCH, victims_of
from deconfound.models.classifier import Classifier, predict, to_unit

LAYER = "last_conv"  # what readings call the layer
WHOLE = "unpruned"
ALIVE = 0.2  # success rate below which nobody asks when it halves


@hyperparameters
class PruneCurve:
    """shares: of the channels of the layer that are silenced, each a point of the curves. examples: test images, at
    most. The layer is that of `fine_pruning`: the last batch norm with positions, else the last convolution, else the
    last layer without positions; where a residual connection goes around it, a silenced channel still carries that.

    Per test image, in the condition ORDER_PERCENT (`change_30`) and `unpruned`: `clean`, 1 where the network is right;
    `asr`, 1 where it gives the stamped image the label that the attacker hopes for, NaN for images that are no victims.
    Per run and order: `half_asr_share`, the first share at which the attack succeeds at most half as often as before,
    and `half_asr_clean`, the accuracy there; both only where it succeeds on a fifth of the victims to begin with.
    Expected of a backdoored network: `change` lowers the attack's success well before the accuracy; the other orders
    take both together in a small network, whose channels are all busy.
    """

    shares: tuple[Fraction01, ...] = Field(default=(0.1, 0.2, 0.3, 0.5, 0.7), min_length=1)
    examples: Count = 300

    def __call__(self, case: Case) -> Readings:
        """See the class. Pictures: `curve_ORDER` (S + 1, 3), share, accuracy and success rate (NaN without a trigger),
        from the whole network on; `order_ORDER` (C,), channels in the order of their silencing.
        """
        case, found = case.first(self.examples), Readings()
        try:
            name = last_layer(case.model)
        except UserError as error:
            found.notes.append(f"Nothing to prune: {str(error).removeprefix('fine_pruning: ')}.")
            return found
        whole = self._look(case, case.model, found, WHOLE)
        if whole[1] < ALIVE:  # not so where there is none
            found.notes.append(
                f"The attack succeeds on {whole[1]:.0%} of its victims: it is not asked when that halves."
            )
        for order, channels in self._orders(case, name, found).items():
            points = [(0.0, *whole)]
            for share in sorted(set(self.shares)):
                model = copy.deepcopy(case.model)
                count = round(share * len(channels))
                silence(model.get_submodule(name), channels[:count].to(case.device))
                points.append((share, *self._look(case, model, found, f"{order}_{_percent(share)}")))
            found.pictures[f"curve_{order}"] = np.asarray(points, np.float32)
            found.pictures[f"order_{order}"] = channels.numpy()
            _halving(found, order, points)
        return found

    def _orders(self, case: Case, name: str, found: Readings) -> dict[str, Tensor]:
        """Channels (C,), in each of the orders."""
        weight = case.model.get_submodule(name).weight
        assert isinstance(weight, Tensor)
        sizes = weight.detach().flatten(1).norm(dim=1) if weight.dim() > 1 else weight.detach().abs()
        orders = {
            "weight": sizes.cpu().argsort(stable=True),
            "random": torch.randperm(len(weight), generator=case.rng("prune_curve")),
        }
        if case.val is None or not len(case.val.y):
            found.notes.append("The order of fine-pruning is left out: there are no held-out images.")
        else:
            orders["activation"] = mean_activation(case.model, name, case.val).argsort(stable=True)
        victims = victims_of(case)
        if victims is None or case.truth.stamped is None or not bool(victims.any()):
            found.notes.append(
                "Success of the attack, and the order that knows the trigger, are left out: the run has no trigger, or"
                " it has no victims."
            )
        else:
            change = changes(case.model, name, case.test.x[victims], case.truth.stamped[victims])
            orders["change"] = change.argsort(descending=True, stable=True)
        return orders

    def _look(self, case: Case, model: Classifier, found: Readings, condition: str) -> tuple[float, float]:
        """Accuracy and success rate; add them image by image."""
        right = (predict(model, case.test.x).argmax(1) == case.test.y.cpu()).double()
        found.add(LAYER, condition, "clean", right)
        victims = victims_of(case)
        if (
            victims is None
            or case.truth.stamped is None
            or case.truth.hoped is None
            or not bool(victims.any())
        ):
            return float(right.mean()), float("nan")
        given = predict(model, case.truth.stamped[victims]).argmax(1)
        sent = (given == case.truth.hoped.cpu()[victims]).double()
        found.add(LAYER, condition, "asr", selected(sent, victims, len(right)))
        return float(right.mean()), float(sent.mean())


@torch.no_grad()
def changes(model: Classifier, name: str, clean: Tensor, stamped: Tensor) -> Tensor:
    """Trigger activation change (C,) of a layer's channels after a ReLU, on the CPU; images (n, C, H, W) uint8."""
    device, total = next(model.parameters()).device, []
    for pair in zip(torch.split(clean, BATCH), torch.split(stamped, BATCH), strict=True):
        (before,), (after,) = (
            activations(model, (name,), to_unit(part.to(device)), read=F.relu)[0] for part in pair
        )
        total.append(activation_change(before, after).double().cpu() * len(pair[0]))
    return torch.stack(total).sum(0) / len(clean)


def _percent(share: float) -> str:
    """30 for 0.3, 12p5 for 0.125."""
    return f"{100 * share:.4g}".replace(".", "p")


def _halving(found: Readings, order: str, points: list[tuple[float, float, float]]) -> None:
    """Where the success rate first is at most half of what it was, if that was more than nothing."""
    before = points[0][2]
    for share, accuracy, success in points[1:]:
        if before >= ALIVE and success <= before / 2:  # never so where there is no trigger
            found.note(LAYER, order, "half_asr_share", share)
            found.note(LAYER, order, "half_asr_clean", accuracy)
            return
