"""The card of a claim: its verdict in one cell with everything that the verdict rests on."""

import math

from deconfound.report.blocks import Block
from deconfound.report.gates import doubt, has_failed, said
from deconfound.report.inputs import Claim, Inputs
from deconfound.report.matrix import condition
from deconfound.report.names import DAGGER, VERDICTS
from deconfound.report.properties import over_seeds
from deconfound.report.words import (
    anchor,
    budget,
    count,
    interval,
    is_rate,
    label,
    margin,
    metric_label,
    number,
    setting_label,
    unit,
    value_unit,
)


def card(claim: Claim, name: str, inputs: Inputs, known: set[str]) -> Block:
    """One claim with everything its verdict rests on; name: its place in both renderings, known: groups with runs."""
    rate, control = is_rate(claim.metric), side(claim.control)
    where = [setting_label((claim.dataset, claim.poison, claim.model))] if claim.dataset else []
    if seeds := seeds_of(claim):
        where.append(count(seeds, "seed"))
    facts = [
        ("effect", effect(claim), interval(claim.low, claim.high, rate=rate, sign=bool(control))),
        ("needed", margin(claim), ""),
        ("control", control or "none: measured against a fixed bound", ""),
        ("measured", measured(claim, inputs), ""),
        ("published", claim.published, claim.published_source),
        ("gate", said(claim.gate), ""),
    ]
    marked = ("effect", "gate") if has_failed(claim.gate) else ()
    return {
        "id": claim.id,
        "anchor": name,
        "statement": claim.statement,
        "verdict": claim.verdict,
        "slug": slug(claim.verdict),
        "about": asked(claim),
        "where": ", ".join(where),
        "facts": [
            {"name": name, "text": words, "note": note}
            | ({"mark": DAGGER, "doubt": doubt(claim.gate)} if name in marked else {})
            for name, words, note in facts
            if words
        ],
        "small": small_print(claim),
        "evidence": evidence(claim, known),
        "values": {"effect": none(claim.effect), "low": none(claim.low), "high": none(claim.high)},
    }


def slug(verdict: str) -> str:
    """Short name of a verdict, by which both renderings choose its colour and its symbol."""
    return VERDICTS.get(verdict, ("notrun", ""))[0]


def evidence(claim: Claim, known: set[str]) -> list[Block]:
    """The groups of runs behind a verdict, with the place of those that the report holds."""
    groups = [group.strip() for group in claim.evidence.split(";") if group.strip()]
    return [{"text": group, "run": anchor(group) if group in known else ""} for group in groups]


def effect(claim: Claim) -> str:
    """The effect with its unit; empty when the claim was not run."""
    words = number(claim.effect, rate=is_rate(claim.metric), sign=bool(claim.control))
    return words + unit(claim) if claim.ran else ""


def asked(claim: Claim) -> str:
    """'robust accuracy under worst case (L∞ 0.2), TRADES against standard': what a claim is about."""
    under, control = attack_label(claim), side(claim.control)
    compared = label(claim.treatment) + (f" against {control}" if control else "")
    return metric_label(claim.metric) + (f" under {under}" if under else "") + f", {compared}"


def small_print(claim: Claim, *, note: bool = True) -> list[str]:
    """Which testable property a claim is, on which data it may be judged and, if asked, how its margin was chosen."""
    number = "" if math.isnan(claim.property) else f"Testable property {claim.property:g}"
    applies = f"Judged only on: {claim.applies}" if claim.applies else ""
    chosen = f"Margin: {claim.note}" if claim.note and note else ""
    return [words.strip().removesuffix(".") for words in (number, applies, chosen) if words]


def sides(control: str) -> tuple[str, str, str]:
    """Defense, poison and attack of 'standard on clean under pgd'; what is not said is empty."""
    place, _, attack = control.partition(" under ")
    defense, _, poison = place.partition(" on ")
    return defense, poison, attack


def side(control: str) -> str:
    """'standard' or, where it was trained on other data or attacked otherwise, 'standard on clean' as prose."""
    defense, poison, attack = sides(control)
    words = [label(name) for name in (defense, poison) if name]
    return ", ".join(words) + (f" under {label(attack)}" if attack else "")


def threat(claim: Claim) -> tuple[str, str, float]:
    """Attack, norm and eps of 'worst_case linf 0.2'; the trigger of the claim's own poison is no attack."""
    words = (claim.attack or "none").split()
    name = "none" if words[0] == claim.poison else words[0]
    return (name, words[1], float(words[2])) if len(words) == 3 else (name, "", 0.0)


def attack_label(claim: Claim) -> str:
    """'worst case (L∞ 0.2)'; empty without attack."""
    name, norm, eps = threat(claim)
    within = f" ({budget(norm, eps)})" if norm else ""
    return label(name) + within if name != "none" else ""


def none(value: float) -> float | None:
    """What is no finite number (not run, or one seed without an interval) as null, which JSON can hold."""
    return value if math.isfinite(value) else None


def seeds_of(claim: Claim) -> int:
    """Number of seeds of a claim; 0 when it was not run."""
    try:
        return int(float(claim.seeds or 0))
    except ValueError:
        return len(claim.seeds.replace(",", " ").replace(";", " ").split())


def measured(claim: Claim, inputs: Inputs) -> str:
    """The claim's metric for treatment and control, and the treatment's clean accuracy."""
    value, other, clean = sides_measured(claim, inputs)
    parts = []
    if value:
        parts.append(f"{metric_label(claim.metric)} {value}" + (f" (control {other})" if other else ""))
    if clean:
        parts.append(f"clean accuracy {clean}")
    return ", ".join(parts)


def sides_measured(claim: Claim, inputs: Inputs) -> tuple[str, str, str]:
    """The claim's metric for its treatment and for its control, and the treatment's clean accuracy where the claim is
    about something else; what was not measured is empty.
    """
    if not claim.ran:
        return "", "", ""
    attack, norm, eps = threat(claim)

    def find(defense: str, poison: str, metric: str, wanted: str) -> str:
        for row in inputs.summary:
            place = (row.dataset, row.poison, row.model, row.defense, row.metric, row.curve)
            same = place == (claim.dataset, poison, claim.model, defense, metric, "")
            near = not norm or wanted == "none" or (row.norm == norm and abs(row.eps - eps) < 1e-3)
            if same and near and condition(row)[1] == wanted:
                return (
                    number(row.value, rate=is_rate(metric))
                    + value_unit(metric)
                    + DAGGER * has_failed(row.gate)
                )
        return taken(metric, "/".join([claim.dataset, poison, claim.model, defense]), inputs)

    defense, other_poison, other_attack = sides(claim.control)
    value = find(claim.treatment, claim.poison, claim.metric, attack)
    other = find(defense, other_poison or claim.poison, claim.metric, other_attack or attack) if value else ""
    itself = claim.metric == "clean_accuracy"
    return value, other, "" if itself else find(claim.treatment, claim.poison, "clean_accuracy", "none")


def taken(metric: str, group: str, inputs: Inputs) -> str:
    """The mean of a measure over images and seeds, or over seeds; empty where it was not taken."""
    means = [
        row.value for row in inputs.properties if (row.group, row.measure, row.label) == (group, metric, "")
    ]
    found = means or [row.value for row in inputs.measures if (row.group, row.measure) == (group, metric)]
    words = str(over_seeds(found, rate=is_rate(metric))["text"]) if found else ""
    return words + value_unit(metric) if words else ""
