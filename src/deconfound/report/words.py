"""How the report says things: names of methods and metrics, and numbers as text."""

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from deconfound.report.inputs import Claim
from deconfound.report.names import (
    CASING,
    GREEK,
    HYPHENATED,
    MEASURES,
    METRICS,
    NATS,
    NORMS,
    PARTS,
    POINTS,
    RATED,
    SHARES,
    VARIANTS,
    WHOLE,
)


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
    known = METRICS[name][0] if name in METRICS else MEASURES.get(name) or left_behind(name)
    return f"{known}, own estimators" if frozen else known


def left_behind(measure: str) -> str:
    """'STRIP, AUROC' of `strip_auroc`: what a detector left, by the longest ending known; else the name as prose."""
    for part in sorted(PARTS, key=len, reverse=True):
        if measure.endswith(f"_{part}"):
            return f"{label(measure.removesuffix(f'_{part}'))}, {PARTS[part][0]}"
    return label(measure)


def is_rate(metric: str) -> bool:
    """Rates are shown in per cent and their differences in points; everything else as it is."""
    rates = ("_accuracy", "_recall", "_rate", "_asr", "_auc", "_auc_frozen")
    known = metric in METRICS or metric in SHARES or metric in RATED or in_points(metric)
    return known or (metric.endswith((*rates, *RATED)) and metric != "style_share")


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
    if metric == "training_cost":
        return " plain trainings"
    return " points" if in_points(metric) else "\N{NO-BREAK SPACE}%" if is_rate(metric) else ""


class Order:
    """Sorts names as the configuration lists them; unlisted names follow in alphabetical order.

    remarks: what the configuration says to readers about a poison.
    """

    def __init__(self, config: Mapping[str, Any]) -> None:
        self._rank = {
            kind: {name: place for place, name in enumerate(config.get(kind) or ())}
            for kind in ("datasets", "poisons", "models", "attacks", "defenses", "interpretations")
        }
        poisons = config.get("poisons") or {}
        blocks = poisons if isinstance(poisons, Mapping) else {}
        self.remarks = {name: str(block["remark"]) for name, block in blocks.items() if "remark" in block}

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
