"""The studies and claims of a made-up experiment."""

from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np

from deconfound.storage import write_npz

if TYPE_CHECKING:
    from synthetic_experiment import Experiment

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
STEPS = (1, 2, 5, 10, 20, 50, 100)


def add_evasion(made: "Experiment", dataset: str, labels: list[str], models: Iterable[str]) -> None:
    """Two models, three defenses, five attacks, a curve."""
    for model in models:
        for defense, robust in EVASION.items():
            place = {"dataset": dataset, "poison": "clean", "model": model, "defense": defense}
            made.rate(place, 0.96, "clean_accuracy")
            for attack, (norm, eps, easier) in ATTACKS.items():
                made.rate(place, robust * easier, "robust_accuracy", attack=attack, norm=norm, eps=eps)
            for eps in GRID:
                at = {"attack": "pgd", "norm": "linf", "eps": eps, "curve": "eps"}
                made.rate(place, 0.96 - (0.96 - robust) * min(1, eps / 0.2), "robust_accuracy", **at)
            for steps in STEPS:
                at = {"attack": "pgd", "norm": "linf", "eps": 0.2, "curve": "steps", "steps": steps}
                made.rate(place, robust + (0.9 - robust) / steps, "robust_accuracy", **at)
            made.classes(place, labels, 0.98, "clean_accuracy")
            worst = {"attack": "worst_case", "norm": "linf", "eps": 0.2}
            made.classes(place, labels, robust, "robust_accuracy", **worst)
            made.run(place, (1, 8, 8), labels, second=False)
            made.kept(place, "pgd", (1, 8, 8), labels)
    made.differences("adversarial_training", "standard")
    made.differences("trades", "standard")


def add_backdoor(made: "Experiment") -> None:
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


def add_claims(made: "Experiment", *, backdoor: bool) -> None:
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
        property=3,
        applies="Digits, whose classes have enough images.",
        note="Half of the published gain.",
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
    made.claim(
        id="trades.no_masking",
        paper="TRADES (Zhang et al., ICML 2019)",
        statement="Its robustness is worth more than 40 points.",
        effect=0.6,
        low=0.57,
        high=0.632,
        margin=0.4,
        verdict="gate not passed",
        **robust,
        **{**gate, "gate": "failed (trades failed in 2 of 3 seeds: black box, more steps)"},
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
        published="ASR 5.61 % (CIFAR-10)",
        published_source="Table 2",
        property=7,
        note="What the paper reports.",
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
