"""What a network says on the way: activations of its blocks, read and changed through forward hooks.

A place is the name of a module. Its unit is a channel (N, C, H, W), a feature (N, D), or a feature of tokens
(N, T, D); the activation of a unit is its mean over positions. Networks that keep their channels last in four
dimensions are not told apart from the others. The network is left as it was: nothing is rewritten, hooks go when the
call ends.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor, nn

from deconfound.models.classifier import Classifier, eval_mode, to_unit

BATCH = 256  # images at a time
BODY = "body"  # the place of the representation, the input of the head
Edit = Callable[[Tensor], Tensor | None]


@contextmanager
def hooked(model: nn.Module, edits: Mapping[str, Edit]) -> Iterator[None]:
    """Inside, every output of a place passes through its edit, which may return another tensor in its stead."""

    def hook(edit: Edit) -> Callable[[nn.Module, object, object], Tensor | None]:
        return lambda module, inputs, output: edit(output) if isinstance(output, Tensor) else None

    with ExitStack() as stack:
        for name, edit in edits.items():
            stack.callback(model.get_submodule(name).register_forward_hook(hook(edit)).remove)
        yield


@torch.no_grad()
def places(model: Classifier, x: Tensor) -> tuple[str, ...]:
    """Where the blocks of a network end, in the order of execution; the last place is `body`. x: a few images.

    The parts of the body (those of a Sequential in it count one by one) form blocks: each part with weights begins
    one, and what follows without weights of its own (activation, pooling) belongs to it while the number of
    dimensions stays. So a convolution is read after its activation, and a residual block as a whole.
    """
    seen: dict[str, int] = {}
    parts = _parts(model)
    with eval_mode(model), hooked(model, {name: _noting(seen, name) for name in parts}):
        model(to_unit(x.to(next(model.parameters()).device)))
    ends: list[str] = []
    rank = 0
    for name, dimensions in seen.items():
        if any(weight.dim() > 1 for weight in model.get_submodule(name).parameters()):
            ends.append(name)
            rank = dimensions
        elif ends and dimensions == rank:
            ends[-1] = name
    return (*ends[:-1], BODY)


def _noting(seen: dict[str, int], name: str) -> Edit:
    def note(h: Tensor) -> None:
        seen.setdefault(name, h.dim())

    return note


def _parts(model: Classifier) -> list[str]:
    """Names of the parts of the body, below wrappers that hold one module only."""
    name, module = BODY, model.body
    while len(inside := list(module.named_children())) == 1:
        name, module = f"{name}.{inside[0][0]}", inside[0][1]
    found = []
    for child, part in module.named_children():
        group = isinstance(part, nn.Sequential | nn.ModuleList)
        inner = [f"{name}.{child}.{step}" for step, _ in part.named_children()] if group else []
        found += inner or [f"{name}.{child}"]
    return found


def units(h: Tensor) -> Tensor:
    """Activations (N, D) of the units: means over the positions."""
    if h.dim() == 2:
        return h
    return h.mean(1) if h.dim() == 3 else h.flatten(2).mean(2)


def positions(h: Tensor) -> int:
    """Over how many positions `units` averages."""
    return h[0].numel() // (h.shape[2] if h.dim() == 3 else h.shape[1])


def spread(values: Tensor, like: Tensor) -> Tensor:
    """Values (N, D) of the units, ready to be multiplied with activations of the shape of `like`."""
    if like.dim() == 3:
        return values[:, None]
    return values.view(*values.shape, *[1] * (like.dim() - 2))


def activations(
    model: Classifier,
    names: Sequence[str],
    x: Tensor,
    read: Callable[[Tensor], Tensor] = units,
) -> tuple[list[Tensor], Tensor]:
    """What `read` makes of each place, in the order of the names, and logits (N, K), of images (N, C, H, W) in [0, 1]
    on the network's device; in evaluation mode, attached to the graph of x.
    """
    found: dict[str, Tensor] = {}

    def reading(name: str) -> Edit:
        def keep(h: Tensor) -> None:
            found[name] = read(h).clone()  # a later layer may work in place

        return keep

    with eval_mode(model), hooked(model, {name: reading(name) for name in names}):
        logits: Tensor = model(x)
    return [found[name] for name in names], logits


@torch.no_grad()
def collected(model: Classifier, names: Sequence[str], x: Tensor) -> list[Tensor]:
    """Activations of the units per place, (N, D) float64 on the CPU, of images (N, C, H, W), uint8 or in [0, 1]."""
    device = next(model.parameters()).device
    parts = [activations(model, names, to_unit(part.to(device)))[0] for part in torch.split(x, BATCH)]
    return [torch.cat(place).double().cpu() for place in zip(*parts, strict=True)]


def edited(model: Classifier, edits: Mapping[str, Edit], x: Tensor) -> Tensor:
    """Logits (N, K) of a network in evaluation mode whose places pass through the edits, earlier ones first."""
    with eval_mode(model), hooked(model, edits):
        logits: Tensor = model(x)
    return logits


def gradients(model: Classifier, name: str, x: Tensor, target: Tensor) -> Tensor:
    """Derivatives (N, D) of the logits of the classes `target` (N,) if a unit of a place grows by the same amount at
    all its positions, detached.
    """
    met: list[Tensor] = []

    def cut(h: Tensor) -> Tensor:
        met.append(h.detach().requires_grad_())
        return met[-1].clone()

    with torch.enable_grad():
        logits = edited(model, {name: cut}, x)
        chosen = logits.gather(1, target.to(logits.device)[:, None]).sum()
        (gradient,) = torch.autograd.grad(chosen, met[-1])
    return units(gradient) * positions(gradient)
