"""CLP: silence the channels that could magnify a small change of their input far more than their neighbours.

Zheng, Tang, Li and Liu, "Data-free Backdoor Removal based on Channel Lipschitzness", ECCV 2022, arXiv:2208.03111. The
bound of a channel is the largest singular value of its kernel, as a matrix of input channels by positions, times the
factor of the batch norm after it. Unlike the released code: which batch norm follows which convolution is seen in a
forward pass, not in the order of definition, and the variance has its epsilon, as in the network itself. A layer of n
channels has none further than (n - 1) / sqrt(n) standard deviations above its mean, so that u = 3 prunes nothing in
layers of fewer than 11.
"""

from typing import ClassVar

import torch
from torch import Tensor, nn

from deconfound.defenses.batch_norms import Norm, feeders, silence
from deconfound.defenses.repair import suspect
from deconfound.defenses.workbench import GRADIENT, Adaptive, Defended, Workbench
from deconfound.fields import NonNegative, hyperparameters


@hyperparameters
class CLP:
    """u: a channel is silenced if its bound lies more than u standard deviations above the mean of its layer; 3 in
    BackdoorBench. linear: linear layers before a batch norm too (their bound is the norm of a row), which is ours. No
    image is used.
    """

    needs: ClassVar[tuple[str, ...]] = ("starts_from",)
    adaptive: ClassVar[Adaptive] = Adaptive(
        "it looks for single channels that a faint trigger excites: a trigger that is large or spread over the picture"
        " needs none that stands out; and the result is a network without further parts",
        attacks=GRADIENT,
        poisons=("blend", "wanet", "adap_blend", "badnets"),
    )

    u: NonNegative = 3.0
    linear: bool = False

    def __call__(self, bench: Workbench) -> Defended:
        """Silence channels of a copy of the network."""
        model = suspect(bench)
        device = next(model.parameters()).device
        probe = torch.zeros(2, *bench.data.x.shape[1:], device=device)
        units = pruned = 0
        for name, before in feeders(model, probe).items():
            norm, layer = model.get_submodule(name), model.get_submodule(before)
            assert isinstance(norm, Norm) and isinstance(layer, nn.Conv2d | nn.Linear)
            if (
                not norm.affine
                or norm.running_var is None
                or (isinstance(layer, nn.Linear) and not self.linear)
            ):
                continue
            chosen = outliers(lipschitz(layer, norm), self.u)
            silence(norm, chosen)
            units, pruned = units + norm.num_features, pruned + len(chosen)
        return Defended(model, notes={"clean_images": 0, "units": units, "units_pruned": pruned})


@torch.no_grad()
def lipschitz(layer: nn.Conv2d | nn.Linear, norm: Norm) -> Tensor:
    """Bound (C,) per output channel: sigma_max of its weights (inputs x positions) times |scale| / sqrt(variance)."""
    assert norm.running_var is not None
    kernels = layer.weight.flatten(2) if layer.weight.dim() > 2 else layer.weight.unsqueeze(2)
    factor = norm.weight.abs() / (norm.running_var + norm.eps).sqrt()
    sigma: Tensor = torch.linalg.matrix_norm(kernels, ord=2)
    return sigma * factor


def outliers(bounds: Tensor, u: float) -> Tensor:
    """Places (M,) of bounds (C,) above their mean by more than u standard deviations (of a sample)."""
    if len(bounds) < 2:
        return torch.zeros(0, dtype=torch.long, device=bounds.device)
    return (bounds > bounds.mean() + u * bounds.std()).nonzero().squeeze(1)
