"""The first section: every claim with its verdict, what it rests on, and how to read it."""

from collections.abc import Sequence

from deconfound.report.blocks import Block, figures, section, text
from deconfound.report.gates import doubt, has_failed, said
from deconfound.report.inputs import Claim, Inputs
from deconfound.report.matrix import condition
from deconfound.report.plotting import Figure
from deconfound.report.words import (
    DAGGER,
    VERDICTS,
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
)

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
        papers.setdefault(claim.paper, []).append(card(claim, inputs, known))
    blocks = [
        {"kind": "verdict_key", "items": meanings},
        {"kind": "claims", "papers": [{"paper": paper, "claims": cards} for paper, cards in papers.items()]},
        *figures(drawn, "verdicts"),
    ]
    if any(claim.published for claim in inputs.claims):
        blocks.append(
            text(
                "Published numbers stand beside the measured ones with their data set and model, "
                "for orientation: a different budget, data set or scale is never compared as equal."
            )
        )
    return [section("verdicts", "Verdicts", summary(inputs.claims), blocks)]


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
    compared = label(claim.treatment) + (f" against {control}" if control else "")
    under = attack_label(claim)
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
        "about": metric_label(claim.metric) + (f" under {under}" if under else "") + f", {compared}",
        "where": ", ".join(where),
        "facts": [
            {"name": name, "text": words, "note": note}
            | ({"mark": DAGGER, "doubt": doubt(claim.gate)} if name in marked else {})
            for name, words, note in facts
            if words
        ],
        "evidence": [{"text": group, "run": anchor(group) if group in known else ""} for group in groups],
        "values": {"effect": none(claim.effect), "low": none(claim.low), "high": none(claim.high)},
    }


def effect(claim: Claim) -> str:
    """The effect with its unit; empty when the claim was not run."""
    words = number(claim.effect, rate=is_rate(claim.metric), sign=bool(claim.control))
    return words + unit(claim) if claim.ran else ""


def side(text: str) -> str:
    """'standard' or, where it was trained on other data, 'standard on clean' as prose."""
    defense, _, poison = text.partition(" on ")
    return f"{label(defense)}, {label(poison)}" if poison else label(defense) if defense else ""


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
    """NaN as null, which JSON can hold."""
    return None if value != value else value


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
                unit_of = "\N{NO-BREAK SPACE}%" if is_rate(metric) else ""
                return number(row.value, rate=is_rate(metric)) + unit_of + DAGGER * has_failed(row.gate)
        return ""

    defense, _, other_poison = claim.control.partition(" on ")
    parts = []
    if value := find(claim.treatment, claim.poison, claim.metric, attack):
        parts.append(f"{metric_label(claim.metric)} {value}")
        if other := find(defense, other_poison or claim.poison, claim.metric, attack):
            parts[-1] += f" (control {other})"
    clean = find(claim.treatment, claim.poison, "clean_accuracy", "none")
    if clean and claim.metric != "clean_accuracy":
        parts.append(f"clean accuracy {clean}")
    return ", ".join(parts) if claim.ran else ""
