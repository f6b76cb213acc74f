"""One look for every figure: size, type, a colour and a marker per defense, the same bytes each time.

Figures are 4.4 inches wide so that a phone shows their text at its full size; wider screens and the PDF
set them side by side. Text is stored as outlines, so nothing depends on the fonts of a machine.
"""

import io
import re
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import seaborn as sns
from matplotlib.figure import Figure as Canvas
from matplotlib.lines import Line2D

from deconfound.report.names import DAGGER
from deconfound.report.words import Order, label

WIDTH = 4.4  # inches
FEW = 8  # defenses that colours and a legend can tell apart in one figure
ROWS = 30  # defenses that a figure with a row for each can hold, so that it fits a page
LETTER = 0.062  # inches: mean width of a letter of 8 points
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


Item = TypeVar("Item")


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

    def among(self, defenses: Sequence[str]) -> "Palette":
        """This palette where it tells some defenses apart by colour, else one of these alone."""
        return self if len(set(map(self.colour, defenses))) == len(defenses) else Palette(defenses)


def canvas(height: float, rows: int = 1, columns: int = 1, **options: Any) -> tuple[Canvas, Any]:
    """A figure of the report's width and its axes."""
    sns.set_theme(style="ticks", rc=STYLE)
    return plt.subplots(rows, columns, figsize=(WIDTH, height), **options)


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
    more: Sequence[Line2D] = (),
) -> None:
    """The legend above the axes: one entry per defense, in as many columns as its words allow. doubted: defenses with
    numbers that did not pass the trust gate; more: lines with labels of their own that follow the defenses.
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
    legend(figure, [*handles, *more], [*names, *(str(handle.get_label()) for handle in more)], line=line)


def legend(figure: Canvas, handles: Sequence[Line2D], names: Sequence[str], *, line: bool) -> None:
    """Entries above the axes, as wide as lines or as a square."""
    figure.legend(
        handles,
        names,
        loc="outside upper left",
        ncols=legend_columns(names),
        handlelength=1.6 if line else 0.8,
        columnspacing=1.2,
        borderaxespad=0.2,
    )


def legend_columns(names: Sequence[str]) -> int:
    """Entries that stand side by side above the axes."""
    return max(1, min(len(names), 56 // (max(map(len, names), default=1) + 6)))


def legend_height(names: Sequence[str]) -> float:
    """Inches that the entries take."""
    return 0.19 * -(-len(names) // legend_columns(names))


def parts(items: Sequence[Item], most: int) -> list[Sequence[Item]]:
    """Items in as few parts as hold `most` each, of sizes that differ by one at the most; in order."""
    count = -(-len(items) // most)
    size, longer = divmod(len(items), max(1, count))
    starts = [number * size + min(number, longer) for number in range(count + 1)]
    return [items[start:end] for start, end in zip(starts, starts[1:], strict=False)]


def part_of(number: int, total: int) -> str:
    """' (part 2 of 3)' for the second of three figures; empty for a figure that is whole."""
    return f" (part {number + 1} of {total})" if total > 1 else ""


def part_name(number: int, total: int) -> list[str]:
    """What the file name of a part ends with: ['2'] for the second of three; nothing for a figure that is whole."""
    return [str(number + 1)] if total > 1 else []


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
