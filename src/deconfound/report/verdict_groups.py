"""Claims that were judged in many cells: each once, over a table with a line per cell."""

import math
from collections.abc import Sequence
from dataclasses import replace

from deconfound.report.blocks import Block
from deconfound.report.gates import doubt, has_failed, said
from deconfound.report.inputs import Claim, Inputs
from deconfound.report.names import DAGGER, VERDICTS
from deconfound.report.verdict_cards import (
    asked,
    attack_label,
    effect,
    evidence,
    none,
    seeds_of,
    side,
    sides_measured,
    slug,
    small_print,
    threat,
)
from deconfound.report.verdict_crowds import Group
from deconfound.report.words import count, interval, is_rate, label, margin, number, setting_label, unit

OPEN = 6  # lines that the HTML page shows without folding them


def cell_label(claim: Claim, among: Sequence[Claim]) -> str:
    """A cell by what tells it from the cells of other claims: 'BadNets' where dataset and model are always the same."""
    parts = [
        label(getattr(claim, name))
        for name in ("dataset", "poison", "model")
        if len({getattr(other, name) for other in among}) > 1
    ]
    return " · ".join(parts) or setting_label((claim.dataset, claim.poison, claim.model))


def by_threat(group: Group) -> bool:
    """Was the claim judged under several threat models?"""
    return len({threat(claim) for claim in group}) > 1


def tally(group: Group) -> list[Block]:
    """How often each verdict was given, with its short name."""
    given = [claim.verdict for claim in group]
    return [
        {"verdict": name, "slug": slug(name), "count": given.count(name)}
        for name in VERDICTS
        if name in given
    ]


def many_cells(group: Group, names: Sequence[str], inputs: Inputs, known: set[str]) -> Block:
    """A claim, what its verdicts have in common, and a line per cell; names: the lines' places in both renderings."""
    first, control = group[0], side(group[0].control)
    alike = replace(first, attack="") if by_threat(group) else first
    facts = [
        ("effects", spread(group), ""),
        ("needed", margin(first), ""),
        ("control", control or "none: measured against a fixed bound", ""),
        ("published", first.published, first.published_source),
    ]
    same = [name for name in ("dataset", "poison", "model") if len({getattr(c, name) for c in group}) == 1]
    where = [label(getattr(first, name)) for name in same if getattr(first, name) != "clean"]
    given = tally(group)
    words = ", ".join(f"{item['count']} {item['verdict']}" for item in given)
    return {
        "id": first.id,
        "statement": first.statement,
        "about": asked(alike),
        "where": " · ".join([*where, cells(group)]),
        "facts": [{"name": name, "text": text, "note": note} for name, text, note in facts if text],
        "small": small_print(first),
        "tally": given,
        "summary": f"{count(len(group), 'cell')}: {words}",
        "folded": len(group) > OPEN,
        "lines": [
            line(claim, group, inputs, known) | {"anchor": name}
            for claim, name in zip(group, names, strict=True)
        ],
    }


def cells(group: Group) -> str:
    """'15 cells', and how many seeds they have where that is the same in all."""
    seeds = {seeds_of(claim) for claim in group}
    alike = f", {count(seeds.pop(), 'seed')}" if len(seeds) == 1 and seeds != {0} else ""
    return count(len(group), "cell") + alike


def spread(group: Group) -> str:
    """The least and the greatest effect: '36.5 to 100.0 %'."""
    found = [claim.effect for claim in group if math.isfinite(claim.effect)]
    if not found:
        return ""
    rate, sign = is_rate(group[0].metric), bool(group[0].control)
    low, high = (number(value, rate=rate, sign=sign) for value in (min(found), max(found)))
    return (low if low == high else f"{low} to {high}") + unit(group[0])


def line(claim: Claim, group: Group, inputs: Inputs, known: set[str]) -> Block:
    """One cell of a claim: effect and interval, what was measured, the verdict, the gate, and the runs behind it."""
    value, other, clean = sides_measured(claim, inputs)
    beside = [f"control {other}" if other else "", f"clean accuracy {clean}" if clean else ""]
    place = [cell_label(claim, group)]
    if by_threat(group):
        several = len({(c.dataset, c.poison, c.model) for c in group}) > 1
        place = [*(place if several else []), attack_label(claim) or label("none")]
    rate, sign = is_rate(claim.metric), bool(claim.control)
    gate, premise = gate_and_premise(claim)
    mark = {"mark": DAGGER, "doubt": doubt(claim.gate)} if has_failed(claim.gate) else {}
    seeds = count(seeds_of(claim), "seed") if seeds_of(claim) else ""
    runs = [short_run(item, claim) for item in evidence(claim, known)]
    return {
        "place": {"text": " · ".join(place), "note": seeds},
        "effect": {
            "text": effect(claim) or "–",
            "note": interval(claim.low, claim.high, rate=rate, sign=sign),
            **mark,
        },
        "measured": {"text": value or "–", "note": ", ".join(words for words in beside if words)},
        "verdict": claim.verdict,
        "slug": slug(claim.verdict),
        "gate": {"text": gate or "–", "note": premise},
        "evidence": runs,
        "values": {"effect": none(claim.effect), "low": none(claim.low), "high": none(claim.high)},
    }


def gate_and_premise(claim: Claim) -> tuple[str, str]:
    """What the gate says, and 'premise works: 0 of 2 seeds'."""
    words = said(claim.gate).split("; ")
    premises = [part for part in words if part.startswith("premise ")]
    short = [part.replace(" held in ", ": ", 1).replace("_", " ") for part in premises]
    return "; ".join(part for part in words if part not in premises), "; ".join(short)


def short_run(item: Block, claim: Claim) -> Block:
    """A group of runs by its defense, with its poison where that is another than the claim's."""
    parts = str(item["text"]).split("/")
    if len(parts) != 4:
        return {**item, "group": item["text"]}
    poison = f", {label(parts[1])}" if parts[1] != claim.poison else ""
    return {"text": label(parts[3]) + poison, "run": item["run"], "group": item["text"]}
