"""The figure of verdicts: effect, interval and margin of every claim that was run."""

import math
from collections.abc import Sequence

import seaborn as sns

from deconfound.report.inputs import Claim
from deconfound.report.plotting import GRID, INK, VERDICT_COLOURS, Figure, canvas, save, shorten
from deconfound.report.words import is_rate, label

ROWS = 20  # claims that a figure holds, so that it fits a sheet
TITLE = "Effects and margins"


def forests(claims: Sequence[Claim]) -> list[Figure]:
    """Effect, interval and margin of every claim that was run, whose metric is a rate and whose interval has ends: in
    one figure where they fit, else in figures per paper.
    """
    shown = [claim for claim in claims if claim.ran and is_rate(claim.metric)]
    shown = [claim for claim in shown if math.isfinite(claim.low) and math.isfinite(claim.high)]
    if len(shown) <= ROWS:
        return [forest(shown, "verdicts", TITLE)] if shown else []
    made: list[Figure] = []
    for paper in dict.fromkeys(claim.paper for claim in shown):
        mine = [claim for claim in shown if claim.paper == paper]
        parts = -(-len(mine) // ROWS)
        size = -(-len(mine) // parts)
        for part in range(parts):
            title = f"{TITLE}: {paper}" + (f" (part {part + 1} of {parts})" if parts > 1 else "")
            made.append(forest(mine[part * size :][:size], f"verdicts-{len(made) + 1}", title))
    return made


def forest(shown: Sequence[Claim], name: str, title: str) -> Figure:
    """One figure of claims, a line each."""
    figure, axes = canvas(0.8 + 0.37 * len(shown))
    for place, claim in enumerate(shown):
        colour = VERDICT_COLOURS.get(claim.verdict, INK)
        axes.plot([claim.low, claim.high], [place] * 2, color=colour, linewidth=2.4, solid_capstyle="butt")
        axes.plot(claim.effect, place, color=colour, marker="o", markersize=6)
        if claim.margin == claim.margin:
            arrow = ">" if claim.direction == "above" else "<"
            axes.plot([claim.margin] * 2, [place - 0.17, place + 0.17], color=INK, linewidth=1.2)
            axes.plot(claim.margin, place, color=INK, marker=arrow, markersize=4.5)
        axes.text(
            0.0,
            place - 0.25,
            shorten(f"{claim.id} ({where(claim)}): {claim.verdict}", 66),
            transform=axes.get_yaxis_transform(),
            fontsize=8,
            va="bottom",
        )
    ends = [
        value for claim in shown for value in (claim.low, claim.high, claim.margin, 0.0) if value == value
    ]
    room = 0.06 * (max(ends) - min(ends) or 1.0)
    axes.set_xlim(min(ends) - room, max(ends) + room)
    axes.set_ylim(len(shown) - 0.6, -0.85)
    axes.axvline(0, color=GRID, linewidth=1.2, zorder=0)
    axes.set_yticks([])
    axes.xaxis.set_major_formatter(
        lambda value, _: f"{value * 100:+.0f}".replace("-", "−").replace("+0", "0")
    )
    axes.set_xlabel("effect, in points (or per cent against a fixed bound)")
    sns.despine(figure, left=True)
    return save(
        figure,
        name=name,
        section="verdicts",
        title=title,
        caption="Effect of each claim that was run (dot) with its 95 % interval (bar). The upright mark is "
        "the margin, and its arrow points to the side where the claim holds.",
        alt="Effects, intervals and margins of the claims; the numbers are in the table of verdicts.",
    )


def where(claim: Claim) -> str:
    """Model and attack, which tell apart the rows of one claim."""
    return " ".join(label(part) for part in (claim.model, *claim.attack.split()) if part not in ("none", ""))
