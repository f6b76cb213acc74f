"""Every architecture of timm, with a stem that does not throw small images away.

timm's convolutional networks halve the picture two or three times before the first block, which leaves
nothing of 8x8 or 32x32 pixels. Here the first convolution keeps the resolution and the stem's pooling goes.
Transformers take `img_size` and `patch_size` through `options`.
"""

import functools
import re
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from pydantic import Field, field_validator
from torch import Tensor, nn

from deconfound.errors import ConfigError
from deconfound.fields import hyperparameters
from deconfound.models.classifier import Classifier
from deconfound.registry import nearest

SMALL = 64  # pictures up to this side keep their resolution through the stem


@functools.cache
def known_names() -> frozenset[str]:
    """Names of timm's architectures, read from its source: importing timm costs seconds, this a tenth of
    one.
    """
    spec = find_spec("timm")
    folder = Path(spec.origin).parent / "models" if spec and spec.origin else None
    if folder is None or not folder.is_dir():
        return frozenset()
    found: set[str] = set()
    for path in folder.glob("*.py"):
        found.update(
            re.findall(r"^@register_model\s*\n(?:@.*\n)*def (\w+)\(", path.read_text(encoding="utf-8"), re.M)
        )
    return frozenset(found)


@hyperparameters
class TimmModel:
    """name: an architecture of timm, without weights (tags after a dot are refused: nothing is downloaded).

    options: passed to the architecture (drop_path_rate, img_size, patch_size, ...). small_stem: keep the
    resolution of pictures up to 64 pixels; switch off for architectures that are made for small images.
    Transformers keep the patches that their options ask for. bias: whether the last linear layer has one.
    """

    name: str
    small_stem: bool = True
    bias: bool = True
    options: dict[str, Any] = Field(default_factory=dict)

    @field_validator("name")
    @classmethod
    def _known(cls, name: str) -> str:
        names = known_names()
        if names and name not in names:
            raise ValueError(f"expected an architecture of timm, got {name!r}{nearest(name, names)}")
        return name

    def __call__(self, shape: tuple[int, int, int], classes: int) -> Classifier:
        """A freshly initialised network for images of `shape` (C, H, W)."""
        from deconfound.torchvision_operators import ensure

        ensure()
        import timm

        model: Any = timm.create_model(
            self.name, pretrained=False, num_classes=classes, in_chans=shape[0], **self.options
        )
        if self.small_stem and max(shape[1:]) <= SMALL and not hasattr(model, "patch_embed"):
            keep_resolution(model)
        head = model.get_classifier()
        if not isinstance(head, nn.Linear):
            found = type(head).__name__
            raise ConfigError(f"models: {self.name} has no single linear layer at its end (found {found})")
        if not self.bias:
            head.register_parameter("bias", None)
        return Classifier(_Body(model), head, channels=shape[0])


class _Body(nn.Module):
    """The part of a timm model before its last linear layer."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        model.reset_classifier(0)
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        z: Tensor = self.model.forward_head(self.model.forward_features(x), pre_logits=True)
        return z


def keep_resolution(model: nn.Module) -> None:
    """Stride 1 in the first convolution (with at most a 3x3 kernel), and no pooling in the stem."""
    name, first = next((n, m) for n, m in model.named_modules() if isinstance(m, nn.Conv2d))
    size = min(3, first.kernel_size[0])
    if first.stride != (1, 1):
        if first.kernel_size[0] > size:
            parent = model.get_submodule(name.rpartition(".")[0])
            new = nn.Conv2d(
                first.in_channels, first.out_channels, size, padding=size // 2, bias=first.bias is not None
            )
            setattr(parent, name.rpartition(".")[2], new)
        else:
            first.stride = (1, 1)
    if isinstance(getattr(model, "maxpool", None), nn.Module):
        model.maxpool = nn.Identity()
