"""More defenses in one setting than a legend can hold: rows and runs with known numbers."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from deconfound.report.inputs import PerClass, Run, Summary
from deconfound.report.words import Order

SETTING = ("digits", "clean", "cnn")
PLACE: dict[str, Any] = {"dataset": "digits", "poison": "clean", "model": "cnn"}
NAMES = ["standard", *(f"causaladv_m_with_a_name_of_many_words_{n:02d}" for n in range(61))]
ORDER = Order({"defenses": list(NAMES), "attacks": {"pgd": {}, "pgd_margin": {}}})
ATTACKS = (("none", "", 0.0), ("pgd", "linf", 0.2), ("pgd_margin", "linf", 0.2), ("worst_case", "linf", 0.2))
DIGITS = [str(digit) for digit in range(10)]
SIGNS = [f"Sign {n:02d}: right of way at the next intersection" for n in range(43)]


def summary(
    defense: str, value: float, attack: str = "none", norm: str = "", eps: float = 0.0, **at: Any
) -> Summary:
    """A row of accuracy with an interval of ten points around it."""
    metric = "clean_accuracy" if attack == "none" else "robust_accuracy"
    values: dict[str, Any] = {
        "curve": "",
        "steps": 0,
        "gate": "passed",
        "total": 250,
        "seeds": 3,
        "rank_low": 0,
        "rank_high": 0,
    }
    values |= {"value": value, "low": value - 0.05, "high": value + 0.05, **at}
    return Summary(**PLACE, defense=defense, attack=attack, norm=norm, eps=eps, metric=metric, **values)


def accuracies(names: Sequence[str]) -> list[Summary]:
    """Four rows per defense, all values different; the last defense comes first."""
    return [
        summary(name, 0.9 - 0.01 * place - 0.002 * number, *at)
        for place, name in reversed(list(enumerate(names)))
        for number, at in enumerate(ATTACKS)
    ]


def per_class(names: Sequence[str], labels: Sequence[str]) -> list[PerClass]:
    """Clean and worst case of every class and defense, all values different."""
    return [
        PerClass(
            **PLACE,
            defense=name,
            attack=attack,
            norm=norm,
            eps=eps,
            metric="robust_accuracy" if norm else "clean_accuracy",
            label=text,
            hits=0,
            total=36,
            value=(column + len(labels) * row) / (2 * len(labels) * len(names)) + (0 if norm else 0.5),
            low=0.0,
            high=1.0,
            gate="passed",
        )
        for attack, norm, eps in (ATTACKS[0], ATTACKS[3])
        for row, name in enumerate(names)
        for column, text in enumerate(labels)
    ]


def run(defense: str, *, second: bool = False, validation: str = "none", robust: bool = False) -> Run:
    """A run of three epochs; its accuracies lie at the place of its defense."""
    at = NAMES.index(defense) / 100
    epochs = [{"epoch": e, "loss": 1 / e, "val_accuracy": at + e / 100} for e in (1, 2, 3)]
    if robust:
        epochs = [{**entry, "val_robust": 0.1} for entry in epochs]
    history = {"model": epochs, **({"standard": [{"epoch": 1, "loss": 1.0}]} if second else {})}
    spec = {"defense": {"kind": "trades", "validation": validation}}
    return Run(
        **PLACE,
        defense=defense,
        seed=0,
        path=Path("run.json"),
        spec=spec,
        history=history,
        notes={},
        provenance={},
    )
