"""The first section: every claim with its verdict, what it rests on, and how to read it.

A claim that was judged in a few cells has a card for each. In a crowd it stands once, over a table with a line per
cell, and a map above them all shows which claim got which verdict where.
"""

from collections.abc import Sequence

from deconfound.report.blocks import Block, column, figures, section, table, text
from deconfound.report.inputs import Claim, Inputs
from deconfound.report.names import VERDICTS
from deconfound.report.plotting import Figure
from deconfound.report.verdict_cards import asked, card, small_print
from deconfound.report.verdict_crowds import NOT_RUN, gathered, is_crowd, placed
from deconfound.report.verdict_groups import many_cells
from deconfound.report.verdict_map import maps
from deconfound.report.words import count, listing, margin

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
    judged = gathered(inputs.claims)
    anchors = placed(judged)
    papers: dict[str, list[Block]] = {}
    for group, names in zip(judged, anchors, strict=True):
        cards = papers.setdefault(group[0].paper, [])
        if is_crowd(group):
            cards.append(many_cells(group, names, inputs, known))
        else:
            cards += [card(claim, name, inputs, known) for claim, name in zip(group, names, strict=True)]
    blocks = [
        {"kind": "verdict_key", "items": meanings},
        *overview(inputs.claims),
        *maps(judged, anchors),
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
        absent = [claim for claim in claims if claim.verdict == NOT_RUN and not claim.dataset]
        mine = [claim for claim in absent if claim.paper == paper]
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
