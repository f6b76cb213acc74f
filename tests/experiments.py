"""A small valid experiment, and changed copies of it: what the tests of the outer layers start from."""

import copy
import json
from pathlib import Path
from typing import Any

from deconfound.config import Experiment, parse

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
