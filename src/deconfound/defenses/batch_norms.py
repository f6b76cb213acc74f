"""Units of a network: the channels of its batch norms, which some repairs perturb, judge or silence."""

import torch
from torch import Generator, Tensor, nn
from torch.optim.swa_utils import update_bn

from deconfound.models.classifier import Classifier, eval_mode, to_unit
from deconfound.optimisers import batches
from deconfound.rng import global_seed
from deconfound.types import Images

Norm = nn.BatchNorm1d | nn.BatchNorm2d


def batch_norms(model: nn.Module) -> dict[str, Norm]:
    """Batch norms with a scale and a shift, by name, in the order of their definition."""
    return {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d) and module.affine
    }


@torch.no_grad()
def silence(layer: nn.Module, channels: Tensor, *, shift: bool = True) -> None:
    """Set the scale of channels (M,) of a layer to zero, or their weights if it is a convolution; and the shift."""
    assert isinstance(layer.weight, Tensor)
    layer.weight[channels] = 0
    if shift and isinstance(layer.bias, Tensor):
        layer.bias[channels] = 0


def feeders(model: nn.Module, probe: Tensor) -> dict[str, str]:
    """Name of a batch norm -> name of the convolution or linear layer whose output it reads, as seen on a probe.

    probe: images (N, C, H, W), of which only the shape matters. Batch norms that read anything else are left out.
    """
    found: dict[str, str] = {}
    last: list[tuple[str, Tensor]] = []

    def remember(name: str, output: Tensor) -> None:
        last[:] = [(name, output)]

    def compare(name: str, read: Tensor) -> None:
        if last and last[0][1] is read:
            found[name] = last[0][0]

    handles = []
    for name, module in model.named_modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            handles.append(module.register_forward_hook(lambda _, __, out, name=name: remember(name, out)))
        elif isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            handles.append(
                module.register_forward_pre_hook(lambda _, read, name=name: compare(name, read[0]))
            )
    try:
        with eval_mode(model), torch.no_grad():
            model(probe)
    finally:
        for handle in handles:
            handle.remove()
    return found


def renew_statistics(model: Classifier, images: Images, *, batch_size: int, rng: Generator) -> None:
    """Estimate the statistics of all batch norms again, on images (N, C, H, W) uint8: a mean over batches."""
    device = next(model.parameters()).device
    with global_seed(rng):  # for dropout, which is on meanwhile
        update_bn((to_unit(images.x[part].to(device)) for part in batches(len(images.y), batch_size)), model)
