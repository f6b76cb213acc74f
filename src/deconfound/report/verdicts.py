"""The first section: every claim with its verdict, what it rests on, and how to read it."""

import math
from collections.abc import Sequence

from deconfound.report.blocks import Block, column, figures, section, table, text
from deconfound.report.gates import doubt, has_failed, said
from deconfound.report.inputs import Claim, Inputs
from deconfound.report.matrix import condition
from deconfound.report.names import DAGGER, VERDICTS
from deconfound.report.plotting import Figure
from deconfound.report.properties import over_seeds
from deconfound.report.words import (
    anchor,
    budget,
    count,
    interval,
    is_rate,
    label,
    listing,
    margin,
    metric_label,
    number,
    setting_label,
    unit,
    value_unit,
)

NOT_RUN = "not run at this scale"
SENTENCES = {
    "premise not met": ("has its premise not met", "have their premise not met"),
    "gate not passed": ("did not pass the trust gate", "did not pass the trust gate"),
    "not run at this scale": ("was not run at this scale", "were not run at this scale"),
}


def verdicts(inputs: Inputs, drawn: Sequence[Figure]) -> list[Block]:
    """The section of verdicts, or nothing when the experiment makes no claim."""
    if not inputs.claims:
        return []
    known = {run.group for run in inputs.runs} | {row.group for row in inputs.results}
    tally = {name: sum(claim.verdict == name for claim in inputs.claims) for name in VERDICTS}
    meanings = [
        {"verdict": name, "slug": slug, "count": tally[name], "meaning": meaning}
        for name, (slug, meaning) in VERDICTS.items()
        if tally[name]
    ]
    papers: dict[str, list[Block]] = {}
    for claim in inputs.claims:
        if claim.verdict != NOT_RUN:
            papers.setdefault(claim.paper, []).append(card(claim, inputs, known))
    blocks = [
        {"kind": "verdict_key", "items": meanings},
        *overview(inputs.claims),
        {"kind": "claims", "papers": [{"paper": paper, "claims": cards} for paper, cards in papers.items()]},
        *figures(drawn, "verdicts"),
        *not_run(inputs.claims),
    ]
    if any(claim.published for claim in inputs.claims):
        blocks.append(
            text(
                "Published numbers stand beside the measured ones with their data set and model, "
                "for orientation: a different budget, data set or scale is never compared as equal."
            )
        )
    return [section("verdicts", "Verdicts", summary(inputs.claims), blocks)]


def overview(claims: Sequence[Claim]) -> list[Block]:
    """A row per paper and a column per verdict that was given: how many claims."""
    given = [name for name in VERDICTS if any(claim.verdict == name for claim in claims)]
    body: list[list[Block]] = []
    for paper in dict.fromkeys(claim.paper for claim in claims):
        mine = [claim.verdict for claim in claims if claim.paper == paper]
        counts = [*(mine.count(name) for name in given), len(mine)]
        body.append([{"text": paper}, *({"text": str(number), "value": number} for number in counts)])
    heads = [column("paper"), *(column(name) for name in given), column("all")]
    return table("Claims of each paper, by verdict", heads, body)


def not_run(claims: Sequence[Claim]) -> list[Block]:
    """A line per claim that this experiment has no cell for, in a folded table per paper."""
    blocks = []
    for paper in dict.fromkeys(claim.paper for claim in claims):
        mine = [claim for claim in claims if (claim.paper, claim.verdict) == (paper, NOT_RUN)]
        rows = []
        for claim in mine:
            remarks = " · ".join([claim.id, *small_print(claim, note=False)])
            needed = f"needed: {margin(claim)}"
            published = {
                "text": claim.published or "–",
                "note": claim.published_source if claim.published else "",
            }
            rows.append(
                [
                    {"text": claim.statement, "note": remarks},
                    {"text": asked(claim), "note": needed},
                    published,
                ]
            )
        heads = [column("claim"), column("asks for", prose=True), column("published", prose=True)]
        if rows:
            folded = f"{paper}: {count(len(rows), 'claim')} {NOT_RUN}"
            blocks += table(f"{paper}: {NOT_RUN}", heads, rows, folded=folded)
    return blocks


def summary(claims: Sequence[Claim]) -> str:
    """'Of 5 claims, 2 are supported, 1 is contradicted and 2 are inconclusive.'"""
    parts = []
    for name in VERDICTS:
        if found := sum(claim.verdict == name for claim in claims):
            one, several = SENTENCES.get(name, (f"is {name}", f"are {name}"))
            parts.append(f"{found} {one if found == 1 else several}")
    return f"Of {count(len(claims), 'claim')}, {listing(parts)}."


def card(claim: Claim, inputs: Inputs, known: set[str]) -> Block:
    """One claim with everything its verdict rests on."""
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
    groups = [group.strip() for group in claim.evidence.split(";") if group.strip()]
    return {
        "id": claim.id,
        "statement": claim.statement,
        "verdict": claim.verdict,
        "slug": VERDICTS.get(claim.verdict, ("notrun", ""))[0],
        "about": asked(claim),
        "where": ", ".join(where),
        "facts": [
            {"name": name, "text": words, "note": note}
            | ({"mark": DAGGER, "doubt": doubt(claim.gate)} if name in marked else {})
            for name, words, note in facts
            if words
        ],
        "small": small_print(claim),
        "evidence": [{"text": group, "run": anchor(group) if group in known else ""} for group in groups],
        "values": {"effect": none(claim.effect), "low": none(claim.low), "high": none(claim.high)},
    }


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
    parts = []
    if value := find(claim.treatment, claim.poison, claim.metric, attack):
        parts.append(f"{metric_label(claim.metric)} {value}")
        if other := find(defense, other_poison or claim.poison, claim.metric, other_attack or attack):
            parts[-1] += f" (control {other})"
    clean = find(claim.treatment, claim.poison, "clean_accuracy", "none")
    if clean and claim.metric != "clean_accuracy":
        parts.append(f"clean accuracy {clean}")
    return ", ".join(parts) if claim.ran else ""


def taken(metric: str, group: str, inputs: Inputs) -> str:
    """The mean of a measure over images and seeds, or over seeds; empty where it was not taken."""
    means = [
        row.value for row in inputs.properties if (row.group, row.measure, row.label) == (group, metric, "")
    ]
    found = means or [row.value for row in inputs.measures if (row.group, row.measure) == (group, metric)]
    words = str(over_seeds(found, rate=is_rate(metric))["text"]) if found else ""
    return words + value_unit(metric) if words else ""
