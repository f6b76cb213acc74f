"""Influence poisoning: move k training images a little, so that a head trained again errs on one chosen image.

Koh & Liang, "Understanding Black-box Predictions via Influence Functions", ICML 2017, arXiv:1703.04730: the gradient by
the pixels of a training image z of its influence on the loss of a target,

    I(z, target) = -grad_w L(target)^T H^-1 grad_x grad_w L(z),

is followed by signed, projected steps, and the head is fitted again after each. Only the head is: the body is frozen,
the problem convex, and H exact. Influence through a whole network is not to be relied on.

The head is a softmax regression with a bias on the representations; what it minimises is the mean cross-entropy plus
l2 / 2 times all its squared weights, the bias included. Images move within a linf ball and are delivered as bytes,
where the paper keeps them within the rounding of 8 bits. The change of the target's loss is predicted to first order
in 1 / N, not in the pixels: the gradients of the delivered images less those of the untouched ones, through the inverse
Hessian of the untouched head.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Generator, Tensor
from torch.nn import functional as F

from deconfound.attacks.ascent import Steepest, climb
from deconfound.attacks.scores import cross_entropy
from deconfound.detectors.influence import Gradients, hessian
from deconfound.detectors.scoring import representations
from deconfound.errors import UserError
from deconfound.models.classifier import Classifier, eval_mode, to_unit
from deconfound.threat import ThreatModel
from deconfound.types import Images

BATCH = 256  # images whose gradients are taken at a time
NEWTON = 50  # steps, at most
HALVINGS = 30  # of a step of Newton's method that would not lower the loss
FLAT = 1e-10  # largest slope at which the head counts as fitted


@dataclass(frozen=True)
class Head:
    """A fitted softmax regression. h (n, D + 1): representations it was fitted on, with a 1 at the end; y (n,) labels;
    weight (K, D + 1); l2: of all weights. All float64 on the CPU.
    """

    h: Tensor
    y: Tensor
    weight: Tensor
    l2: float

    def logits(self, h: Tensor) -> Tensor:
        """(m, K) of representations (m, D + 1)."""
        return h @ self.weight.T

    def losses(self, h: Tensor, y: Tensor) -> Tensor:
        """Cross-entropy (m,) of representations (m, D + 1) with labels (m,), without the penalty."""
        return cross_entropy(self.logits(h), y)

    def gradients(self, h: Tensor, y: Tensor) -> Tensor:
        """Of these losses by the weights, (m, K, D + 1)."""
        errors = self.logits(h).softmax(1) - F.one_hot(y, len(self.weight))
        return Gradients(errors, h).flat().view(len(h), *self.weight.shape)

    def curvature(self) -> Tensor:
        """The exact Hessian of what it minimises, (K (D + 1), K (D + 1))."""
        return hessian(self.logits(self.h).softmax(1), self.h, damping=self.l2)

    def toward(self, h: Tensor, y: Tensor) -> Tensor:
        """H^-1 times the gradient of the loss of one example, h (1, D + 1) and y (1,): (K, D + 1)."""
        slope = self.gradients(h, y).flatten()
        solved: Tensor = torch.linalg.solve(self.curvature(), slope)
        return solved.view_as(self.weight)


class Outcome(NamedTuple):
    """What came of it. rows (k,): places of the images that moved; x (k, C, H, W) uint8: what they became.

    before, after: label that the head gives the target, fitted on the untouched and on the poisoned images. flipped: it
    was right and is no longer. loss: of the target under the untouched head, nats; predicted, actual: its change;
    noise: its change where the same images get random signs of the same size instead.
    """

    rows: Tensor
    x: Tensor
    before: int
    after: int
    flipped: bool
    loss: float
    predicted: float
    actual: float
    noise: float


def with_bias(h: Tensor) -> Tensor:
    """Representations (n, D) with a 1 at the end, (n, D + 1)."""
    return torch.cat([h, h.new_ones(len(h), 1)], 1)


def fit_head(h: Tensor, y: Tensor, classes: int, *, l2: float, start: Tensor | None = None) -> Head:
    """The head of representations h (n, D + 1) float64 and labels y (n,) by Newton's method; start: weights (K, D + 1)
    near the answer.
    """
    if not l2 > 0:
        raise UserError(f"l2: expected a positive penalty, or else the head has no single answer, got {l2:g}")
    weight = h.new_zeros(classes, h.shape[1]) if start is None else start
    head = Head(h, y, weight, l2)
    value = _objective(head)
    for _ in range(NEWTON):
        slope = head.gradients(h, y).mean(0) + l2 * head.weight
        if float(slope.abs().max()) < FLAT:
            break
        step = torch.linalg.solve(head.curvature(), slope.flatten()).view_as(slope)
        for halving in range(HALVINGS):
            further = Head(h, y, head.weight - step / 2**halving, l2)
            if (lower := _objective(further)) < value:
                head, value = further, lower
                break
        else:
            break  # as low as float64 can tell
    return head


def _objective(head: Head) -> float:
    return float(head.losses(head.h, head.y).mean() + head.l2 / 2 * head.weight.square().sum())


def frozen_head(model: Classifier, train: Images, *, l2: float) -> Head:
    """The head of the training images on the representations that the model gives them."""
    h = with_bias(representations(model, train.x))
    return fit_head(h, train.y.cpu(), model.head.out_features, l2=l2)


def predicted_change(head: Head, solved: Tensor, rows: Tensor, h: Tensor) -> float:
    """Change of the target's loss, to first order in 1 / n, when the images at rows (k,) become representations h
    (k, D + 1); solved (K, D + 1): `head.toward` the target.
    """
    y = head.y[rows]
    moved = head.gradients(h, y) - head.gradients(head.h[rows], y)
    return float(-(moved * solved).sum() / len(head.h))


def pull(head: Head, solved: Tensor, h: Tensor, y: Tensor) -> Tensor:
    """Change (m,) of the target's loss when examples h (m, D + 1), y (m,) are added with a weight of 1 / n; that times
    n, differentiable by h.
    """
    errors = head.logits(h).softmax(1) - F.one_hot(y, len(head.weight))
    return -((errors @ solved) * h).sum(1)


def influence_by_pixels(
    head: Head, solved: Tensor, embed: Callable[[Tensor], Tensor], x: Tensor, y: Tensor
) -> Tensor:
    """I (m, C, H, W) of training images x like it, in [0, 1]: the gradient by their pixels of `pull`. embed: from
    images to representations (m, D).
    """
    z = x.detach().requires_grad_(True)
    with torch.enable_grad():
        total = pull(head, solved, _extended(embed(z)), y).sum()
        (found,) = torch.autograd.grad(total, z)
    return found


def _extended(h: Tensor) -> Tensor:
    return with_bias(h.double().cpu())


def most_influential(
    head: Head, solved: Tensor, embed: Callable[[Tensor], Tensor], train: Images, k: int, device: torch.device
) -> Tensor:
    """Places (k,), ascending, of the images whose influence by pixels is largest in the sum of absolute values: a step
    of sign gains that much.
    """
    sizes = []
    for x, y in zip(train.x.split(BATCH), train.y.split(BATCH), strict=True):  # type: ignore[no-untyped-call]
        slope = influence_by_pixels(head, solved, embed, to_unit(x.to(device)), y.cpu())
        sizes.append(slope.flatten(1).abs().sum(1).cpu())
    order = torch.cat(sizes).argsort(descending=True, stable=True)
    return order[:k].sort().values


def poison_by_influence(
    model: Classifier,
    train: Images,
    x_target: Tensor,
    y_target: int,
    *,
    k: int,
    eps: float,
    steps: int,
    l2: float = 1e-2,
    rng: Generator,
    head: Head | None = None,
) -> Outcome:
    """Move the k most influential images so that the head trained again loses the target, x_target (C, H, W) uint8 with
    its true label. eps: linf radius, pixel units; each of the steps is 2.5 eps / steps long. head: that of the
    untouched images (`frozen_head`), if it is known already, whose l2 then counts. rng: of the control alone.
    """
    if not 1 <= k <= len(train.y):
        raise UserError(f"k: expected from 1 to {len(train.y)} training images, got {k}")
    clean = frozen_head(model, train, l2=l2) if head is None else head
    device = next(model.parameters()).device
    goal = torch.tensor([y_target])
    threat = ThreatModel(eps=eps)
    with eval_mode(model):
        h_target = _extended(representations(model, x_target[None]))
        solved = clean.toward(h_target, goal)
        rows = most_influential(clean, solved, model.features, train, k, device)
        x, y = to_unit(train.x[rows].to(device)), train.y[rows].cpu()
        latest = clean

        def look(z: Tensor, places: Tensor) -> tuple[Tensor, None]:
            """The influence of the iterates, as it is for a head fitted on them."""
            nonlocal latest
            h = _extended(model.features(z))
            latest = refitted(clean, rows, h.detach(), start=latest.weight)
            return pull(latest, latest.toward(h_target, goal), h, y), None

        z = climb(look, x, x, Steepest(threat, 2.5 * eps / steps), steps=steps)
        moved = delivered(x, z, eps)
        signs = (torch.randint(0, 2, x.shape, generator=rng) * 2 - 1).to(x)
        noisy = delivered(x, (x + eps * signs).clamp(0, 1), eps)
        after, control = (
            refitted(clean, rows, with_bias(representations(model, images)), start=clean.weight)
            for images in (moved, noisy)
        )
    loss, new, random = (float(one.losses(h_target, goal)) for one in (clean, after, control))
    first, last = (int(one.logits(h_target).argmax()) for one in (clean, after))
    return Outcome(
        rows=rows,
        x=moved,
        before=first,
        after=last,
        flipped=first == y_target != last,
        loss=loss,
        predicted=predicted_change(clean, solved, rows, after.h[rows]),
        actual=new - loss,
        noise=random - loss,
    )


def refitted(head: Head, rows: Tensor, h: Tensor, *, start: Tensor) -> Head:
    """The head once the images at rows (k,) have representations h (k, D + 1)."""
    return fit_head(head.h.index_copy(0, rows, h), head.y, len(head.weight), l2=head.l2, start=start)


def delivered(x: Tensor, z: Tensor, eps: float) -> Tensor:
    """Images z within eps of x, both (k, C, H, W) in [0, 1], as bytes on the CPU that are still within eps of x."""
    before, room = (x * 255).round(), int(eps * 255 + 1e-6)
    levels = (z * 255).round()
    return (
        torch.maximum(torch.minimum(levels, before + room), before - room).clamp(0, 255).to(torch.uint8).cpu()
    )
