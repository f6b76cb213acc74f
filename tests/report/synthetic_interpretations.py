"""Interpretations made up: rows of the table, and what the jobs leave beside it, for four models and two seeds."""

import base64
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from synthetic_experiment import Experiment

from deconfound.storage import write_json, write_npz

Array = NDArray[Any]
Place = tuple[str, str, str]
COUNT, SIDE, CLASSES = 12, 8, ("circle", "cross", "star")
SEEDS = (0, 1)
CELLS = (("clean", "standard"), ("clean", "trades"), ("badnets", "standard"), ("badnets", "cbd"))
MAPS = ("saliency", "grad_cam")
MEASURES = ("spearman", "top_k")
EACH: Mapping[str, Sequence[tuple[Sequence[str], Sequence[str], Sequence[str]]]] = {
    "attribution_shift": [
        (MAPS, ("success_true", "success_pred", "failure", "noise_true", "noise_pred", "floor"), MEASURES),
        (("prediction",), ("attack", "noise"), ("fooled",)),
    ],
    "map_trust": [
        (MAPS, ("deletion", "insertion"), ("area", "random_area", "gain")),
        (MAPS, ("weights_00_head", "weights_01_body_2", "labels"), ("agreement",)),
        (MAPS, ("seeds",), ("stability",)),
    ],
    "adversarial_detection": [
        (("mahalanobis", "confidence"), ("clean",), ("false_alarms",)),
        (
            ("mahalanobis", "confidence"),
            ("fgsm", "pgd", "oblivious", "adaptive"),
            ("success", "evaded", "detected", "noise_alarms"),
        ),
    ],
    "trigger_mass": [
        (MAPS, ("stamped_hoped", "stamped_pred", "clean_hoped", "clean_pred"), ("share", "ratio")),
        (("trigger",), ("stamped",), ("hoped", "right")),
        (("trigger",), ("deleted",), ("gain",)),
        (("trigger",), ("inserted",), ("hoped_logit",)),
    ],
    "prune_curve": [
        (("last_conv",), ("unpruned", "random_10", "random_50", "change_10", "change_50"), ("clean", "asr")),
    ],
    "robust_interpretability": [
        (("gradient",), ("clean",), ("alpha", "cosine")),
        (("gradient",), ("other_image",), ("alpha",)),
        (("boundary",), ("attacked", "linearised"), ("l2",)),
        (("masking",), ("alarm",), ("gap",)),
    ],
    "unheard_of": [(("something",), ("somehow",), ("strange_number",))],
}
ONCE: Mapping[str, Sequence[tuple[Sequence[str], Sequence[str], Sequence[str]]]] = {
    "attribution_shift": [(MAPS, ("success_true",), ("spearman_normalised",))],
    "map_trust": [(MAPS, ("verdict",), ("marked", "passes_deletion", "passes_weights"))],
    "adversarial_detection": [
        (
            ("mahalanobis",),
            ("fgsm_on_fgsm", "fgsm_on_pgd", "pgd_on_fgsm", "pgd_on_pgd", "adaptive"),
            ("auroc",),
        ),
    ],
    "robust_interpretability": [(("boundary",), ("linearised",), ("rank_correlation",))],
}
NOTES = {"trigger_mass": ["No poison in this run: there is no trigger whose mass could be read."]}


def places(kinds: Mapping[str, Any], kind: str) -> Iterator[Place]:
    for subjects, conditions, metrics in kinds.get(kind, ()):
        for subject in subjects:
            for condition in conditions:
                for metric in metrics:
                    yield subject, condition, metric


def add_interpretations(made: Experiment, dataset: str = "scenes") -> list[Path]:
    """Rows of interpretation.csv, and the interpretation.json files with their pictures; their paths."""
    rng = np.random.default_rng(0)
    paths = []
    for poison, defense in CELLS:
        cell = {"dataset": dataset, "poison": poison, "model": "cnn", "defense": defense}
        found: dict[tuple[str, Place], list[Array]] = {}
        for seed in SEEDS:
            stored = []
            for kind in EACH:
                if kind == "trigger_mass" and poison == "clean":
                    continue
                for place in places(EACH, kind):
                    values = rng.random(COUNT)
                    values[0] = np.nan
                    found.setdefault((kind, place), []).append(values)
                    packed = base64.b64encode(values.astype("<f4").tobytes()).decode()
                    stored.append(reading(kind, place) | {"values": packed})
                for place in places(ONCE, kind):
                    number = float(rng.random())
                    if place[1] == "verdict":
                        fails = place[0] == "saliency" and place[2] in ("marked", "passes_weights")
                        number = float(fails == (place[2] == "marked"))
                    found.setdefault((kind, place), []).append(np.array([number]))
                    stored.append(reading(kind, place) | {"number": number})
            paths.append(record(made.root, cell, seed, stored, rng))
        made.rows["interpretation"] += [row(cell, kind, place, v) for (kind, place), v in found.items()]
    return paths


def reading(kind: str, place: Place) -> dict[str, Any]:
    subject, condition, metric = place
    return {"of": kind, "kind": kind, "subject": subject, "condition": condition, "metric": metric}


def row(cell: Mapping[str, str], kind: str, place: Place, values: Sequence[Array]) -> dict[str, Any]:
    mean = float(np.nanmean(values))
    subject, condition, metric = place
    return {
        **cell,
        "interpretation": kind,
        "kind": kind,
        "subject": subject,
        "condition": condition,
        "metric": metric,
        "value": mean,
        "low": mean - 0.04,
        "high": mean + 0.04,
        "total": COUNT - 1 if len(values[0]) > 1 else 0,
        "seeds": len(values),
    }


def record(
    root: Path, cell: Mapping[str, str], seed: int, readings: Sequence[Any], rng: np.random.Generator
) -> Path:
    """An interpretation.json; with its pictures.npz for two models alone, since drawing takes time."""
    folder = root.joinpath("results", *cell.values(), f"seed{seed}")
    path = folder / "interpretation.json"
    poisoned = cell["poison"] != "clean"
    said: dict[str, Any] = {
        "run": {**cell, "seed": seed},
        "classes": list(CLASSES),
        "readings": list(readings),
        "notes": {kind: [] if poisoned else NOTES.get(kind, []) for kind in EACH},
        "spec": {kind: {"kind": kind, "examples": COUNT} for kind in EACH},
        "provenance": {
            "commit": "abc",
            "inputs": {"model": {"path": "model.safetensors", "sha256": "0" * 64}},
        },
    }
    write_json(path, said)
    if seed == SEEDS[0] and cell["defense"] == "standard":
        write_npz(folder / "pictures.npz", pictures(rng, poisoned=poisoned))
    return path


def pictures(rng: np.random.Generator, *, poisoned: bool) -> dict[str, Array]:
    """Arrays as the interpretations document them."""
    shape, labels = (4, 3, SIDE, SIDE), np.array([0, 1, 2, 0])
    images = rng.random(shape).astype(np.float32)
    found: dict[str, Array] = {
        "attribution_shift.gallery.clean": images,
        "attribution_shift.gallery.attacked": np.clip(images + 0.05, 0, 1),
        "attribution_shift.gallery.noisy": np.clip(images - 0.05, 0, 1),
        "attribution_shift.gallery.label": labels,
        "attribution_shift.gallery.predicted_attacked": np.array([1, 2, 2, 0]),
        "attribution_shift.gallery.predicted_noisy": labels,
        "adversarial_detection.scores.mahalanobis.clean": rng.random(COUNT).astype(np.float32),
        "adversarial_detection.scores.mahalanobis.oblivious": 0.5 + rng.random(COUNT).astype(np.float32),
        "adversarial_detection.scores.mahalanobis.adaptive": rng.random(COUNT).astype(np.float32),
        "robust_interpretability.images": images,
        "robust_interpretability.gradients": rng.standard_normal(shape).astype(np.float32),
    }
    for name in MAPS:
        found[f"map_trust.curves.{name}"] = rng.random((4, 5)).astype(np.float32)
        for state in ("clean", "attacked_true", "attacked_pred", "noisy_true", "noisy_pred"):
            values = rng.standard_normal((4, SIDE, SIDE)).astype(np.float32)
            found[f"attribution_shift.map.{name}.{state}"] = values
    if poisoned:
        mask = np.zeros((4, SIDE, SIDE), np.uint8)
        mask[:, 5:7, 5:7] = 1
        found |= {
            "trigger_mass.stamped.images": (255 * images).astype(np.uint8),
            "trigger_mass.stamped.masks": mask,
            "trigger_mass.stamped.places": np.arange(4),
            "trigger_mass.stamped.maps.saliency": rng.standard_normal((4, SIDE, SIDE)).astype(np.float32),
        }
    return found
