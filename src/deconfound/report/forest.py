"""The figure of verdicts: effect, interval and margin of every claim that was run."""

import math
from collections.abc import Sequence
from typing import Any

import seaborn as sns
from matplotlib.lines import Line2D

from deconfound.report.inputs import Claim
from deconfound.report.names import VERDICTS
from deconfound.report.plotting import (
    GRID,
    INK,
    VERDICT_COLOURS,
    Figure,
    canvas,
    legend,
    legend_height,
    parts,
    save,
    shorten,
)
from deconfound.report.verdict_crowds import Group, gathered, is_crowd
from deconfound.report.words import count, is_rate, label

ROWS = 20  # claims that a figure holds, so that it fits a sheet
CLOSE = 0.17  # rows between the lines of one claim
MOST = 60  # lines of one claim that stand together
TITLE = "Effects and margins"
SEVERAL = (
    " A claim that was judged in many cells has a bar per cell whose interval has ends, from the least effect to the "
    "greatest; a bar may run out of the figure beyond 100 points."
)
MARKERS = {
    "supported": "o",
    "contradicted": "X",
    "inconclusive": "s",
    "premise not met": "^",
    "gate not passed": "P",
}


def forests(claims: Sequence[Claim]) -> list[Figure]:
    """Effect, interval and margin of every claim that was run, whose metric is a rate and whose interval has ends: in
    one figure where they fit, else in figures per paper. The cells of a claim that was judged in many stand close
    together, from the least effect to the greatest.
    """
    shown = [claim for claim in claims if claim.ran and is_rate(claim.metric)]
    shown = [claim for claim in shown if math.isfinite(claim.low) and math.isfinite(claim.high)]
    bands = banded(shown)
    if sum(map(rows, bands)) <= ROWS:
        return [forest(bands, "verdicts", TITLE)] if bands else []
    made: list[Figure] = []
    for paper in dict.fromkeys(claim.paper for claim in shown):
        pages = sheets([band for band in bands if band[0].paper == paper])
        for part, page in enumerate(pages, 1):
            title = f"{TITLE}: {paper}" + (f" (part {part} of {len(pages)})" if pages[1:] else "")
            made.append(forest(page, f"verdicts-{len(made) + 1}", title))
    return made


def banded(claims: Sequence[Claim]) -> list[Group]:
    """What stands together: the cells of a claim that was judged in many, by their effect, or one verdict alone."""
    bands: list[Group] = []
    for group in gathered(claims):
        if is_crowd(group):
            bands += parts(sorted(group, key=lambda claim: claim.effect), MOST)
        else:
            bands += [[claim] for claim in group]
    return bands


def rows(band: Group) -> float:
    """Rows that the lines of a band take."""
    return 1 + CLOSE * (len(band) - 1)


def sheets(bands: Sequence[Group]) -> list[Sequence[Group]]:
    """Bands in as few figures as hold ROWS each, about as full as one another."""
    fewest = math.ceil(sum(map(rows, bands)) / ROWS - 1e-9)
    for number in range(fewest, len(bands) + 1):
        made: list[list[Group]] = [[]]
        even = sum(map(rows, bands)) / number
        for band in bands:
            held = sum(map(rows, made[-1]))
            full = held + rows(band) > ROWS + 1e-9 or held + rows(band) / 2 > even
            if made[-1] and full and len(made) < number:
                made.append([])
            made[-1].append(band)
        if all(sum(map(rows, page)) <= ROWS + 1e-9 for page in made):
            return list(made)
    return [[band] for band in bands]


def forest(bands: Sequence[Group], name: str, title: str) -> Figure:
    """One figure of claims: a line each, or a band of lines with its own words above it."""
    shown = [claim for band in bands for claim in band]
    crowd = any(map(is_crowd, bands))
    given = (
        [verdict for verdict in VERDICTS if verdict in {claim.verdict for claim in shown}] if crowd else []
    )
    height = sum(map(rows, bands))
    figure, axes = canvas(0.8 + 0.37 * height + legend_height(given) * crowd)
    top = 0.0
    for band in bands:
        draw_band(axes, band, top)
        top += rows(band)
    ends = [
        value for claim in shown for value in (claim.low, claim.high, claim.margin, 0.0) if value == value
    ]
    ends = [min(1.0, max(-1.0, value)) for value in ends] if crowd else ends
    room = 0.06 * (max(ends) - min(ends) or 1.0)
    axes.set_xlim(min(ends) - room, max(ends) + room)
    axes.set_ylim(height - 0.6, -0.85)
    axes.axvline(0, color=GRID, linewidth=1.2, zorder=0)
    axes.set_yticks([])
    axes.xaxis.set_major_formatter(
        lambda value, _: f"{value * 100:+.0f}".replace("-", "−").replace("+0", "0")
    )
    axes.set_xlabel("effect, in points (or per cent against a fixed bound)")
    if crowd:
        legend(figure, [sample(verdict) for verdict in given], given, line=True)
    sns.despine(figure, left=True)
    return save(
        figure,
        name=name,
        section="verdicts",
        title=title,
        caption="Effect of each claim that was run (dot) with its 95 % interval (bar). The upright mark is "
        "the margin, and its arrow points to the side where the claim holds." + SEVERAL * crowd,
        alt="Effects, intervals and margins of the claims; the numbers are in the table of verdicts.",
    )


def draw_band(axes: Any, band: Group, top: float) -> None:
    """The lines of one claim, its words above them and its margin across them."""
    first, close = band[0], len(band) > 1
    for number, claim in enumerate(band):
        colour, at = VERDICT_COLOURS.get(claim.verdict, INK), top + CLOSE * number
        marker = MARKERS.get(claim.verdict, "o") if close else "o"
        axes.plot(
            [claim.low, claim.high],
            [at] * 2,
            color=colour,
            linewidth=1.1 if close else 2.4,
            solid_capstyle="butt",
        )
        axes.plot(claim.effect, at, color=colour, marker=marker, markersize=3.6 if close else 6)
    if first.margin == first.margin:
        arrow = ">" if first.direction == "above" else "<"
        ends = [top - 0.17, top + CLOSE * (len(band) - 1) + 0.17]
        axes.plot([first.margin] * 2, ends, color=INK, linewidth=1.2)
        axes.plot(first.margin, sum(ends) / 2, color=INK, marker=arrow, markersize=4.5)
    words = (
        f"{first.id}: {count(len(band), 'cell')}"
        if close
        else f"{first.id} ({where(first)}): {first.verdict}"
    )
    axes.text(
        0.0,
        top - 0.25,
        shorten(words, 66),
        transform=axes.get_yaxis_transform(),
        fontsize=8,
        va="bottom",
    )


def sample(verdict: str) -> Line2D:
    """A verdict's line, for the legend."""
    return Line2D(
        [],
        [],
        color=VERDICT_COLOURS[verdict],
        marker=MARKERS.get(verdict, "o"),
        markersize=4.5,
        linewidth=1.1,
    )


def where(claim: Claim) -> str:
    """Model and attack, which tell apart the rows of one claim."""
    return " ".join(label(part) for part in (claim.model, *claim.attack.split()) if part not in ("none", ""))
