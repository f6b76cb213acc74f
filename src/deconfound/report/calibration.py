"""The page that says how far an estimate of mutual information can be trusted, and what that means for NAMID."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import seaborn as sns
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from matplotlib.lines import Line2D

from deconfound.report.html import inline
from deconfound.report.plotting import COLOURS, MARKERS, NEUTRAL, Figure, canvas, save
from deconfound.storage import write_text

NAMES: Mapping[str, tuple[str, str]] = {
    "info_nce": ("InfoNCE", "own pair against all pairs of its row"),
    "donsker_varadhan": ("Donsker–Varadhan", "as in MINE: one average over all other pairs of the batch"),
    "nguyen_wainwright_jordan": ("NWJ", "Nguyen, Wainwright and Jordan: no logarithm"),
    "jensen_shannon": ("Jensen–Shannon", "trained on that divergence, read with NWJ's formula"),
    "row_donsker_varadhan": ("row-wise", "Donsker–Varadhan with an average per row"),
    "namid_released": ("NAMID, released", "row-wise, with the 1 that its code adds to the sum"),
}
SHAPES: Mapping[str, tuple[str, str]] = {
    "follows": ("supported", "follows the truth to the last level"),
    "saturates": ("inconclusive", "saturates: more information hardly moves it"),
    "unstable": ("premise", "unstable: one batch differs from the next by more than the truth"),
    "diverges": ("contradicted", "diverges: outruns the truth"),
}
FAMILIES: Mapping[str, str] = {
    "synergy": "synergy: only both together tell",
    "coupling": "coupling: the noise follows the image",
}
ROOM = 1.35  # height of the figure over the last level; what lies above is drawn at its edge


def page(found: Mapping[str, Any], out: Path) -> None:
    """Write out/calibration.html from what `calibrate` found; the same numbers give the same bytes."""
    environment = Environment(
        loader=PackageLoader("deconfound.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
    )
    drawings = [estimates(found), residuals(found["decomposition"])]
    count = found["spec"]["batch_size"]
    text = environment.get_template("calibration.html.j2").render(
        spec=found["spec"],
        capacity=found["capacity"],
        truths=[row["truth"] for row in found["bounds"][0]["levels"]],
        verdicts=[verdict(bound) for bound in found["bounds"]],
        rows=[(words(bound["name"])[0], [cell(row) for row in bound["levels"]]) for bound in found["bounds"]],
        released=released(found),
        families=[(FAMILIES[name], *spread(found["decomposition"], name)) for name in FAMILIES],
        figures=[(item, Markup(inline(item.svg, item.name, item.alt))) for item in drawings],
        nats=nats,
        nothing=nats(-math.log(count / (count - 1)), digits=4),
    )
    write_text(out / "calibration.html", text)


def words(bound: str) -> tuple[str, str]:
    """Name of a bound and what it is."""
    return NAMES.get(bound, (bound.replace("_", " "), ""))


def nats(value: float | None, *, sign: bool = False, digits: int = 2) -> str:
    """A number with so many decimals, with none once it is large; a dash where there is none."""
    if value is None:
        return "–"
    text = f"{value:{'+' if sign else ''}.{digits if abs(value) < 100 else 0}f}"
    if float(text) == 0:
        text = text.lstrip("+-")
    return text.replace("-", "−")


def verdict(bound: Mapping[str, Any]) -> dict[str, str]:
    """Words of a row of the first table: name, about, usable, slug and beyond."""
    name, about = words(bound["name"])
    usable = bound["usable_to"]
    slug, beyond = SHAPES[bound["shape"]]
    reach = (
        f"usable up to {usable:g} nat{'s' * (usable != 1)}"
        if usable
        else "not usable at any level above zero"
    )
    return {
        "name": name,
        "about": about,
        "usable": reach,
        "slug": slug,
        "beyond": beyond,
        "slope": nats(bound["slope"]),
    }


def cell(row: Mapping[str, Any]) -> dict[str, str]:
    """A level of a bound: estimate, and in small print interval, bias and sd of a batch."""
    if row["estimate"] is None:
        return {"text": "not finite", "interval": "", "bias": "", "sd": "", "usable": ""}
    return {
        "text": nats(row["estimate"]),
        "interval": f"{nats(row['low'])} to {nats(row['high'])}",
        "bias": f"bias {nats(row['bias'], sign=True)}",
        "sd": f"sd {nats(row['sd'])}",
        "usable": "within" if row["usable"] else "",
    }


def released(found: Mapping[str, Any]) -> dict[str, Any] | None:
    """The released form at the last level, for the words about NAMID; None where it was not measured."""
    for bound in found["bounds"]:
        if bound["name"] == "namid_released":
            last = bound["levels"][-1]
            return {
                **verdict(bound),
                "truth": last["truth"],
                "estimate": last["estimate"],
                "shape": bound["shape"],
            }
    return None


def spread(rows: Sequence[Mapping[str, Any]], family: str) -> tuple[list[float], list[float]]:
    """Strengths of a family and its residuals."""
    chosen = [row for row in rows if row["family"] == family]
    return [row["strength"] for row in chosen], [row["residual"] for row in chosen]


def estimates(found: Mapping[str, Any]) -> Figure:
    """Estimate against truth: a line per bound inside the band of its interval; the diagonal is the truth."""
    figure, axes = canvas(4.2)
    truths = [row["truth"] for row in found["bounds"][0]["levels"]]
    top = max(ROOM * truths[-1], ROOM * found["capacity"])
    axes.plot([truths[0], truths[-1]], [truths[0], truths[-1]], color=NEUTRAL, linestyle="--", linewidth=1.2)
    axes.axhline(found["capacity"], color=NEUTRAL, linestyle=":", linewidth=1.2)
    axes.text(truths[0], found["capacity"] + 0.012 * top, "log N", fontsize=8, va="bottom", color=NEUTRAL)
    handles = [Line2D([], [], color=NEUTRAL, linestyle="--", label="truth")]
    for place, bound in enumerate(found["bounds"]):
        colour, marker = COLOURS[place % len(COLOURS)], MARKERS[place % len(MARKERS)]
        rows = [row for row in bound["levels"] if row["estimate"] is not None]
        x = [row["truth"] for row in rows]
        low, high = [bounded(row["low"], top) for row in rows], [bounded(row["high"], top) for row in rows]
        axes.fill_between(x, low, high, color=colour, alpha=0.15, linewidth=0)
        y = [bounded(row["estimate"], top) for row in rows]
        style: dict[str, Any] = {"color": colour, "marker": marker, "markersize": 4.5, "linewidth": 1.5}
        if bound["name"] == "row_donsker_varadhan":  # the released form often lies on it: both are to be seen
            style |= {"linestyle": (0, (3, 2)), "markersize": 3, "zorder": 3}
        axes.plot(x, y, **style)
        handles.append(Line2D([], [], label=words(bound["name"])[0], **style))
    axes.set_ylim(-0.08 * top, 1.06 * top)
    axes.set_xticks(truths, [f"{truth:g}" for truth in truths])
    axes.set_xlabel("true information (nats)")
    axes.set_ylabel("estimate (nats)")
    axes.grid()
    sns.despine(figure)
    figure.legend(handles=handles, loc="outside upper left", ncols=2, columnspacing=1.2, borderaxespad=0.2)
    return save(
        figure,
        name="calibration-estimates",
        section="calibration",
        title="Estimate against truth",
        caption="Mean over seeds; bands are 95 % intervals over seeds. The dotted line is log N, which InfoNCE cannot "
        f"cross. What lies above {nats(top)} nats is drawn at the upper edge, what lies below zero at the lower.",
        alt="Lines of estimated against true mutual information, one per bound; the table has the numbers.",
    )


def bounded(value: float, top: float) -> float:
    """A value inside the figure."""
    return min(max(value, -0.05 * top), 1.03 * top)


def residuals(rows: Sequence[Mapping[str, Any]]) -> Figure:
    """What the sum of natural and adversarial information leaves out or counts twice, by strength of interaction."""
    figure, axes = canvas(2.8)
    axes.axhline(0, color=NEUTRAL, linestyle="--", linewidth=1.2)
    handles = []
    for place, (name, text) in enumerate(FAMILIES.items()):
        x, y = spread(rows, name)
        style: dict[str, Any] = {
            "color": COLOURS[place],
            "marker": MARKERS[place],
            "markersize": 5,
            "linewidth": 1.6,
        }
        axes.plot(x, y, **style)
        handles.append(Line2D([], [], label=text, **style))
    axes.set_xlabel("strength of the interaction")
    axes.set_ylabel("left out (nats)")
    axes.grid()
    sns.despine(figure)
    figure.legend(handles=handles, loc="outside upper left", borderaxespad=0.2)
    return save(
        figure,
        name="calibration-decomposition",
        section="calibration",
        title="What the decomposition leaves out",
        caption="I(X+N; Z) − I(X; Z) − I(N; Z), by exact enumeration on two bits. Above zero the sum misses what only "
        "image and noise together tell; below zero it counts twice what both tell.",
        alt="Residual of the decomposition against the strength of two kinds of interaction; the table has them.",
    )
