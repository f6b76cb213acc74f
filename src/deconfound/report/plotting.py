"""One look for every figure: size, type, a colour and a marker per defense, the same bytes each time.

Figures are 4.4 inches wide so that a phone shows their text at its full size; wider screens and the PDF
set them side by side. Text is stored as outlines, so nothing depends on the fonts of a machine.
"""

import io
import re
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import seaborn as sns
from matplotlib.figure import Figure as Canvas
from matplotlib.lines import Line2D

from deconfound.report.words import DAGGER, Order, label

WIDTH = 4.4  # inches
INK = "#20242a"  # text and ticks; the page swaps these two for its own, so that a dark page stays legible
GRID = "#d9dce1"
NEUTRAL = "#7b818a"
# Okabe and Ito's colours for colour-blind readers, the light ones darkened for thin lines on white.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#b8860b", "#3b9fd6", "#8e6bbf", "#8c564b")
MARKERS = ("o", "s", "D", "^", "v", "P", "X", "p", "h")
VERDICT_COLOURS = {
    "supported": "#16855b",
    "contradicted": "#c2410c",
    "inconclusive": "#7b818a",
    "premise not met": "#a16207",
    "gate not passed": "#7e4aa8",
    "not run at this scale": "#7b818a",
}
STYLE: Any = {
    "svg.fonttype": "path",
    "svg.hashsalt": "deconfound",
    "text.parse_math": False,
    "font.family": ["DejaVu Sans"],
    "font.size": 9,
    "axes.titlesize": 9,
    "axes.labelsize": 9,
    "xtick.labelsize": 8.5,
    "ytick.labelsize": 8.5,
    "legend.fontsize": 8.5,
    "legend.frameon": False,
    "axes.edgecolor": GRID,
    "axes.labelcolor": INK,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "grid.color": GRID,
    "grid.linewidth": 0.6,
    "axes.axisbelow": True,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "savefig.facecolor": "none",
    "figure.constrained_layout.use": True,
    "axes.unicode_minus": True,
}


@dataclass(frozen=True)
class Figure:
    """A drawing with its words: `section` is where it belongs, `alt` is for those who cannot see it."""

    name: str
    section: str
    title: str
    caption: str
    alt: str
    svg: str


@dataclass(frozen=True)
class Palette:
    """Colour and marker of each defense, the same in every figure; undefended training is grey."""

    names: Sequence[str]

    @classmethod
    def of(cls, defenses: Iterable[str], order: Order) -> "Palette":
        """A palette for the defenses of a report, in the order of its configuration."""
        return cls(sorted(set(defenses), key=lambda name: order.key("defenses", name)))

    def colour(self, defense: str) -> str:
        """Colour of a defense."""
        rest = [name for name in self.names if name != "standard"]
        return NEUTRAL if defense == "standard" else COLOURS[rest.index(defense) % len(COLOURS)]

    def marker(self, defense: str) -> str:
        """Marker of a defense."""
        return MARKERS[self.names.index(defense) % len(MARKERS)]


def canvas(height: float, rows: int = 1, **options: Any) -> tuple[Canvas, Any]:
    """A figure of the report's width and its axes."""
    sns.set_theme(style="ticks", rc=STYLE)
    return plt.subplots(rows, 1, figsize=(WIDTH, height), **options)


def percent_axis(axis: Any, text: str) -> None:
    """An axis from 0 to 100 %."""
    axis.set_label_text(text)
    axis.set_ticks([0.0, 0.25, 0.5, 0.75, 1.0], ["0", "25", "50", "75", "100 %"])


def key(
    figure: Canvas,
    palette: Palette,
    defenses: Sequence[str],
    *,
    line: bool,
    doubted: Collection[str] = (),
) -> None:
    """The legend above the axes: one entry per defense, in as many columns as its words allow. doubted: defenses with
    numbers that did not pass the trust gate.
    """
    handles = [
        Line2D(
            [],
            [],
            color=palette.colour(name),
            marker=palette.marker(name) if line else "s",
            linestyle="-" if line else "",
            markersize=5 if line else 7,
        )
        for name in defenses
    ]
    names = [shorten(label(name), 40) + f" {DAGGER}" * (name in doubted) for name in defenses]
    longest = max(map(len, names), default=1)
    figure.legend(
        handles,
        names,
        loc="outside upper left",
        ncols=max(1, min(len(names), 56 // (longest + 6))),
        handlelength=1.6 if line else 0.8,
        columnspacing=1.2,
        borderaxespad=0.2,
    )


def shorten(text: str, length: int) -> str:
    """Text cut to a length, with an ellipsis where it was cut."""
    return text if len(text) <= length else text[: length - 1].rstrip() + "…"


def save(figure: Canvas, *, name: str, section: str, title: str, caption: str, alt: str) -> Figure:
    """Close a drawing and keep it as SVG text without prologue or metadata; same drawing, same bytes."""
    buffer = io.StringIO()
    with matplotlib.rc_context({**STYLE, "svg.hashsalt": name}):
        figure.savefig(
            buffer, format="svg", metadata={"Date": None, "Creator": None, "Type": None, "Format": None}
        )
    plt.close(figure)
    text = buffer.getvalue()
    text = re.sub(r"<metadata>.*?</metadata>\s*", "", text[text.index("<svg") :], flags=re.DOTALL)
    return Figure(name=name, section=section, title=title, caption=caption, alt=alt, svg=text)
