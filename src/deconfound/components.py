"""What single units of a network, and directions among them, stand for: statistics of activations.

Pure functions of activations that somebody collected (`detectors.layers`): units are columns (N, D), or channels of
maps (N, C, H, W). None of them says that a unit is a cause.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

TOP = 0.005  # share of positions at which a unit counts as active (Bau et al.)
DETECTOR = 0.04  # IoU above which a unit counts as a detector of the masked thing (Bau et al.)


def class_means(h: Tensor, y: Tensor, classes: int) -> Tensor:
    """Mean activations (K, D) per class of activations h (N, D) with labels y (N,); 0 for a class that does not
    occur.
    """
    total = h.new_zeros(classes, h.shape[1]).index_add_(0, y, h)
    return total / torch.bincount(y, minlength=classes).clamp_min(1)[:, None]


def selectivity_for(h: Tensor, y: Tensor, classes: int) -> Tensor:
    """(K, D), in [-1, 1]: (m - r) / (|m| + |r|) for every class, where m is a unit's mean over the class and r the
    mean of its means over the other classes that occur; 0 where both are 0, and for a class that does not occur.
    """
    means = class_means(h, y, classes)
    present = (torch.bincount(y, minlength=classes) > 0).to(h)[:, None]
    rest = (means.sum(0) - means) / (present.sum() - 1).clamp_min(1)
    scale = means.abs() + rest.abs()
    return torch.where(scale > 0, (means - rest) / scale.clamp_min(1e-30), 0.0) * present


def selectivity(h: Tensor, y: Tensor, classes: int) -> Tensor:
    """Class selectivity (D,) of units: that for the class with the largest mean; in [0, 1] for activations that are not
    negative, 1 for a unit that answers to one class only, 0 for one that answers to all alike.

    Morcos et al., "On the Importance of Single Directions for Generalization", ICLR 2018, arXiv:1803.06959.
    """
    present = torch.bincount(y, minlength=classes) > 0
    best = class_means(h, y, classes).masked_fill(~present[:, None], -torch.inf).argmax(0)
    return selectivity_for(h, y, classes).gather(0, best[None])[0]


def activation_change(before: Tensor, after: Tensor) -> Tensor:
    """Trigger activation change (C,): the mean over images of the l2 norm of what a unit changes by; maps (N, C, H,
    W), or (N, C), of the same images without and with the trigger.

    Zheng et al., "Data-free Backdoor Removal Based on Channel Lipschitzness", ECCV 2022, arXiv:2208.03111.
    """
    difference = after - before
    return difference.flatten(2).norm(dim=2).mean(0) if difference.dim() > 2 else difference.abs().mean(0)


def sensitivity(before: Tensor, after: Tensor) -> Tensor:
    """Neuron sensitivity (C,): the mean absolute change per position; maps (N, C, H, W), or (N, C), of the same images
    without and with an adversarial perturbation.

    Zhang et al., "Interpreting and Improving Adversarial Robustness of Deep Neural Networks with Neuron Sensitivity",
    IEEE TIP 2021, arXiv:1909.06978.
    """
    difference = (after - before).abs()
    return difference.mean((0, *range(2, difference.dim())))


def overlap(maps: Tensor, masks: Tensor, *, top: float = TOP) -> Tensor:
    """Network dissection: IoU (C,), over the whole data set, of masks (N, H, W) bool with where a channel of maps
    (N, C, h, w) exceeds its quantile 1 - top, enlarged bilinearly to the masks. 0 where nothing exceeds it.

    Bau et al., "Network Dissection: Quantifying Interpretability of Deep Visual Representations", CVPR 2017,
    arXiv:1704.05796, with masks that are known here (a trigger, a pasted object) in place of labelled concepts.
    """
    found = []
    rank = max(1, min(maps[:, 0].numel(), round((1 - top) * maps[:, 0].numel())))
    for channel in maps.unbind(1):
        threshold = channel.flatten().kthvalue(rank).values
        large = F.interpolate(
            channel[:, None], size=masks.shape[1:], mode="bilinear", align_corners=False
        ).squeeze(1)
        active = large > threshold
        found.append((active & masks).sum() / (active | masks).sum().clamp_min(1))
    return torch.stack(found)


def concept_direction(concept: Tensor, others: Tensor) -> Tensor:
    """Concept activation vector (D,) of unit length: from the mean of other activations (m, D) to that of a concept's
    (n, D).
    """
    return F.normalize(concept.mean(0) - others.mean(0), dim=0)
