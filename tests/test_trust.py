"""The trust gate: every fake defense of the zoo is caught, and no honest model is."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from trained_models import EPS, HONEST, digits, trained
from zoo import (
    Batched,
    GradientKiller,
    Hot,
    Noisy,
    Peeking,
    Probabilities,
    Quantised,
    Refusing,
    Retreating,
    Shattered,
    Steep,
)

from deconfound.engine import Engine
from deconfound.evaluation import Evaluation
from deconfound.gate import Gate
from deconfound.models.classifier import to_unit
from deconfound.statistics import Interval
from deconfound.trust import Check, judged, model_checks, never, part, threat_checks
from deconfound.types import Images

GATE = Gate(examples=100, queries=300)
PGD = {"pgd": {"kind": "pgd", "eps": EPS, "steps": 20}}
STRONG = PGD | {
    "pgd_margin": {"kind": "pgd", "eps": EPS, "steps": 40, "score": "margin", "restarts": 3},
    "apgd": {"kind": "apgd_targeted", "eps": EPS, "steps": 40},
}


def silent(remark: str = "", advance: int = 1) -> None:
    """Progress that nobody watches."""


def gated(
    model: nn.Module, attacks: dict[str, Any], *, stored: dict[str, Tensor] | None = None
) -> tuple[float, dict[str, Check]]:
    """Reported robust accuracy on 100 images of the test split, and the gate's checks by name."""
    _, test = digits()
    images = Images(test.x[:100], test.y[:100])
    engine = Engine(model, images, 0, stored or {})
    evaluation = Evaluation(engine)
    evaluation.robust(attacks, silent)
    ((key, threat),) = evaluation.threats.items()
    reported = evaluation.standing[key]
    checks = model_checks(engine, GATE) + threat_checks(engine, threat, reported, GATE, evaluation.costs)
    return len(reported) / 100, {check.name: check for check in checks}


def failures(checks: dict[str, Check]) -> set[str]:
    return {name for name, check in checks.items() if check.verdict == "failed"}


def first_images() -> tuple[Tensor, Tensor]:
    _, test = digits()
    return to_unit(test.x[:100]), test.y[:100]


ZOO: dict[str, tuple[Callable[[nn.Module], nn.Module], str]] = {  # a fake, and a check that has to catch it
    "quantised": (Quantised, "gradients"),
    "gradient killer": (GradientKiller, "attacks_ran"),
    "shattered": (Shattered, "black_box"),
    "noisy": (Noisy, "repeats"),
    "hot": (Hot, "gradients"),
    "probabilities": (Probabilities, "logits"),
    "refusing": (Refusing, "answers"),
    "peeking": (lambda inner: Peeking(inner, first_images()[1]), "independent"),
    "batched": (Batched, "independent"),
    "retreating": (lambda inner: Retreating(inner, first_images()[0]), "growing_eps"),
    "steep": (Steep, "exploding"),
}


@pytest.mark.parametrize("name", ZOO)
def test_a_fake_defense_is_caught(name: str) -> None:
    make, check = ZOO[name]
    model = make(trained("standard")).eval()
    _, checks = gated(model, PGD)
    assert check in failures(checks), {name: found.verdict for name, found in checks.items()}


@pytest.mark.parametrize("name", HONEST)
def test_an_honest_model_under_honest_attacks_raises_no_alarm(name: str) -> None:
    accuracy, checks = gated(trained(name), STRONG)
    assert not failures(checks), {name: found for name, found in checks.items() if found.verdict == "failed"}
    assert set(checks) >= {"answers", "repeats", "independent", "gradients", "black_box", "whole_box"}
    assert (accuracy == 0) == (name == "standard")


def test_an_honest_model_under_a_weak_attack_is_caught_by_a_stronger_one() -> None:
    weak = {"bim": {"kind": "bim", "eps": EPS, "steps": 2, "step_size": 0.01}}
    accuracy, checks = gated(trained("standard"), weak)
    assert accuracy > 0.5
    assert {"more_steps", "more_restarts"} <= failures(checks)
    assert checks["more_steps"].value == pytest.approx(
        accuracy, abs=0.05
    )  # all of it was weakness of the attack


def test_images_of_another_model_catch_what_hides_its_gradient() -> None:
    from deconfound.attacks.pgd import PGD as Attack

    x, y = first_images()
    crafted = Attack(eps=EPS)(trained("standard"), x, y, rng=torch.Generator().manual_seed(0))
    _, checks = gated(Quantised(trained("standard")), PGD, stored={"transfer": crafted})
    assert checks["transfer"].verdict == "failed" and checks["transfer"].value > 0.3
    _, none = gated(trained("standard"), STRONG)
    assert none["transfer"].verdict == "not assessed" and none["transfer"].total == 0
    _, honest = gated(trained("standard"), STRONG, stored={"transfer": crafted})
    assert honest["transfer"].verdict == "passed"


def test_a_check_fails_only_when_its_whole_interval_is_beyond_the_limit() -> None:
    for low, verdict in ((0.02, "failed"), (0.01, "passed"), (0.0, "passed")):
        assert judged("x", Interval(0.5, low, 0.9), limit=0.01, total=9).verdict == verdict
    assert judged("x", Interval(float("nan"), 0, 1), limit=0.01, total=0).verdict == "not assessed"
    assert part("x", np.arange(100) < 3, limit=0.01).verdict == "failed"
    assert part("x", np.arange(100) < 2, limit=0.01).verdict == "passed"
    assert never("x", np.arange(100) < 1).verdict == "failed"
    assert never("x", np.zeros(100, bool)).verdict == "passed"


def test_what_was_not_measured_is_null_in_json() -> None:
    nothing = judged("x", Interval(float("nan"), 0.0, 1.0), limit=0.0, total=0).to_json()
    assert nothing["value"] is None and nothing["verdict"] == "not assessed"


def test_the_gate_gives_the_same_statistics_again() -> None:
    first, second = (gated(trained("adversarial_training"), PGD) for _ in range(2))
    assert {n: c.to_json() for n, c in first[1].items()} == {n: c.to_json() for n, c in second[1].items()}
