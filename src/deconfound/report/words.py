"""How the report says things: names of methods and metrics, and numbers as text."""

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from deconfound.report.inputs import Claim

CAPITALS = (
    "abl adml apgd asr auc auroc awp bim cbd cnn cw ddn dlr eot erm fab fgsm gtsrb help kl l1 l2 mart mi mim mnist"
    " namid pgd sig svhn trades wmim"
)
CASING = {
    **{word: word.upper() for word in CAPITALS.split()},
    "autoattack": "AutoAttack",
    "badnets": "BadNets",
    "causaladv": "CausalAdv",
    "cifar10": "CIFAR-10",
    "cifar100": "CIFAR-100",
    "deepfool": "DeepFool",
    "linf": "L∞",
    "resnet": "ResNet",
    "square": "Square",
    "wasserstein": "Wasserstein",
}
HYPHENATED = {
    "apgd_cross_entropy": "APGD-CE",
    "apgd_dlr": "APGD-DLR",
    "apgd_targeted": "APGD-T",
    "causaladv_m": "CausalAdv-M",
    "causaladv_t": "CausalAdv-T",
    "fab_targeted": "FAB-T",
    "namid_m": "NAMID-M",
    "namid_t": "NAMID-T",
    "ti_dim": "TI-DIM",
}
WHOLE = {
    "do_style": "do(style)",
    "none": "no attack",
    "worst_case": "worst case",
    "clean": "not poisoned",
    "pgd_margin": "PGD on the margin",
}
VARIANTS: Mapping[str, Mapping[str, str]] = {
    "CausalAdv": {
        "random": "random basis",
        "identity": "identity as basis",
        "reshuffled": "reshuffled basis",
        "sequential": "basis one by one",
        "detached": "detached target",
        "ramped": "ramped attack weights",
        "linear": "linear head",
        "isotropic": "isotropic covariance",
        "natural": "with clean cross-entropy",
    },
    "ADML": {
        "continued": "further training only",
        "clean": "without causal term",
        "without clean": "without clean loss",
        "nosplit": "without split",
        "true": "part of the true class",
        "fooled": "part of the fooled class",
        "mean d2": "mean over the half",
        "contrast": "contrast form",
        "trades": "on TRADES",
        "mart": "on MART",
        "awp": "on AWP",
        "help": "on HELP",
    },
    "NAMID": {
        "random": "untrained estimators",
        "shuffled": "shuffled patterns",
        "no natural": "without natural part",
        "no adversarial": "without adversarial part",
        "eq5": "estimators of Eq. 5",
        "max only": "maximised estimators",
    },
}
GREEK = {"alpha": "α", "beta": "β", "lambda": "λ", "tau": "τ"}
NORMS = {"linf": "L∞", "l2": "L2", "l1": "L1", "wasserstein": "Wasserstein"}
DAGGER = "†"
METRICS: Mapping[str, tuple[str, str]] = {
    "clean_accuracy": ("clean accuracy", "untouched test images classified right"),
    "robust_accuracy": ("robust accuracy", "test images that stay right under an attack within its budget"),
    "asr": (
        "attack success rate",
        "triggered images, not of the target class, classified as the target (a defense wants it low)",
    ),
    "triggered_accuracy": ("triggered accuracy", "triggered images still given their true class"),
    "target_recall": (
        "target recall",
        "untouched images of the target class recognised (a defense that refuses the class loses it)",
    ),
}
MEASURES: Mapping[str, str] = {
    "style_kl": "style KL",
    "output_kl": "output KL",
    "style_accuracy_clean": "style accuracy, clean",
    "style_accuracy_adversarial": "style accuracy, attacked",
    "theta_logp": "θ, log-probability",
    "theta_margin": "θ, margin",
    "theta_logp_rank": "order of θ, log-probability",
    "theta_margin_rank": "order of θ, margin",
    "theta_contrast_rank": "order of θ, contrast",
    "bottom3": "three worst classes",
    "top3": "three best classes",
    "logp_auc": "AUC, log-probability",
    "natural_auc": "AUC, natural",
    "adversarial_auc": "AUC, adversarial",
    "natural_auc_gain": "AUC gain, natural",
    "adversarial_auc_gain": "AUC gain, adversarial",
    "shuffled_natural_auc": "AUC, natural, shuffled",
    "shuffled_adversarial_auc": "AUC, adversarial, shuffled",
    "contrastive_natural_gain": "contrastive gain, natural",
    "contrastive_adversarial_gain": "contrastive gain, adversarial",
    "mi_clean_minus_adversarial": "clean minus attacked",
    "mi_adversarial_minus_mixed": "attacked minus mixed",
}
NATS = ("style_kl", "output_kl", "theta_logp")
SHARES = (
    "class_spread",
    "worst_class",
    "bottom3",
    "top3",
    "style_accuracy_clean",
    "style_accuracy_adversarial",
)
POINTS = ("style_gap", "robust_overfitting")  # differences of rates, like every `_gain`
VERDICTS: Mapping[str, tuple[str, str]] = {
    "supported": ("supported", "the whole interval lies beyond the margin"),
    "contradicted": ("contradicted", "the whole interval falls short of the margin"),
    "inconclusive": ("inconclusive", "the interval contains the margin, so these data cannot decide"),
    "premise not met": (
        "premise",
        "what the method presupposes did not hold here, so the claim was not tested",
    ),
    "gate not passed": (
        "gate",
        "the trust gate failed for one of the sides, so the number can neither support nor refute anything",
    ),
    "not run at this scale": ("notrun", "this experiment has no cell for the claim"),
}


def label(name: str) -> str:
    """A name of the configuration as prose: `cbd_shuffled` is 'CBD shuffled', `apgd_targeted_l2` 'APGD-T L2', and
    `causaladv_m_random` 'CausalAdv-M, random basis'.
    """
    if name in WHOLE:
        return WHOLE[name]
    for words, short in HYPHENATED.items():
        name = re.sub(rf"(?:^|(?<=_)){words}(?=_|$)", short, name)
    method, *rest = name.split("_")
    method = CASING.get(method, method)
    known = VARIANTS.get(re.sub("-[MT]$", "", method))
    if known is not None and rest:
        return variant(method, rest, known)
    return " ".join([method, *(CASING.get(word, word) for word in rest)])


def variant(method: str, rest: Sequence[str], known: Mapping[str, str]) -> str:
    """A variant of a method as prose: what is known of it (two words before one), the rest word by word."""
    parts, words = "", list(rest)
    while words:
        size = 2 if " ".join(words[:2]) in known else 1
        name, words = " ".join(words[:size]), words[size:]
        said = known.get(name) or setting(name)
        comma = "," if said and not said.startswith("on ") else ""
        parts += f"{comma} {said or CASING.get(name, name)}"
    return method + parts


def setting(word: str) -> str:
    """'α = 0.25' of `alpha025`: a zero in front stands for the decimal point; empty for every other word."""
    found = re.fullmatch(rf"({'|'.join(GREEK)})(\d+)", word)
    if found is None:
        return ""
    digits = found[2]
    value = f"0.{digits[1:]}" if digits[0] == "0" and digits[1:] else digits
    return f"{GREEK[found[1]]} = {value}"


def metric_label(metric: str) -> str:
    """A metric or a measure as prose."""
    name, frozen, _ = metric.partition("_frozen")
    known = METRICS[name][0] if name in METRICS else MEASURES.get(name) or label(name)
    return f"{known}, own estimators" if frozen else known


def is_rate(metric: str) -> bool:
    """Rates are shown in per cent and their differences in points; everything else as it is."""
    rates = ("_accuracy", "_recall", "_rate", "_auc", "_auc_frozen")
    return metric in METRICS or metric in SHARES or metric.endswith(rates) or in_points(metric)


def in_points(metric: str) -> bool:
    """Is the metric itself a difference of rates?"""
    return metric in POINTS or metric.endswith("_gain")


def number(value: float, *, rate: bool = True, sign: bool = False) -> str:
    """A fraction in per cent with one decimal; anything else with four decimals below 1, else three digits."""
    if math.isnan(value):
        return "–"
    form = ".1f" if rate else ".4f" if 1e-3 <= abs(value) < 1 else ".3g"
    text = f"{value * 100 if rate else value:{'+' if sign else ''}{form}}"
    if float(text) == 0:
        text = text.lstrip("+-")
    return text.replace("-", "−")


def interval(low: float, high: float, *, rate: bool = True, sign: bool = False) -> str:
    """'66.0 to 76.1'; empty when there is none, and in words when one seed leaves it unbounded."""
    if math.isnan(low) or math.isnan(high):
        return ""
    if math.isinf(low) or math.isinf(high):
        return "no bounds from one seed"
    return f"{number(low, rate=rate, sign=sign)} to {number(high, rate=rate, sign=sign)}"


def radius(eps: float) -> str:
    """A budget as people write it: 0.2, or 8/255 when it is a whole number of grey levels."""
    short = f"{eps:g}"
    levels = eps * 255
    if len(short) > 5 and abs(levels - round(levels)) < 1e-4 and round(levels) > 0:
        return f"{round(levels)}/255"
    return f"{eps:.4g}"


def budget(norm: str, eps: float) -> str:
    """'L∞ 0.2'; empty when an attack has no single budget."""
    return f"{NORMS.get(norm, norm)}\N{NO-BREAK SPACE}{radius(eps)}" if norm and eps == eps else ""


def amount(value: float) -> str:
    """A mean of counts: '1 234' with narrow spaces, with one decimal only where it is small and not whole."""
    short = f"{value:,.1f}" if value < 100 and value != round(value) else f"{value:,.0f}"
    return short.replace(",", "\N{NARROW NO-BREAK SPACE}")


def ranks(low: int, high: int) -> str:
    """'rank 1–2', 'rank 1'; empty where nothing is ranked."""
    if not low:
        return ""
    return f"rank\N{NO-BREAK SPACE}{low}" + (f"–{high}" if high != low else "")


def count(number: int, noun: str) -> str:
    """'1 seed', '3 seeds'."""
    return f"{number} {noun}" + ("" if number == 1 else "s")


def listing(words: Iterable[str]) -> str:
    """'a, b and c'."""
    items = list(words)
    return items[0] if len(items) == 1 else f"{', '.join(items[:-1])} and {items[-1]}" if items else ""


def setting_label(setting: tuple[str, str, str]) -> str:
    """(dataset, poison, model) as prose."""
    dataset, poison, model = setting
    return " · ".join([label(dataset), *([label(poison)] if poison != "clean" else []), label(model)])


def anchor(group: str) -> str:
    """The place of a group of runs in both renderings."""
    return "run-" + "".join(letter if letter.isalnum() or letter == "_" else "-" for letter in group)


def margin(claim: Claim) -> str:
    """What the claim demands: 'above +30.0 points'."""
    rate = is_rate(claim.metric)
    if math.isnan(claim.margin):
        return ""
    signed = "+" if claim.control else ""
    plain = f"{claim.margin:{signed}g}".replace("-", "−") if claim.margin else "0"
    text = number(claim.margin, sign=bool(claim.control)) if rate else plain
    return f"{claim.direction} {text}{unit(claim)}"


def unit(claim: Claim) -> str:
    """Unit of a claim's effect, with its leading space: points for a difference of rates."""
    return " points" if claim.control and is_rate(claim.metric) else value_unit(claim.metric)


def value_unit(metric: str) -> str:
    """Unit of a value of a metric, with its leading space; empty where it has none."""
    if metric in NATS:
        return " nats"
    return " points" if in_points(metric) else "\N{NO-BREAK SPACE}%" if is_rate(metric) else ""


class Order:
    """Sorts names as the configuration lists them; unlisted names follow in alphabetical order."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        self._rank = {
            kind: {name: place for place, name in enumerate(config.get(kind) or ())}
            for kind in ("datasets", "poisons", "models", "attacks", "defenses")
        }

    def key(self, kind: str, name: str) -> tuple[int, int, str]:
        """Sort key of a name of a kind such as `attacks`."""
        first = {"none": 0, "standard": 0, "clean": 0, "worst_case": 2}.get(name, 1)
        ranks = self._rank[kind]
        return first, ranks.get(name, len(ranks)), name

    def cell(self, setting: tuple[str, str, str], defense: str = "") -> tuple[Any, ...]:
        """Sort key of a place in the experiment: (dataset, poison, model) and a defense."""
        dataset, poison, model = setting
        return (
            self.key("datasets", dataset),
            self.key("poisons", poison),
            self.key("models", model),
            self.key("defenses", defense),
        )
