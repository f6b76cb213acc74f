"""What a training step of each defense costs over the bare passes that its specification asks for, in one run.

A step (inner attack, loss, backward, optimiser) is timed beside the bare passes it is made of, batch by batch, so that
a busy machine slows both: forward passes, forward and backward passes to the images (of the attack) and to the weights,
at the sizes of the method, of the network and of what else it trains (style predictor, estimators). Ratios carry over
to another machine, seconds do not. 1.00 is the floor; the aim is 1.15.

    python benchmarks/training.py [--networks cnn resnet18] [--rounds 15] [--json benchmarks/training.json]
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from deconfound.attacks.ascent import Ascent
from deconfound.defenses.adml import ADML
from deconfound.defenses.adversarial_training import AdversarialTraining
from deconfound.defenses.awp import AWP
from deconfound.defenses.causaladv import CausalAdv, StyleAlignment
from deconfound.defenses.mart import MART
from deconfound.defenses.namid import NAMID, InformationAlignment
from deconfound.defenses.style import StylePredictor
from deconfound.defenses.trades import TRADES
from deconfound.defenses.workbench import Pace
from deconfound.estimators import Estimators, EstimatorSpec, profile
from deconfound.models.classifier import Classifier, eval_mode
from deconfound.models.small_cnn import SmallCNN
from deconfound.models.timm_models import TimmModel
from deconfound.optimisers import make_optimizer
from deconfound.recipe import Recipe
from deconfound.threat import ThreatModel
from deconfound.training import Loop
from deconfound.types import Objective

STEPS = 10  # of the inner attack
CLASSES = 10
RECIPE = Recipe(lr=1e-3)
SMALL = EstimatorSpec(hidden=64, widths=(16, 32))


class Setting(NamedTuple):
    """A network with a batch of images like those it is made for."""

    network: Classifier
    x: Tensor
    y: Tensor


class Passes(NamedTuple):
    """How often a step of a method does what: the name of a bare pass, and how many of them."""

    counts: Mapping[str, float]


def setting(name: str) -> Setting:
    """The small CNN on 8 x 8 pictures in batches of 128, or a ResNet-18 on 32 x 32 pictures in batches of 16."""
    torch.manual_seed(0)
    shape, count = ((1, 8, 8), 128) if name == "cnn" else ((3, 32, 32), 16)
    make: Any = SmallCNN(widths=(16, 32), hidden=64) if name == "cnn" else TimmModel(name="resnet18")
    return Setting(make(shape, CLASSES), torch.rand(count, *shape), torch.randint(CLASSES, (count,)))


def methods(given: Setting) -> dict[str, tuple[Objective, Passes]]:
    """The objective of every method, and the passes of its specification; k = 10 steps of attack."""
    climb = Ascent(threat=ThreatModel(eps=0.1), step_size=0.02, steps=STEPS)
    model, rng = given.network, torch.Generator().manual_seed(0)
    estimators = Estimators(SMALL, tuple(given.x.shape[1:]), CLASSES).eval().requires_grad_(False)  # type: ignore[arg-type]
    attack = {"attack": 1}
    styled = {
        "attack": 1,
        "look": 1,
        "train": 2,
        "style attack": 1,
        "style train": 1,
        "style loss": 2,
    }
    adml = attack | {"half": 3}
    found: dict[str, tuple[Objective, Mapping[str, float]]] = {
        "adversarial training": (AdversarialTraining(ascent=climb).objective, attack | {"train": 1}),
        "TRADES": (TRADES(ascent=climb).objective, attack | {"look": 1, "train": 2}),
        "MART": (MART(ascent=climb).objective, attack | {"train": 2}),
        "AWP": (AWP(ascent=climb).objective(), attack | {"train": 3}),
        "CausalAdv-M": (StyleAlignment(CausalAdv(ascent=climb, ramp=False), model, RECIPE, rng=rng), styled),
        "CausalAdv-T": (
            StyleAlignment(CausalAdv(ascent=climb, variant="t", ramp=False), model, RECIPE, rng=rng),
            styled,
        ),
        "ADML": (ADML(ascent=climb).objective(), adml),
        "ADML-TRADES": (ADML(ascent=climb, base="trades").objective(), adml | {"half": 4}),
        "NAMID": (
            InformationAlignment(NAMID(ascent=climb, estimator=SMALL), estimators),
            attack | {"train": 2, "estimate": 1},
        ),
    }
    return {name: (objective, Passes(counts)) for name, (objective, counts) in found.items()}


def bare(given: Setting) -> dict[str, Callable[[], object]]:
    """The bare passes, each on the whole batch but `half`; those of an attack as many as it has steps."""
    model, x, y = given
    width = model.head.in_features
    half = len(x) // 2
    predictor, style = StylePredictor(width, CLASSES), torch.randn(len(x), width)
    estimators = Estimators(SMALL, tuple(x.shape[1:]), CLASSES).eval().requires_grad_(False)  # type: ignore[arg-type]

    def to_images(net: nn.Module, z: Tensor, count: int) -> None:
        with eval_mode(net):  # once, as an attack does
            for _ in range(count):
                z = z.detach().requires_grad_()
                torch.autograd.grad(F.cross_entropy(net(z), y), z)

    def to_weights(net: nn.Module, z: Tensor, y: Tensor) -> None:
        net.train()
        F.cross_entropy(net(z), y).backward()  # type: ignore[no-untyped-call]
        net.zero_grad(set_to_none=True)

    def look() -> None:
        with eval_mode(model), torch.no_grad():
            model(x)

    def estimate() -> None:
        clean, moved = (torch.randn(len(x), CLASSES, requires_grad=True) for _ in range(2))
        torch.autograd.grad(
            sum(part.sum() for part in profile(estimators, clean, moved, x, x)), (clean, moved)
        )

    return {
        "attack": lambda: to_images(model, x, STEPS),
        "look": look,
        "train": lambda: to_weights(model, x, y),
        "half": lambda: to_weights(model, x[:half], y[:half]),
        "style attack": lambda: to_images(predictor, style, STEPS),
        "style train": lambda: to_weights(predictor, style, y),
        "style loss": lambda: to_images(predictor, style, 1),
        "estimate": estimate,
    }


def seconds(call: Callable[[], object]) -> float:
    """Of one call."""
    begin = time.perf_counter()
    call()
    return time.perf_counter() - begin


def measure(network: str, rounds: int) -> dict[str, dict[str, float]]:
    """Per method the median over rounds of step time over bare time, and its seconds per step."""
    given = setting(network)
    passes = bare(given)
    found: dict[str, dict[str, float]] = {}
    for name, (objective, wanted) in methods(given).items():
        optimizer = make_optimizer(RECIPE, given.network.parameters())
        loop = Loop(given.network, objective, optimizer, RECIPE, "model", [slice(0, len(given.x))])
        loop.pace(Pace(1, 2, 0.5))
        rng = torch.Generator().manual_seed(0)
        ratios, times = [], []
        for round_ in range(rounds + 2):
            floor = sum(count * seconds(passes[key]) for key, count in wanted.counts.items())
            taken = seconds(lambda loop=loop, rng=rng: loop.step(given.x, given.y, rng=rng))  # type: ignore[misc]
            if round_ > 1:  # the first ones warm up
                ratios.append(taken / floor)
                times.append(taken)
        found[name] = {"ratio": statistics.median(ratios), "seconds": statistics.median(times)}
    return found


def main() -> None:
    """Measure, print, and write JSON if asked."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--networks", nargs="+", choices=["cnn", "resnet18"], default=["cnn", "resnet18"])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    found = {name: measure(name, options.rounds) for name in options.networks}
    print(f"{'method':22}" + "".join(f"{name:>22}" for name in found))
    for method in next(iter(found.values())):
        cells = [f"{rows[method]['ratio']:.2f} ({rows[method]['seconds']:.3f} s)" for rows in found.values()]
        print(f"{method:22}" + "".join(f"{cell:>22}" for cell in cells))
    if options.json:
        options.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
