"""Grad-CAM: the maps of a late layer, each weighted by the mean gradient of the scalar by it.

Selvaraju et al., "Grad-CAM: Visual Explanations from Deep Networks via Gradient-based Localization", ICCV 2017,
arXiv:1610.02391. Enlarged to the image with bilinear interpolation; before that it has the resolution of its layer, and
cannot localise anything smaller than one of its cells.
"""

from collections import Counter

import torch
from torch import Generator, Tensor, nn

from deconfound.attributions.asking import Scalar, ScalarName, check, explained
from deconfound.errors import UserError
from deconfound.fields import Count, hyperparameters
from deconfound.models.classifier import Classifier, eval_mode
from deconfound.registry import nearest


@hyperparameters
class GradCAM:
    """layer: name of the module whose output (n, c, h, w) is read, as `body.4`; by default the last one that is larger
    than 1 x 1, comes before any pooling after it, and is called once. positive: keep only what speaks for the scalar,
    as the paper does. scalar, chunk: see `asking.Attribution`.
    """

    layer: str | None = None
    positive: bool = True
    scalar: ScalarName = "logit"
    chunk: Count = 64

    def __call__(self, model: Classifier, x: Tensor, target: Tensor, *, rng: Generator) -> Tensor:
        """Maps (N, 1, H, W); rng is not used."""
        from captum.attr import LayerAttribution, LayerGradCam

        check(x, target)
        if not len(x):
            return x.new_zeros(0, 1, *x.shape[2:], dtype=torch.float32)
        layer = model.get_submodule(read_layer(model, x[:1], self.layer))

        def part(asked: Scalar, z: Tensor, weights: Tensor) -> Tensor:
            maps = LayerGradCam(asked, layer).attribute(
                z, additional_forward_args=(weights,), relu_attributions=self.positive
            )
            found: Tensor = LayerAttribution.interpolate(maps, tuple(z.shape[2:]), "bilinear")
            return found

        return explained(model, x, target, part, scalar=self.scalar, chunk=self.chunk)


def read_layer(model: nn.Module, probe: Tensor, wanted: str | None = None) -> str:
    """Name of the layer to read, seen on one image (1, C, H, W); UserError where there is none to choose."""
    made, pooled, calls = _outputs(model, probe)
    maps = {name: out for name, out in made.items() if out.dim() == 4 and calls[name] == 1}
    if wanted is not None:
        if wanted not in maps:
            raise UserError(
                f"layer: expected a layer that is called once and puts out maps (N, c, h, w), got {wanted!r}"
                f"{nearest(wanted, maps)}"
            )
        return wanted
    large = [
        name
        for name, out in maps.items()
        if out.shape[2] * out.shape[3] > 1 and not any(out is p for p in pooled)
    ]
    if not large:
        raise UserError("layer: the model has no layer that puts out maps (N, c, h, w) larger than 1 x 1")
    if any("patch_embed" in name for name, _ in model.named_modules()):
        raise UserError(
            "layer: a transformer's features are no maps (N, c, h, w) after its patches are embedded; "
            f"name a layer ({', '.join(large)}) or use another method"
        )
    return large[-1]


def _outputs(model: nn.Module, probe: Tensor) -> tuple[dict[str, Tensor], list[Tensor], Counter[str]]:
    """Outputs of the modules in the order of their last call, those of pooling layers, and counts of calls."""
    made: dict[str, Tensor] = {}
    pooled: list[Tensor] = []
    calls: Counter[str] = Counter()

    def hook(name: str) -> "torch.utils.hooks.RemovableHandle":
        def record(module: nn.Module, _: object, output: object) -> None:
            calls[name] += 1
            made.pop(name, None)
            if isinstance(output, Tensor):
                made[name] = output
                if "Pool" in type(module).__name__:
                    pooled.append(output)

        return model.get_submodule(name).register_forward_hook(record)

    handles = [hook(name) for name, _ in model.named_modules() if name]
    try:
        with eval_mode(model), torch.no_grad():
            model(probe)
    finally:
        for handle in handles:
            handle.remove()
    return made, pooled, calls
