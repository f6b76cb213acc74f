"""A crowd of backdoors: twelve poisons, eighteen defenses and clean data, with numbers that follow from their places.

Under poison j (0 to 11) defense i (0 is the control) has an attack success rate of 1 - 0.05 i - 0.01 j, a clean
accuracy of 0.95 - 0.01 i, and so a DER of 0.5 + 0.02 i; training costs 1 + 0.1 i. Poison 3 under defense 2 failed the
trust gate; poison 5 under defense 4 was not run.
"""

import math
from pathlib import Path
from typing import Any

from synthetic_experiment import SEEDS, Experiment

POISONS = [
    *(
        "badnets",
        "trojan",
        "blend",
        "sig",
        "wanet",
        "input_aware",
        "label_consistent",
        "low_frequency",
        "ftrojan",
    ),
    *("bpp", "adap_blend", "tact"),
]
DEFENSES = [
    *(
        "standard",
        "cbd",
        "cbd_shuffled",
        "fine_tuning",
        "fine_pruning",
        "nad",
        "mode_connectivity",
        "anp",
        "i_bau",
    ),
    *(
        "clp",
        "abl",
        "dbd",
        "filtered",
        "neural_cleanse",
        "adversarial_training",
        "trades",
        "causaladv_m",
        "namid",
    ),
]
CONFIG: dict[str, Any] = {
    "datasets": {"scenes": {"kind": "scenes"}},
    "poisons": {name: {} for name in POISONS},
    "defenses": {name: {} for name in DEFENSES},
    "seeds": list(SEEDS),
}
LABELS = ["disc", "square", "triangle", "cross", "ring"]
FAILED = "failed in 1 of 3 seeds: repeats"
MISSING, DOUBTED = (POISONS[5], DEFENSES[4]), (POISONS[3], DEFENSES[2])
DETECTORS = {
    "strip": "inputs",
    "scale_up": "inputs",
    "spectral_signatures": "examples",
    "neural_cleanse": "model",
}
NAN = math.nan


def asr(poison: str, defense: str) -> float:
    return 1 - 0.05 * DEFENSES.index(defense) - 0.01 * POISONS.index(poison)


def accuracy(defense: str) -> float:
    return 0.95 - 0.01 * DEFENSES.index(defense)


def der(defense: str) -> float:
    return 0.5 + 0.02 * DEFENSES.index(defense)


def spread(name: str, value: float, half: float = 0.02) -> dict[str, Any]:
    """A value with its interval; nothing where it is none."""
    found = {name: value, f"{name}_low": value - half, f"{name}_high": value + half}
    return {key: "" if math.isnan(number) else number for key, number in found.items()}


def crowd(root: Path, poisons: int = 12, defenses: int = 18) -> Experiment:
    """The crowd, or its first poisons and defenses."""
    made = Experiment(root)
    made.config |= {"title": "A crowd of backdoors", "config": CONFIG}
    names = DEFENSES[:defenses]
    for poison in ("clean", *POISONS[:poisons]):
        for defense in names:
            if (poison, defense) == MISSING:
                continue
            place = {"dataset": "scenes", "poison": poison, "model": "cnn", "defense": defense}
            made.rate(place, accuracy(defense), "clean_accuracy", 600)
            made.run(place, (3, 16, 16), LABELS, second=False)
            _cross(made, place)
            if poison != "clean":
                _backdoor(made, place)
            if defense == "standard":
                _detection(made, place)
    for name in names[1:]:
        made.differences(name, "standard")
    for row in made.rows["summary"]:
        if (row["poison"], row["defense"]) == DOUBTED:
            row["gate"] = FAILED
    return made


def _gate(place: dict[str, str]) -> str:
    return FAILED if (place["poison"], place["defense"]) == DOUBTED else "not assessed"


def _backdoor(made: Experiment, place: dict[str, str]) -> None:
    poison, defense = place["poison"], place["defense"]
    success, first = asr(poison, defense), defense == "standard"
    made.rate(place, success, "asr", 480, attack=poison)
    made.rate(place, 0.95 * (1 - success), "triggered_accuracy", 480, attack=poison)
    made.rate(place, accuracy(defense) - 0.03, "target_recall", 120)
    cross = accuracy(defense) - 0.1 if poison in ("wanet", "input_aware") else NAN
    if not math.isnan(cross):
        made.rate(place, cross, "cross_accuracy", 600, attack=poison)
    row: dict[str, Any] = {**place, "control": "" if first else "standard"}
    row |= spread("asr", success) | spread("clean_accuracy", accuracy(defense))
    row |= spread("triggered_accuracy", 0.95 * (1 - success)) | spread("cross_accuracy", cross)
    row |= spread("target_recall", accuracy(defense) - 0.03)
    row |= spread("der", NAN if first else der(defense)) | spread(
        "rir", NAN if first else der(defense) - 0.01
    )
    row |= {"worst_class_drop": "" if first else 0.12, "training_cost": 1 + 0.1 * DEFENSES.index(defense)}
    made.rows["backdoor"].append(row | {"seeds": 3, "gate": _gate(place)})
    for seed in SEEDS if defense == "cbd" else ():
        measure = {"seed": seed, "measure": "biased_auroc", "value": 0.985 + seed / 1000}
        made.rows["measures"].append({**place, **measure})


def _cross(made: Experiment, place: dict[str, str]) -> None:
    poison, defense = place["poison"], place["defense"]
    robust = 0.05 + 0.04 * DEFENSES.index(defense)
    poisoned = poison != "clean"
    row: dict[str, Any] = {**place, "norm": "linf", "eps": 8 / 255, "seeds": 3, "gate": _gate(place)}
    row |= spread("clean_accuracy", accuracy(defense)) | spread("robust_accuracy", robust)
    row |= spread("asr", asr(poison, defense) if poisoned else NAN)
    row |= spread("triggered_accuracy", 0.95 * (1 - asr(poison, defense)) if poisoned else NAN)
    made.rows["cross"].append(row)
    made.rate(place, robust, "robust_accuracy", 600, attack="worst_case", norm="linf", eps=8 / 255)


def _detection(made: Experiment, place: dict[str, str]) -> None:
    """AUROC 0.9 - 0.02 j of every detector; scans accuse the target in 1 of 3 seeds of odd poisons, else in all."""
    empty = dict.fromkeys(
        (
            *(f"{name}{end}" for name in ("auroc", "precision", "recall") for end in ("", "_low", "_high")),
            *(
                f"{name}{end}"
                for name in ("detection_rate", "false_alarm_rate")
                for end in ("", "_low", "_high")
            ),
            *("detected_at_1", "false_alarms_at_1", "detected_at_10", "false_alarms_at_10"),
            *("share", "left", "anomaly", "accused", "accused_any", "target_anomaly", "target_accused"),
        ),
        "",
    )
    for name, look in DETECTORS.items():
        row: dict[str, Any] = {
            **place,
            "detector": name,
            "look": look,
            **empty,
            "seeds": 3,
            "gate": _gate(place),
        }
        if place["poison"] == "clean":
            if look == "inputs":
                row |= spread("false_alarm_rate", 0.06) | {
                    "false_alarms_at_1": 0.01,
                    "false_alarms_at_10": 0.11,
                }
            row |= {"share": 0.15} if look == "examples" else {}
            row |= {"anomaly": 1.7, "accused": 0, "accused_any": 0} if look == "model" else {}
            made.rows["detection"].append(row)
            continue
        at = POISONS.index(place["poison"])
        if look != "model":
            row |= spread("auroc", 0.9 - 0.02 * at)
        if look == "inputs":
            row |= spread("detection_rate", 0.8) | spread("false_alarm_rate", 0.05)
            row |= {
                "detected_at_1": 0.5,
                "false_alarms_at_1": 0.01,
                "detected_at_10": 0.9,
                "false_alarms_at_10": 0.12,
            }
        elif look == "examples":
            row |= spread("precision", 0.4) | spread("recall", 0.7) | {"share": 0.15, "left": 0.01}
        else:
            row |= {"anomaly": 3.5, "accused": 1.5, "accused_any": 1, "target_anomaly": 2.5}
            row |= {"target_accused": 1 / 3 if at % 2 else 1.0}
        made.rows["detection"].append(row)
