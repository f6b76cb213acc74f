"""The same network, cheaper to evaluate: for attacks, which call a frozen model thousands of times."""

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval, fuse_linear_bn_eval

from deconfound.errors import ModelRaisedError, UserError
from deconfound.models.classifier import eval_mode

ROUNDING = 1e-3  # of the largest logit: beyond it the folded network is another one


def folded(model: nn.Module, probe: Tensor) -> nn.Module:
    """A frozen copy in evaluation mode whose batch norms are part of the convolutions and linear layers before them,
    and which pools faster on a CPU.

    Which batch norm follows which layer is seen on `probe`, a few images (N, C, H, W); the copy must give the same
    logits for them. Otherwise (a model that draws, layers used twice, outputs used elsewhere) the model itself is
    returned.
    """
    with eval_mode(model), torch.no_grad():
        try:
            light = copy.deepcopy(model).requires_grad_(False)
            pairs = _pairs(light, probe)
            for first, second in pairs:
                _fold(light, first, second)
            pools = [name for name, module in light.named_modules() if isinstance(module, nn.MaxPool2d)]
            for name in pools:
                _put(light, name, Pooling(light.get_submodule(name)))
            expected, found = model(probe), light(probe)
        except (
            RuntimeError,
            ValueError,
            TypeError,
            AttributeError,
            KeyError,
            IndexError,
        ):  # a model of another make
            return model
        same = isinstance(found, Tensor) and found.shape == expected.shape and bool(expected.isfinite().all())
        if not (pairs or pools) or not same:
            return model
        largest = float(expected.abs().max()) if expected.numel() else 0.0
        return light if bool(((found - expected).abs() <= ROUNDING * (largest + 1e-6)).all()) else model


def _pairs(model: nn.Module, probe: Tensor) -> list[tuple[str, str]]:
    """Names of layers and of the batch norms that read their outputs, of those that are called once."""
    made: dict[int, str] = {}
    calls: dict[str, int] = {}
    found: list[tuple[str, str]] = []
    alive: list[Tensor] = []  # so that no two outputs share an identity

    def hook(name: str, module: nn.Module) -> None:
        def record(_: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            calls[name] = calls.get(name, 0) + 1
            alive.extend([inputs[0], output])
            if isinstance(module, nn.Conv2d | nn.Linear):
                made[id(output)] = name
            elif id(inputs[0]) in made:
                found.append((made[id(inputs[0])], name))

        handles.append(module.register_forward_hook(record))

    handles: list[torch.utils.hooks.RemovableHandle] = []
    for name, module in model.named_modules():
        if isinstance(module, nn.Conv2d | nn.Linear | nn.BatchNorm2d | nn.BatchNorm1d):
            hook(name, module)
    model(probe)
    for handle in handles:
        handle.remove()
    return [pair for pair in found if all(calls[name] == 1 for name in pair)]


def _fold(model: nn.Module, first: str, second: str) -> None:
    """Replace a layer by its fusion with a batch norm, and the batch norm by what it does besides (timm's activate)."""
    layer, norm = model.get_submodule(first), model.get_submodule(second)
    assert isinstance(norm, nn.BatchNorm1d | nn.BatchNorm2d)
    if norm.running_mean is None or norm.training:
        raise ValueError("a batch norm that looks at the batch")
    if isinstance(layer, nn.Conv2d):
        _put(model, first, fuse_conv_bn_eval(layer, norm))
    elif isinstance(layer, nn.Linear):
        _put(model, first, fuse_linear_bn_eval(layer, norm))
    rest = [part for part in (getattr(norm, "drop", None), getattr(norm, "act", None)) if part is not None]
    _put(model, second, nn.Sequential(*rest))


def _put(model: nn.Module, name: str, module: nn.Module) -> None:
    parent, _, last = name.rpartition(".")
    setattr(model.get_submodule(parent), last, module)


class Pooling(nn.Module):
    """Max-pooling in the memory order in which a CPU does it several times as fast; values and gradients stay."""

    def __init__(self, pool: nn.Module) -> None:
        super().__init__()
        self.pool = pool

    def forward(self, x: Tensor) -> Tensor:
        """Like the pool, in the memory order of x."""
        if x.device.type != "cpu" or x.is_contiguous(memory_format=torch.channels_last):
            pooled: Tensor = self.pool(x)
            return pooled
        pooled = self.pool(x.contiguous(memory_format=torch.channels_last))
        return pooled.contiguous()


class Guarded(nn.Module):
    """A model that counts the images it has seen forward, and those whose gradient was taken; whatever it raises is a
    ModelRaisedError, but for want of memory.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.forward_passes = 0
        self.backward_passes = 0

    def forward(self, x: Tensor) -> Tensor:
        """What the model returns."""
        logits: Tensor = self._run(self.model, x)
        return self._counted(x, logits)

    def both(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Features and logits of a classifier, from one pass."""
        model: Any = self.model
        features, logits = self._run(model.both, x)
        return features, self._counted(x, logits)

    @staticmethod
    def _run(call: Callable[[Tensor], Any], x: Tensor) -> Any:
        try:
            return call(x)
        except (MemoryError, torch.OutOfMemoryError, UserError):
            raise
        except Exception as error:
            raise ModelRaisedError(f"model: expected logits, got {type(error).__name__}: {error}") from error

    def _counted(self, x: Tensor, logits: Tensor) -> Tensor:
        self.forward_passes += len(x)
        if isinstance(logits, Tensor) and logits.requires_grad:
            logits.register_hook(self._backward)  # type: ignore[no-untyped-call]
        return logits

    def _backward(self, gradient: Tensor) -> None:
        self.backward_passes += len(gradient)
