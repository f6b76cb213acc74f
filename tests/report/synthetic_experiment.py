"""A whole experiment made up: the tables, run records and images that the report reads."""

import csv
import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from deconfound.storage import write_json, write_npz

SEEDS = (0, 1, 2)
EVASION = {"standard": 0.05, "adversarial_training": 0.72, "trades": 0.69}
BACKDOOR = {"standard": (0.93, 0.99), "cbd": (0.91, 0.04), "cbd_shuffled": (0.90, 0.97)}
ATTACKS = {
    "fgsm": ("linf", 0.2, 1.15),
    "pgd": ("linf", 0.2, 1.0),
    "pgd_margin": ("linf", 0.2, 0.97),
    "pgd_l2": ("l2", 1.5, 1.1),
    "worst_case": ("linf", 0.2, 0.94),
}
GRID = (0.0, 0.05, 0.1, 0.15, 0.2, 0.3)
COLUMNS = {
    "results": "dataset,poison,model,defense,seed,attack,norm,eps,curve,metric,hits,total,value",
    "summary": "dataset,poison,model,defense,attack,norm,eps,curve,metric,value,low,high,total,seeds,gate",
    "differences": "dataset,poison,model,defense,control,attack,norm,eps,metric,effect,low,high,total,seeds",
    "per_class": "dataset,poison,model,defense,attack,norm,eps,metric,label,hits,total,value,low,high",
    "measures": "dataset,poison,model,defense,seed,measure,value",
    "claims": "id,paper,statement,dataset,poison,model,treatment,control,metric,attack,effect,low,high,"
    "margin,direction,published,published_source,verdict,gate,evidence,seeds",
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
        at = {"attack": "none", "norm": "", "eps": 0.0, "curve": False, **at}
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


def add_evasion(made: Experiment, dataset: str, labels: list[str], models: Iterable[str]) -> None:
    """Two models, three defenses, five attacks, a curve."""
    for model in models:
        for defense, robust in EVASION.items():
            place = {"dataset": dataset, "poison": "clean", "model": model, "defense": defense}
            made.rate(place, 0.96, "clean_accuracy")
            for attack, (norm, eps, easier) in ATTACKS.items():
                made.rate(place, robust * easier, "robust_accuracy", attack=attack, norm=norm, eps=eps)
            for eps in GRID:
                at = {"attack": "pgd", "norm": "linf", "eps": eps, "curve": True}
                made.rate(place, 0.96 - (0.96 - robust) * min(1, eps / 0.2), "robust_accuracy", **at)
            made.classes(place, labels, 0.98, "clean_accuracy")
            made.classes(place, labels, robust, "robust_accuracy", attack="worst_case")
            made.run(place, (1, 8, 8), labels, second=False)
            made.kept(place, "pgd", (1, 8, 8), labels)
    made.differences("adversarial_training", "standard")
    made.differences("trades", "standard")


def add_backdoor(made: Experiment) -> None:
    """A poisoned and a clean training set, a defense and its control."""
    labels = ["disc", "square", "triangle", "cross", "ring"]
    for poison in ("clean", "badnets"):
        for defense, (accuracy, asr) in BACKDOOR.items():
            place = {"dataset": "scenes", "poison": poison, "model": "cnn", "defense": defense}
            made.rate(place, accuracy, "clean_accuracy", 600)
            if poison == "badnets":
                made.rate(place, asr, "asr", 480, attack="badnets")
                made.rate(place, accuracy * (1 - asr), "triggered_accuracy", 480, attack="badnets")
                made.rate(place, accuracy - 0.03, "target_recall", 120)
                others = labels[:2] + labels[3:]  # the target class has no such rate
                made.classes(place, others, accuracy * (1 - asr), "triggered_accuracy", attack="badnets")
            made.classes(place, labels, accuracy, "clean_accuracy")
            made.run(place, (3, 16, 16), labels, second=defense != "standard")
            if defense != "standard":
                for seed in SEEDS:
                    for name, value in (("biased_auroc", 0.985 + seed / 1000), ("loss_p95", 1.25 + seed)):
                        made.rows["measures"].append({**place, "seed": seed, "measure": name, "value": value})
    made.differences("cbd", "cbd_shuffled")
    rng = np.random.default_rng(3)
    x, y = rng.integers(0, 255, (40, 3, 16, 16), dtype=np.uint8), np.arange(40) % 5
    stamped = x.copy()
    stamped[:, :, -3:, -3:] = 255
    test = made.root / "data" / "clean" / "scenes" / "test.npz"
    write_npz(test, {"x": x, "y": y, "classes": np.array(labels)}, about={})
    made.clean["scenes"] = test
    for seed in SEEDS:
        path = made.root / "data" / "poisoned" / "scenes" / "badnets" / f"seed{seed}.npz"
        arrays = {"test_x": stamped, "test_y": np.full(40, 2), "classes": np.array(labels)}
        write_npz(path, arrays, about={"rate": 0.1})
        made.poisoned.append(path)


def add_claims(made: Experiment, *, backdoor: bool) -> None:
    """A claim of every verdict."""
    digits = {
        "dataset": "digits",
        "poison": "clean",
        "model": "cnn",
        "treatment": "trades",
        "control": "standard",
    }
    robust = {
        **digits,
        "metric": "robust_accuracy",
        "attack": "worst_case linf 0.2",
        "direction": "above",
        "seeds": "3",
    }
    gate = {"gate": "not assessed", "evidence": "digits/clean/cnn/trades; digits/clean/cnn/standard"}
    made.claim(
        id="trades.robust",
        paper="TRADES (Zhang et al., ICML 2019)",
        statement="Regularised training raises worst-case robust accuracy by more than 30 points.",
        effect=0.6,
        low=0.57,
        high=0.632,
        margin=0.3,
        published="robust accuracy 56.61 % (CIFAR-10, WRN-34-10)",
        published_source="Table 5",
        verdict="supported",
        **robust,
        **gate,
    )
    made.claim(
        id="trades.large",
        paper="TRADES (Zhang et al., ICML 2019)",
        statement="Regularised training raises worst-case robust accuracy by more than 70 points.",
        effect=0.6,
        low=0.57,
        high=0.632,
        margin=0.7,
        verdict="contradicted",
        **robust,
        **gate,
    )
    made.claim(
        id="trades.beats_adversarial_training",
        paper="TRADES (Zhang et al., ICML 2019)",
        statement="Its divergence term is worth more than adversarial training.",
        effect=-0.011,
        low=-0.04,
        high=0.013,
        margin=0.0,
        verdict="inconclusive",
        **{**robust, "control": "adversarial_training"},
        **gate,
    )
    paper = {"paper": "CBD (Zhang et al., CVPR 2023)"}
    scenes = {
        "dataset": "scenes",
        "poison": "badnets",
        "model": "cnn",
        "treatment": "cbd",
        "control": "cbd_shuffled",
    }
    made.claim(
        id="cbd.clean_label",
        statement="The defense also removes clean-label backdoors.",
        treatment="cbd",
        control="cbd_shuffled",
        metric="asr",
        margin=-0.8,
        direction="below",
        verdict="not run at this scale",
        **paper,
    )
    if not backdoor:
        return
    evidence = "scenes/badnets/cnn/cbd; scenes/badnets/cnn/cbd_shuffled"
    held = {"gate": "premise held in 3 of 3 seeds", "evidence": evidence, "seeds": "3.0"}
    made.claim(
        id="cbd.asr",
        statement="Biased features lower the attack success rate by more than 50 points over shuffled ones.",
        metric="asr",
        attack="badnets",
        effect=-0.93,
        low=-0.951,
        high=-0.9,
        margin=-0.5,
        direction="below",
        published="ASR 1.06 %, clean accuracy 87.46 % (CIFAR-10, WRN-16-1)",
        published_source="Table 1, arXiv:2303.06818",
        verdict="supported",
        **paper,
        **scenes,
        **held,
    )
    made.claim(
        id="cbd.bound",
        statement="The attack success rate falls under 15 % & nothing < else breaks.",
        metric="asr",
        attack="badnets",
        effect=0.041,
        low=0.02,
        high=0.06,
        margin=0.15,
        direction="below",
        verdict="premise not met",
        **paper,
        **{**scenes, "control": ""},
        **{**held, "gate": "premise held in 1 of 3 seeds"},
    )


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
    if signs:
        add_evasion(made, "gtsrb", SIGNS, ("cnn",))
    if backdoor:
        add_backdoor(made)
    return made
