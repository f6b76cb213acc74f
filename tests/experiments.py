"""A small valid experiment with changed copies, and evaluations written by hand."""

import base64
import copy
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deconfound.config import parse
from deconfound.experiment import Experiment
from deconfound.results import Results, load

ROOT = Path(__file__).resolve().parents[1]
BASE: dict[str, Any] = {
    "name": "tiny",
    "seeds": [1, 0],
    "datasets": {"digits": {"kind": "digits", "test": 100}},
    "models": {"cnn": {"kind": "small_cnn", "widths": [4], "hidden": 8}},
    "recipes": {"short": {"epochs": 1}},
    "poisons": {"badnets": {"kind": "badnets", "rate": 0.1, "target": 2}},
    "attacks": {
        "pgd": {"kind": "pgd", "eps": 0.1, "steps": 2},
        "transfer": {"kind": "transfer", "attack": "pgd"},
    },
    "defenses": {
        "standard": {"kind": "standard"},
        "trades": {"kind": "trades", "ascent": {"threat": {"eps": 0.1}, "step_size": 0.1, "steps": 1}},
        "cbd": {"kind": "cbd", "stop": "rule"},
    },
    "studies": {
        "evasion": {
            "datasets": ["digits"],
            "models": ["cnn"],
            "recipe": "short",
            "defenses": ["standard", "trades"],
            "attacks": ["pgd", "transfer"],
            "keep": ["pgd"],
            "curves": [{"attack": "pgd", "eps": [0, "1/10"]}],
        },
        "backdoor": {
            "datasets": ["digits"],
            "poisons": ["badnets"],
            "models": ["cnn"],
            "recipe": "short",
            "defenses": ["standard", "cbd"],
        },
    },
}
GONE = object()


def changed(changes: dict[str, Any] | None = None) -> dict[str, Any]:
    """BASE with values put at dotted places (GONE removes a key); missing mappings on the way are made."""
    content = copy.deepcopy(BASE)
    for place, value in (changes or {}).items():
        *way, last = place.split(".")
        node: Any = content
        for key in way:
            node = node[int(key)] if isinstance(node, list) else node.setdefault(key, {})
        if value is GONE:
            del node[last]
        else:
            node[int(last) if isinstance(node, list) else last] = copy.deepcopy(value)
    return content


def experiment(changes: dict[str, Any] | None = None) -> Experiment:
    """BASE with changes, checked."""
    return parse(changed(changes), source="tiny.yaml")


def write(path: Path, changes: dict[str, Any] | None = None) -> Path:
    """BASE with changes as a file; JSON is YAML."""
    path.write_text(json.dumps(changed(changes)), encoding="utf-8")
    return path


CLASSES = ["null", "eins"]


def hits(bits: str) -> NDArray[np.bool_]:
    """One hit or miss per character."""
    return np.array([bit == "1" for bit in bits], bool)


def entry(
    metric: str,
    attack: str,
    bits: str,
    subset: str = "test",
    *,
    norm: str = "",
    eps: float = 0.0,
    curve: str = "",
    steps: int = 0,
) -> dict[str, Any]:
    """An entry as the contract describes it; bits: a character per example."""
    packed = np.packbits(hits(bits), bitorder="little").tobytes()
    found = {"metric": metric, "attack": attack, "norm": norm, "eps": eps, "subset": subset}
    found |= {"curve": curve, "steps": steps}
    return found | {"hits": bits.count("1"), "total": len(bits), "bits": base64.b64encode(packed).decode()}


def evaluation(
    folder: Path,
    run: str,
    entries: Sequence[Mapping[str, Any]],
    *,
    test: Sequence[int],
    measures: Mapping[str, float] | None = None,
    gate: Mapping[str, Any] | None = None,
    values: Mapping[str, Sequence[float]] | None = None,
) -> Path:
    """Write the evaluation of a run dataset/poison/model/defense/seed; test: true labels of the test split; values: a
    number per test image, by name.
    """
    dataset, poison, model, defense, seed = run.split("/")
    totals = {found["subset"]: found["total"] for found in entries}
    labels = {name: [0] * total for name, total in totals.items()} | {"test": list(test)}
    content = {
        "run": {"dataset": dataset, "poison": poison, "model": model, "defense": defense, "seed": int(seed)},
        "classes": CLASSES,
        "subsets": {k: base64.b64encode(np.array(v, "<u2").tobytes()).decode() for k, v in labels.items()},
        "entries": list(entries),
        "measures": dict(measures or {}),
        "values": [
            {
                "name": name,
                "subset": "test",
                "values": base64.b64encode(np.array(found, "<f4").tobytes()).decode(),
            }
            for name, found in (values or {}).items()
        ],
        "gate": gate,
        "costs": [],
        "provenance": {},
    }
    path = folder / run / "evaluation.json"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


def results(
    folder: Path,
    runs: Mapping[str, Sequence[str]],
    *,
    metrics: Sequence[str] = ("clean_accuracy",),
    measures: Mapping[str, Mapping[str, float]] | None = None,
) -> Results:
    """Evaluations with the bits of each metric (of no attack, on the test split) by run."""
    paths = []
    for run, texts in runs.items():
        entries = [entry(metric, "none", bits) for metric, bits in zip(metrics, texts, strict=True)]
        count = len(texts[0]) if texts else 1
        paths.append(evaluation(folder, run, entries, test=[0] * count, measures=(measures or {}).get(run)))
    return load(paths)
