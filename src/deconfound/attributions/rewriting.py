"""Which networks a method that rewrites the backward pass of modules may be used on.

Such a method sees modules alone. A ReLU that is called as a function, or any other step outside a module, is passed
over without a word, and the map is silently another one. So the forward pass is watched on one image, and a network
that does anything a method does not know is refused, with the name of the layer.
"""

import copy
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from deconfound.errors import UserError
from deconfound.models.classifier import Classifier, eval_mode

SHAPES = frozenset(
    {
        *(
            "view",
            "reshape",
            "flatten",
            "unflatten",
            "permute",
            "transpose",
            "squeeze",
            "unsqueeze",
            "expand",
        ),
        *("expand_as", "contiguous", "clone", "to", "float", "type_as", "__getitem__"),
        *("__get__", "size", "dim", "numel", "is_contiguous"),
    }
)
SUMS = frozenset({"add", "add_", "sub", "sub_", "__radd__", "__rsub__", "neg", "cat", "stack", "sum", "mean"})
SCALES = frozenset({"mul", "mul_", "__rmul__", "div", "div_", "matmul", "linear", "conv2d", "batch_norm"})
POOLS = frozenset({"avg_pool2d", "adaptive_avg_pool2d", "pad"})
LINEAR = SHAPES | SUMS | SCALES | POOLS
"""Names of functions that are linear in one argument, or in several (sums); of products, see `_Seen.fault`."""

LAYERS = frozenset(
    {
        *(
            nn.Conv1d,
            nn.Conv2d,
            nn.Linear,
            nn.BatchNorm1d,
            nn.BatchNorm2d,
            nn.AvgPool2d,
            nn.AdaptiveAvgPool2d,
        ),
        *(nn.Flatten, nn.Identity, nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.ZeroPad2d, nn.Upsample),
    }
)
"""Modules that are linear in evaluation mode, up to a constant."""


@dataclass(frozen=True)
class Known:
    """What a method can deal with. modules: types of layers that it sees; once: those of which a layer may be called
    once only; functions: names of what may happen outside them; at the root: in the normalisation of a Classifier.
    alone: types that must be the only layer that takes its input.
    """

    method: str
    modules: frozenset[type[nn.Module]]
    once: frozenset[type[nn.Module]]
    functions: frozenset[str]
    root: frozenset[str] = frozenset()
    alone: frozenset[type[nn.Module]] = frozenset()


@dataclass(frozen=True)
class _Seen:
    """A function of images, called in the forward pass of the module `owner`; inputs: how many of its arguments come
    from the image; divides: by such an argument.
    """

    owner: str
    function: str
    inputs: int
    divides: bool

    def fault(self, known: Known) -> str | None:
        allowed = known.functions | (known.root if not self.owner else frozenset())
        place = f"layer {self.owner}" if self.owner else "the model itself"
        if self.function not in allowed:
            two = " of two results of layers" if self.inputs > 1 else ""
            return f"{place} computes `{self.function}`{two} outside a module, where the method cannot follow"
        if self.function in SCALES and (self.inputs > 1 or self.divides):
            return f"{place} multiplies or divides two results of layers (`{self.function}`)"
        return None


@dataclass
class _Watch:
    """What happened in one forward pass. takers: layers with a result that they took, which is kept alive."""

    functions: list[_Seen] = field(default_factory=list)
    calls: Counter[str] = field(default_factory=Counter)
    takers: list[tuple[str, Tensor]] = field(default_factory=list)

    def shared(self) -> Iterator[tuple[str, str]]:
        """Two layers that take the same result."""
        for place, (name, taken) in enumerate(self.takers):
            others = [
                one for one, result in self.takers[:place] + self.takers[place + 1 :] if result is taken
            ]
            yield from ((name, other) for other in others if other != name)


def rewritable(model: Classifier, probe: Tensor, known: Known) -> Classifier:
    """A copy of the model for a method to work on, with activations that do not write into their input; probe: an image
    (1, C, H, W). UserError, naming the layer, if the method would miss something.
    """
    twin = copy.deepcopy(model)
    for module in twin.modules():
        if hasattr(module, "inplace"):
            module.inplace = False  # type: ignore[assignment]
    refuse(twin, probe, known)
    return twin


def refuse(model: nn.Module, probe: Tensor, known: Known) -> None:
    """UserError, naming the layer, if the forward pass of an image (1, C, H, W) holds what the method does not know."""
    watch = _watched(model, probe, known.modules)
    faults = []
    for name, times in watch.calls.items():
        kind = type(model.get_submodule(name))
        if kind not in known.modules:
            faults.append(f"layer {name} is a {kind.__name__}, for which the method has no rule")
        elif times > 1 and kind in known.once:
            faults.append(
                f"layer {name} ({kind.__name__}) is called {times} times; each call needs its own module"
            )
    faults += [fault for seen in watch.functions if (fault := seen.fault(known))]
    faults += [
        f"layer {name} ({type(model.get_submodule(name)).__name__}) takes a result that layer {other} takes too"
        for name, other in watch.shared()
        if type(model.get_submodule(name)) in known.alone
    ]
    if faults:
        more = f" (and {len(faults) - 1} more places)" if len(faults) > 1 else ""
        raise UserError(f"{known.method}: {faults[0]}{more}; use another network or another method")


def _watched(model: nn.Module, probe: Tensor, modules: frozenset[type[nn.Module]]) -> _Watch:
    """Calls of torch's own layers and of those of the types `modules`, and functions called outside them."""
    watch, stack = _Watch(), list[tuple[str, bool]]()

    class Mode(TorchFunctionMode):
        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            name = getattr(func, "__name__", str(func))
            if stack and not stack[-1][1] and (inputs := _inputs(args, kwargs)):
                divides = "div" in name and any(one is value for one in inputs for value in args[1:])
                watch.functions.append(_Seen(stack[-1][0], name, len(inputs), divides))
            return func(*args, **(kwargs or {}))

    with eval_mode(model), torch.enable_grad(), _stacked(model, stack, watch, modules), Mode():
        model(probe.detach().clone().requires_grad_(True))
    return watch


def _inputs(args: Any, kwargs: Any) -> list[Tensor]:
    """Arguments that depend on the image: of a frozen model, those that have a gradient."""
    found: list[Tensor] = []
    for value in [*args, *(kwargs or {}).values()]:
        if isinstance(value, list | tuple):
            found += _inputs(value, None)
        elif isinstance(value, Tensor) and value.requires_grad:
            found.append(value)
    return found


@contextmanager
def _stacked(
    model: nn.Module, stack: list[tuple[str, bool]], watch: _Watch, modules: frozenset[type[nn.Module]]
) -> Iterator[None]:
    """Inside, `stack` holds the modules whose forward pass is running, and whether they are judged by their type."""
    handles = []
    for name, module in model.named_modules():
        native = type(module).__module__.startswith("torch.nn.")
        container = isinstance(module, nn.Sequential | nn.ModuleList | nn.ModuleDict)
        judged = type(module) in modules or (native and not container)

        def enter(_: object, taken: tuple[Any, ...], name: str = name, judged: bool = judged) -> None:
            inside = bool(stack) and stack[-1][1]
            if judged and not inside:
                watch.calls[name] += 1
                watch.takers += [(name, one) for one in taken if isinstance(one, Tensor)]
            stack.append((name, judged or inside))

        def leave(_: object, taken: tuple[Any, ...], result: Any) -> Any:
            if any(result is one for one in taken):  # handed on as it is: a result of its own, for `shared`
                result = result.view_as(result)
            stack.pop()
            return result

        handles += [module.register_forward_pre_hook(enter), module.register_forward_hook(leave)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
