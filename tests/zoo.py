"""Fake defenses: models that look robust to PGD and are not. Each hides the gradient, or the answer, in its own way."""

import torch
from torch import Tensor, nn


class Wrapped(nn.Module):
    """A trained network behind something that the attacker has to see through."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner


class Quantised(Wrapped):
    """Pixels are rounded to a few levels, whose derivative is zero."""

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.inner((x * 8).round() / 8)
        return logits


class GradientKiller(Wrapped):
    """The graph from logits to pixels is cut."""

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.inner(x.detach())
        return logits


class Shattered(Wrapped):
    """The gradient is replaced by that of another function: right forward, wrong backward."""

    def forward(self, x: Tensor) -> Tensor:
        decoy = self.inner(1 - x)
        logits: Tensor = self.inner(x.detach()) + decoy - decoy.detach()
        return logits


class Noisy(Wrapped):
    """Noise is added to the image, anew at each call."""

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.inner((x + 0.3 * torch.randn_like(x)).clamp(0, 1))
        return logits


class Hot(Wrapped):
    """Logits are multiplied until the softmax saturates and the cross-entropy has no gradient."""

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.inner(x) * 1000
        return logits


class Probabilities(Wrapped):
    """Softmax stands where logits are expected."""

    def forward(self, x: Tensor) -> Tensor:
        p: Tensor = self.inner(x).mul(3).softmax(1)
        return p


class Refusing(Wrapped):
    """An exception is raised for images that look unusual (here: pixels that are no multiples of 1/16)."""

    def forward(self, x: Tensor) -> Tensor:
        if bool(((x * 255).round() / 255 - x).abs().amax() > 1e-4):
            raise ValueError("adversarial input detected")
        logits: Tensor = self.inner(x)
        return logits


class Peeking(Wrapped):
    """The evaluation's labels leaked, in their order: the answer is the label at the image's place in the batch."""

    labels: Tensor

    def __init__(self, inner: nn.Module, labels: Tensor) -> None:
        super().__init__(inner)
        self.register_buffer("labels", labels)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.inner(x)
        places = torch.arange(len(x)) % len(self.labels)
        return logits + 100 * nn.functional.one_hot(self.labels[places], logits.shape[1])


class Batched(Wrapped):
    """Batch norms keep the statistics of the batch they see, in evaluation as in training."""

    def forward(self, x: Tensor) -> Tensor:
        for module in self.inner.modules():
            if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
                module.training = len(x) > 1
        logits: Tensor = self.inner(x)
        return logits


class Retreating(Wrapped):
    """Far from every known image the answer is that of the nearest one, and has no gradient."""

    known: Tensor

    def __init__(self, inner: nn.Module, known: Tensor) -> None:
        super().__init__(inner)
        self.register_buffer("known", known)

    def forward(self, x: Tensor) -> Tensor:
        nearest = torch.cdist(x.flatten(1), self.known.flatten(1)).argmin(1)
        far = (x - self.known[nearest]).flatten(1).abs().amax(1) > 0.25
        logits: Tensor = torch.where(far[:, None], self.inner(self.known[nearest]), self.inner(x))
        return logits


class Steep(Wrapped):
    """The logits of a few images are multiplied by a large number."""

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.inner(x)
        bright = x.flatten(1).mean(1) > 0.35
        return torch.where(bright[:, None], logits * 1e5, logits)
