"""Small networks whose attributions are known, or that a method must refuse."""

from functools import cache, partial
from pathlib import Path
from typing import Any

import torch
from oracle_models import CPU
from torch import Tensor, nn
from torch.nn import functional as F

from deconfound.attributions import ATTRIBUTIONS
from deconfound.data.digits import Digits
from deconfound.defenses.standard import Standard
from deconfound.defenses.workbench import Workbench
from deconfound.models.classifier import Classifier
from deconfound.models.small_cnn import SmallCNN
from deconfound.recipe import Recipe
from deconfound.registry import build
from deconfound.rng import generator, global_seed
from deconfound.training import Trainer

SIDE, CLASSES = 8, 3
SETTINGS: dict[str, dict[str, Any]] = {
    "saliency": {},
    "input_x_gradient": {},
    "integrated_gradients": {"steps": 8},
    "smooth_grad": {"samples": 3},
    "grad_cam": {},
    "lrp": {},
    "deep_lift": {},
    "guided_backprop": {},
    "occlusion": {"window": 3, "stride": 2},
    "shapley": {"grid": 2},
    "kernel_shap": {"grid": 3, "samples": 30},
    "lime": {"grid": 3, "samples": 30},
}


def made(kind: str, **changes: Any) -> Any:
    return build(ATTRIBUTIONS, {"kind": kind, **SETTINGS[kind], **changes}, at="attribution")


def fresh(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def images(count: int = 5, channels: int = 2, side: int = SIDE, seed: int = 0) -> tuple[Tensor, Tensor]:
    rng = fresh(seed)
    x = torch.rand(count, channels, side, side, generator=rng)
    return x, torch.randint(CLASSES, (count,), generator=rng)


def linear(channels: int = 1, side: int = 4) -> Classifier:
    """Logits W x + c of the pixels."""
    with global_seed(generator(0, "linear")):
        return Classifier(nn.Flatten(), nn.Linear(channels * side * side, CLASSES), channels=channels).eval()


def small_cnn(channels: int = 2, *, mean: float = 0.3, std: float = 0.5) -> Classifier:
    """SmallCNN with statistics in its batch norms, in evaluation mode."""
    with global_seed(generator(0, "cnn")):
        model = SmallCNN(widths=(4, 6), hidden=10)((channels, SIDE, SIDE), CLASSES)
        model.mean.fill_(mean)
        model.std.fill_(std)
        model.train()
        for _ in range(20):
            model(torch.rand(32, channels, SIDE, SIDE))
    return model.eval()


def bias_free(pool: nn.Module | None = None, *, last: nn.Module | None = None) -> Classifier:
    """Convolutions, ReLUs and a pooling layer without biases; positively homogeneous."""
    with global_seed(generator(0, "bias free")):
        body = nn.Sequential(
            *(nn.Conv2d(2, 4, 3, padding=1, bias=False), nn.ReLU(), pool or nn.AvgPool2d(2)),
            *(nn.Conv2d(4, 5, 3, padding=1, bias=False), nn.ReLU(), nn.Flatten(), last or nn.Identity()),
        )
        return Classifier(body, nn.Linear(5 * (SIDE // 2) ** 2, CLASSES, bias=False), channels=2).eval()


class Branches(nn.Module):
    """Convolutions beside a shortcut; `how` says what joins them, and how they are activated."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.first = nn.Conv2d(2, 2, 3, padding=1, bias=False)
        self.second = nn.Conv2d(2, 2, 3, padding=1, bias=False)
        self.act, self.act2 = nn.ReLU(), nn.ReLU(inplace=True)
        self.drop = nn.Identity()
        self.how = how
        if how in ("addition module", "activated branch", "dropped branch"):
            from captum.attr._utils.custom_modules import Addition_Module

            self.join = Addition_Module()

    def forward(self, x: Tensor) -> Tensor:
        if self.how == "functional":
            return self.second(F.relu(self.first(x)))
        if self.how == "shared":
            return self.act(self.second(self.act(self.first(x))))
        if self.how == "gate":
            return x * self.first(x)
        if self.how.endswith("branch"):
            begin = self.act if self.how == "activated branch" else self.drop
            return self.join(x, self.second(begin(x)))
        y = self.act2(self.second(self.act(self.first(x))))
        return self.join(x, y) if self.how == "addition module" else x + y


def branched(how: str) -> Classifier:
    with global_seed(generator(0, "branches")):
        body = nn.Sequential(Branches(how), nn.Flatten())
        return Classifier(body, nn.Linear(2 * SIDE * SIDE, CLASSES, bias=False), channels=2).eval()


def gradient(model: nn.Module, x: Tensor, target: Tensor) -> Tensor:
    z = x.clone().requires_grad_(True)
    (found,) = torch.autograd.grad(model(z).gather(1, target[:, None]).sum(), z)
    return found


@cache
def trained() -> tuple[Classifier, Tensor, Tensor]:
    """A network on the bundled digits, 40 test images and its predictions; about a second, once per worker."""
    source = Digits(test=500).fetch(Path())
    train, test = source.train.images, source.test.images

    def network(purpose: str) -> Classifier:
        with global_seed(generator(0, "init", purpose)):
            model = SmallCNN(widths=(8, 16), hidden=16)((1, 8, 8), 10)
        model.normalise_like(train.x)
        return model

    recipe = Recipe(epochs=3, batch_size=64, lr=0.05)
    trainer = Trainer(train, test, recipe, 0, CPU)
    bench = Workbench(train, test, recipe, network, partial(generator, 0), trainer.fit)
    model = Standard()(bench).model.eval()
    x = test.x[:40].float() / 255
    return model, x, model(x).argmax(1)
