"""What the papers say of a trained network, made up for the digits: means per image, and numbers per run."""

from typing import Any

SEEDS = (0, 1, 2)
DEFENSES = ("standard", "adversarial_training", "trades")
CLASSES = tuple(str(n) for n in range(10))
VALUES = {"style_kl": 0.25, "output_kl": 0.5, "theta_logp": 0.75, "theta_margin": 0.125}
NUMBERS = {
    "style_accuracy_clean": 0.875,
    "style_accuracy_adversarial": 0.5,
    "style_gap": 0.375,
    "style_shift": 1.25,
    "content_style_correlation": 0.0625,
    "basis_residual": 0.03125,
    "style_share": 0.4375,
    "class_spread": 0.125,
    "worst_class": 0.25,
    "bottom3": 0.3125,
    "top3": 0.8125,
    "theta_logp_rank": 0.75,
    "theta_margin_rank": 0.5,
    "theta_contrast_rank": -0.25,
    "natural_gap": 12.5,
    "natural_auc": 0.6875,
    "adversarial_gap": -2.5,
    "adversarial_auc": 0.5625,
    "logp_auc": 0.9375,
    "shuffled_natural_auc": 0.53125,
    "shuffled_adversarial_auc": 0.515625,
    "natural_profile": 0.0625,
    "adversarial_profile": 0.03125,
    "natural_auc_gain": -0.25,
    "adversarial_auc_gain": -0.375,
    "contrastive_natural_gain": 0.125,
    "contrastive_adversarial_gain": 0.0625,
    "mi_clean_minus_adversarial": 1.5,
    "mi_adversarial_minus_mixed": 0.75,
    "natural_gap_frozen": 6.5,
    "natural_auc_frozen": 0.625,
    "adversarial_gap_frozen": 5.5,
    "adversarial_auc_frozen": 0.59375,
    "natural_profile_frozen": 0.125,
    "adversarial_profile_frozen": 0.0625,
}


def theta(measure: str, defense: str, name: str) -> float:
    """A theta that is larger for later classes and for later defenses."""
    return VALUES[measure] * (1 + int(name)) / 4 * (1 + DEFENSES.index(defense)) / 2


def add_properties(rows: dict[str, list[dict[str, Any]]]) -> None:
    """Every measure of the CNN on digits; seed 1 has the number itself, the others lie a 64th on either side."""
    for defense in DEFENSES:
        place = {"dataset": "digits", "poison": "clean", "model": "cnn", "defense": defense}
        for measure, value in VALUES.items():
            for name in CLASSES:
                found = theta(measure, defense, name)
                rows["properties"].append(line(place, measure, name, found, 36))
            rows["properties"].append(line(place, measure, "", value, 360))
        for seed in SEEDS:
            for measure, value in NUMBERS.items():
                row = {**place, "seed": seed, "measure": measure, "value": value + (seed - 1) / 64}
                rows["measures"].append(row)


def line(place: dict[str, str], measure: str, name: str, value: float, total: int) -> dict[str, Any]:
    """A mean with an interval of an eighth on either side."""
    bounds = {"value": value, "low": value - 0.125, "high": value + 0.125}
    return {**place, "measure": measure, "label": name, **bounds, "total": total, "seeds": len(SEEDS)}
