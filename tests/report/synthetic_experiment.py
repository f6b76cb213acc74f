"""A whole experiment made up: the tables, run records and images that the report reads."""

import csv
import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np
from synthetic_parts import ATTACKS, SEEDS, STEPS, add_backdoor, add_claims, add_evasion
from synthetic_properties import add_properties
from synthetic_trust import add_checks, add_costs, add_gates, add_ranks

from deconfound.report.inputs import Backdoor, Cross, Detection, Interpretation
from deconfound.storage import write_json, write_npz

__all__ = ["SEEDS", "SIGNS", "STEPS", "Experiment", "make"]


def columns_of(kind: type) -> str:
    """Names of the columns that the report reads: the cell first."""
    names = [field.name for field in fields(kind)]
    return ",".join(names)


COLUMNS = {
    "results": "dataset,poison,model,defense,seed,attack,norm,eps,curve,steps,metric,hits,total,value,gate",
    "summary": "dataset,poison,model,defense,attack,norm,eps,curve,steps,metric,value,low,high,total,seeds,gate,"
    "rank_low,rank_high",
    "differences": "dataset,poison,model,defense,control,attack,norm,eps,metric,effect,low,high,p_holm,total,seeds,"
    "gate",
    "per_class": "dataset,poison,model,defense,attack,norm,eps,metric,label,hits,total,value,low,high,gate",
    "measures": "dataset,poison,model,defense,seed,measure,value",
    "properties": "dataset,poison,model,defense,measure,label,value,low,high,total,seeds",
    "claims": "id,paper,statement,dataset,poison,model,treatment,control,metric,attack,effect,low,high,"
    "margin,direction,published,published_source,verdict,gate,evidence,seeds,property,applies,note",
    "trust": "dataset,poison,model,defense,seed,norm,eps,check,verdict,value,low,high,limit,total,note",
    "costs": "dataset,poison,model,defense,seed,attack,member,norm,eps,attacked,broken,forward,backward,fault",
    "backdoor": columns_of(Backdoor),
    "cross": columns_of(Cross),
    "detection": columns_of(Detection),
    "interpretation": columns_of(Interpretation),
    "published": "paper,table,title,source,provenance,obtained,dataset,model,metric,unit,row,defense,column,"
    "column_source,poison,attack,norm,eps,label,value,sd,approximate,error,comment,note",
    "errata": "paper,id,about,says,does,followed,switch,reason,ablation,against,dataset,poison,model,defense,control,"
    "attack,norm,eps,metric,effect,low,high,p_holm,total,seeds,gate",
}
CONFIG = {
    "name": "synthetic",
    "title": "A made-up experiment",
    "description": "Numbers that nobody measured, in the shapes that everybody uses.",
    "seeds": list(SEEDS),
    "config": {
        "datasets": {"digits": {"kind": "digits"}, "scenes": {"kind": "scenes", "noise": 0.1}},
        "attacks": {name: {"norm": norm, "eps": eps} for name, (norm, eps, _) in ATTACKS.items() if norm},
        "defenses": {
            name: {} for name in ("standard", "adversarial_training", "trades", "cbd", "cbd_shuffled")
        },
        "seeds": list(SEEDS),
    },
}


@dataclass
class Experiment:
    """Files of a made-up experiment below `root`, and the arguments of the report's builder."""

    root: Path
    rows: dict[str, list[dict[str, Any]]] = field(default_factory=lambda: {name: [] for name in COLUMNS})
    runs: list[Path] = field(default_factory=list)
    adversarial: list[Path] = field(default_factory=list)
    poisoned: list[Path] = field(default_factory=list)
    clean: dict[str, Path] = field(default_factory=dict)
    config: dict[str, Any] = field(default_factory=lambda: json.loads(json.dumps(CONFIG)))

    @property
    def tables(self) -> Path:
        return self.root / "reports" / "tables"

    def arguments(self, out: Path | None = None) -> dict[str, Any]:
        """Keyword arguments of `build`; writes the tables first."""
        self.tables.mkdir(parents=True, exist_ok=True)
        for name, columns in COLUMNS.items():
            with (self.tables / f"{name}.csv").open("w", encoding="utf-8", newline="") as file:
                writer = csv.DictWriter(file, columns.split(","), lineterminator="\n")
                writer.writeheader()
                writer.writerows(self.rows[name])
        return {
            "tables": self.tables,
            "runs": self.runs,
            "adversarial": self.adversarial,
            "poisoned": self.poisoned,
            "clean": self.clean,
            "experiment": self.config,
            "out": out or self.root / "reports",
        }

    def rate(self, place: Mapping[str, str], value: float, metric: str, total: int = 360, **at: Any) -> None:
        """Rows of one metric: one per seed, and their summary."""
        at = {"attack": "none", "norm": "", "eps": 0.0, "curve": "", "steps": 0, **at}
        wobble = int.from_bytes("/".join([*place.values(), metric, str(at)]).encode()[:64], "big") % 7 / 500
        values = [min(1.0, max(0.0, value + wobble + 0.01 * (seed - 1))) for seed in SEEDS]
        hits = [round(v * total) for v in values]
        for seed, hit in zip(SEEDS, hits, strict=True):
            row = {
                **place,
                "seed": seed,
                **at,
                "metric": metric,
                "hits": hit,
                "total": total,
                "value": hit / total,
                "gate": "not assessed",
            }
            self.rows["results"].append(row)
        mean = sum(hits) / total / len(SEEDS)
        half = 1.96 * math.sqrt(max(mean * (1 - mean), 0.004) / (total * len(SEEDS))) + 0.01
        self.rows["summary"].append(
            {
                **place,
                **at,
                "metric": metric,
                "value": mean,
                "low": max(0.0, mean - half),
                "high": min(1.0, mean + half),
                "total": total,
                "seeds": len(SEEDS),
                "gate": "not assessed",
                "rank_low": 0,
                "rank_high": 0,
            }
        )

    def classes(
        self, place: Mapping[str, str], labels: Iterable[str], value: float, metric: str, **at: Any
    ) -> None:
        """Rows of one metric per class."""
        at = {"attack": "none", "norm": "", "eps": 0.0, **at}
        for index, name in enumerate(labels):
            hits = round(36 * min(1.0, max(0.0, value - 0.3 * ((index * 7) % 5) / 5)))
            share = hits / 36
            self.rows["per_class"].append(
                {
                    **place,
                    **at,
                    "metric": metric,
                    "label": name,
                    "hits": hits,
                    "total": 36,
                    "value": share,
                    "low": max(0.0, share - 0.12),
                    "high": min(1.0, share + 0.1),
                    "gate": "not assessed",
                }
            )

    def differences(self, defense_of: str, control: str) -> None:
        """Paired differences of every summary row of a defense against its control."""
        table = [row for row in self.rows["summary"] if not row["curve"]]
        keys = ("dataset", "poison", "model", "attack", "norm", "eps", "metric")
        controls = {tuple(row[k] for k in keys): row for row in table if row["defense"] == control}
        for row in table:
            other = controls.get(tuple(row[k] for k in keys))
            if row["defense"] == defense_of and other is not None:
                effect = row["value"] - other["value"]
                wanted = COLUMNS["differences"].split(",")
                made = {
                    **row,
                    "control": control,
                    "effect": effect,
                    "low": effect - 0.02,
                    "high": effect + 0.025,
                    "p_holm": 0.001 if abs(effect) > 0.025 else 0.4,
                }
                self.rows["differences"].append({name: made[name] for name in wanted})

    def run(
        self, place: Mapping[str, str], shape: tuple[int, int, int], labels: list[str], second: bool
    ) -> None:
        """Run records of every seed."""
        for seed in SEEDS:
            kind = "base" if place["defense"] == "standard" else "defended"
            path = self.root / "checkpoints" / kind / "/".join(place.values()) / f"seed{seed}" / "run.json"
            epochs = range(1, 13)
            history = {
                "model": [
                    {
                        "epoch": e,
                        "loss": 2.0 * math.exp(-e / 4) + 0.05 * seed,
                        "val_accuracy": 1 - math.exp(-e / 3) - 0.01 * seed,
                        "lr": 0.05,
                    }
                    for e in epochs
                ]
            }
            if second:
                history["biased"] = [{"epoch": e, "loss": 1.5 / e, "lr": 0.01} for e in (1, 2)]
            data = f"data/clean/{place['dataset']}/train.npz"
            write_json(
                path,
                {
                    "run": {**place, "seed": seed},
                    "spec": {
                        "model": {"kind": place["model"]},
                        "training": {"epochs": 12, "lr": 0.05},
                        "defense": {"kind": place["defense"]},
                    },
                    "shape": list(shape),
                    "classes": labels,
                    "history": history,
                    "notes": {"premise": "held", "loss_p05": 0.012 + seed / 1000} if second else {},
                    "provenance": {
                        "commit": "0123456789abcdef0123456789abcdef01234567",
                        "versions": {"python": "3.11.15", "torch": "2.13.0", "timm": "1.0.28"},
                        "machine": {
                            "system": "Linux x86_64",
                            "processor": "2 x A processor with a long name @ 2.60GHz",
                            "threads": "1",
                            "gpu": "none",
                        },
                        "inputs": {"train": {"path": data, "sha256": f"{abs(hash_of(data)):064x}"[:64]}},
                    },
                },
            )
            self.runs.append(path)

    def kept(
        self, place: Mapping[str, str], attack: str, shape: tuple[int, int, int], labels: list[str]
    ) -> None:
        """Adversarial sets of every seed."""
        for seed in SEEDS:
            rng = np.random.default_rng(seed)
            x = rng.integers(0, 255, (24, *shape), dtype=np.uint8)
            y = np.arange(24) % len(labels)
            x_adv = np.clip(x / 255 + 0.2 * rng.choice([-1, 1], x.shape), 0, 1).astype(np.float32)
            path = (
                self.root
                / "data"
                / "adversarial"
                / "/".join(place.values())
                / f"seed{seed}"
                / f"{attack}.npz"
            )
            after = np.where(np.arange(24) % 3 == 0, y, (y + 1) % len(labels))
            arrays = {
                "x_adv": x_adv,
                "x": x,
                "y": y,
                "before": y,
                "after": after,
                "classes": np.array(labels),
            }
            write_npz(path, arrays, about={"attack": attack})
            self.adversarial.append(path)

    def claim(self, **values: Any) -> None:
        """A claim; what is not given is empty."""
        self.rows["claims"].append({**dict.fromkeys(COLUMNS["claims"].split(","), ""), **values})


def hash_of(text: str) -> int:
    """A number that depends on the text only."""
    return int.from_bytes((text * 8).encode()[:32], "big")


SIGNS = [
    f"Sign {n:02d}: right of way at the next intersection" if n % 9 == 0 else f"sign_{n:02d}"
    for n in range(43)
]


def make(
    root: Path,
    *,
    backdoor: bool = True,
    evasion: bool = True,
    signs: bool = False,
    models: Iterable[str] = ("cnn", "resnet_tiny"),
) -> Experiment:
    """A made-up experiment below a folder."""
    made = Experiment(root)
    if evasion:
        add_evasion(made, "digits", [str(n) for n in range(10)], models)
        add_claims(made, backdoor=backdoor)
        if "cnn" in models:
            add_properties(made.rows)
    if signs:
        add_evasion(made, "gtsrb", SIGNS, ("cnn",))
    if backdoor:
        add_backdoor(made)
    for add in (add_gates, add_checks, add_costs, add_ranks):
        add(made.rows)
    return made
