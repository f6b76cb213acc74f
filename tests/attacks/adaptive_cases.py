"""Networks, images and terms for tests of the adaptive attack."""

from typing import Any

import torch
from oracle_models import SIDE, tiny_images, workbench
from torch import Generator, Tensor, nn

from deconfound.attacks.ascent import Ascent
from deconfound.defenses.causaladv import CausalAdv
from deconfound.models.classifier import Classifier
from deconfound.recipe import Recipe
from deconfound.rng import global_seed
from deconfound.threat import ThreatModel
from deconfound.types import Aim

COUNT = 12
X = tiny_images(COUNT).x.float() / 510 + 0.25  # far from 0 and 1: the box stays out of it
Y = tiny_images(COUNT).y


def fresh(seed: int = 0) -> Generator:
    return torch.Generator().manual_seed(seed)


class Slope:
    """<a, features of the iterate>: a term whose greatest value in a ball is known."""

    def __init__(self, a: Tensor) -> None:
        self.a = a

    def __call__(self, x: Tensor, y: Tensor, features: Tensor, logits: Tensor) -> Aim:
        return lambda z, features, logits, rows: features @ self.a


class Distant:
    """Squared distance of features and logits from those of the image in the same place of the batch, by its label."""

    def __call__(self, x: Tensor, y: Tensor, features: Tensor, logits: Tensor) -> Aim:
        def aim(z: Tensor, moved: Tensor, said: Tensor, rows: Tensor) -> Tensor:
            away = (moved - features[rows]).square().sum(1) + (said - logits[rows]).square().sum(1)
            return away * (1 + y[rows]) + (z - x[rows]).flatten(1).square().sum(1)

        return aim


def linear(seed: int = 0) -> Classifier:
    """Features are the pixels; two classes, so that the margin is linear as well."""
    with global_seed(fresh(seed)):
        return Classifier(nn.Flatten(), nn.Linear(SIDE * SIDE, 2), channels=1)


def sharp(model: Classifier, factor: float = 3.0) -> Classifier:
    model.head.weight.data *= factor
    return model


def style_term(model: Classifier) -> Any:
    """The term of CausalAdv after a little training."""
    made = CausalAdv(ascent=Ascent(threat=ThreatModel(eps=0.1), step_size=0.05, steps=2), ramp=False)
    done = made(workbench(Recipe(epochs=2, batch_size=8), network=lambda purpose: model)[0])
    term = made.term(done.model, done.parts)
    assert term is not None
    term.predictor.last.weight.data *= 10  # so that it says something
    return term
