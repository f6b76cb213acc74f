"""The map of verdicts: a row per claim, a column per cell of the experiment, a symbol per verdict."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from deconfound.report.blocks import Block
from deconfound.report.inputs import Claim
from deconfound.report.names import DAGGER, VERDICTS
from deconfound.report.plotting import part_of, parts
from deconfound.report.verdict_cards import attack_label, effect, slug, threat
from deconfound.report.verdict_crowds import Group, is_crowd
from deconfound.report.verdict_groups import by_threat, cell_label
from deconfound.report.words import label

COLUMNS = 24  # cells that a page holds side by side
TITLE = "Which claim got which verdict where"
SIGNS: Mapping[str, str] = {
    "supported": "✓",
    "contradicted": "✕",
    "inconclusive": "≈",
    "premise": "△",
    "gate": DAGGER,
    "notrun": "○",
}
Place = tuple[str, str, str]


def maps(groups: Sequence[Group], anchors: Sequence[Sequence[str]]) -> list[Block]:
    """The map of all verdicts, in parts where a page does not hold its columns; nothing where no claim is in a crowd.

    anchors: the place of every verdict in both renderings, group by group.
    """
    if not any(map(is_crowd, groups)):
        return []
    judged = [claim for group in groups for claim in group]
    columns: dict[Place, str] = {}
    for claim in sorted(judged, key=by_setting):
        columns.setdefault(place(claim), cell_label(claim, judged))
    shown = {claim.verdict for claim in judged}
    legend = [
        {"verdict": name, "slug": short, "sign": SIGNS[short]}
        for name, (short, _) in VERDICTS.items()
        if name in shown
    ]
    split = parts(list(columns), COLUMNS)
    return [
        {
            "kind": "verdict_map",
            "caption": TITLE + part_of(number, len(split)),
            "legend": legend,
            "columns": [columns[at] for at in part],
            "rows": rows(groups, anchors, part),
        }
        for number, part in enumerate(split)
    ]


def place(claim: Claim) -> Place:
    """The cell in which a claim was judged."""
    return claim.dataset, claim.poison, claim.model


def by_setting(claim: Claim) -> tuple[Any, ...]:
    """Sort key of columns: by dataset, model and the poison's name as it is read; what is not poisoned comes first."""
    return claim.dataset, claim.model, claim.poison != "clean", label(claim.poison).lower()


def rows(groups: Sequence[Group], anchors: Sequence[Sequence[str]], columns: Sequence[Place]) -> list[Block]:
    """A row per claim, or per threat model of a claim that was judged under several."""
    papers = list(dict.fromkeys(group[0].paper for group in groups))
    made = []
    for group, names in zip(groups, anchors, strict=True):
        first, several = group[0], by_threat(group)
        prefix = shared_prefix([other[0].id for other in groups if other[0].paper == first.paper])
        for at in dict.fromkeys(map(threat, group)):
            mine = [(claim, name) for claim, name in zip(group, names, strict=True) if threat(claim) == at]
            marks = [
                [symbol(claim, name) for claim, name in mine if place(claim) == column] for column in columns
            ]
            made.append(
                {
                    "text": first.id.removeprefix(prefix),
                    "id": first.id,
                    "paper": first.paper if papers[1:] else "",
                    "statement": first.statement,
                    "threat": (attack_label(mine[0][0]) or label("none")) if several else "",
                    "anchor": mine[0][1],
                    "cells": marks,
                }
            )
    return made


def symbol(claim: Claim, anchor: str) -> Block:
    """A verdict as a symbol, with its words for those who point at it or hear it."""
    cell = cell_label(claim, [claim])
    words = f"{cell}: {claim.verdict}" + (f", {effect(claim)}" if claim.ran else "")
    short = slug(claim.verdict)
    return {"sign": SIGNS[short], "slug": short, "verdict": claim.verdict, "title": words, "anchor": anchor}


def shared_prefix(ids: Sequence[str]) -> str:
    """'cbd-' of cbd-h1-attack-works and cbd-h2-auroc: the first word, where all of several claims begin with it."""
    words = [re.match(r"[^-._]+[-._]", name) for name in ids]
    found = {word[0] if word else "" for word in words}
    return found.pop() if len(found) == 1 and len(set(ids)) > 1 else ""
