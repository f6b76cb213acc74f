"""The figure of theta per class: how much the perturbation moves the outcome, above what it leaves right."""

from collections.abc import Sequence
from typing import Any

import seaborn as sns

from deconfound.report.charts import DOUBTED, Setting, doubted, stem
from deconfound.report.inputs import PerClass, Property, Run
from deconfound.report.matrix import NORM_ORDER, Condition, condition
from deconfound.report.plotting import Figure, Palette, canvas, key, percent_axis, save, shorten
from deconfound.report.words import Order, label, setting_label

THETAS = ("theta_logp", "theta_margin")
OTHERS = 3  # defenses beside the control that a figure of classes can hold
ENDS = 10  # classes with the fewest, and with the most errors, where there are too many for a figure


def chosen(rows: Sequence[Property], runs: Sequence[Run], order: Order) -> list[str]:
    """Adversarial training and up to three of ADML's kind that have a theta per class; without ADML, up to three others
    but undefended training; of each kind the first in the order of the configuration.
    """
    kinds = {run.defense: run.spec.get("defense", {}).get("kind", run.defense) for run in runs}
    found = {row.defense for row in rows if row.measure in THETAS and row.label}
    names = sorted(found, key=lambda name: order.key("defenses", name))
    control = [name for name in names if kinds.get(name) == "adversarial_training"][:1]
    others = [name for name in names if name not in control]
    alike = [name for name in others if kinds.get(name) == "adml"]
    rest = alike or [name for name in others if kinds.get(name) != "standard"] or ([] if control else others)
    return control + rest[:OTHERS]


def standing(rows: Sequence[PerClass]) -> list[PerClass]:
    """Robust accuracy per class under one condition: the worst case rather than a single attack, L∞ before L2."""
    rows = [row for row in rows if row.metric == "robust_accuracy"]
    wanted = min({condition(row) for row in rows}, key=strictness, default=None)
    return [row for row in rows if condition(row) == wanted]


def strictness(at: Condition) -> tuple[bool, int, float, str]:
    """Sort key of conditions: the one that theta is set beside comes first."""
    return at.attack != "worst_case", NORM_ORDER.get(at.norm, 9), at.eps, at.attack


def ordered(rows: Sequence[Property], robust: Sequence[PerClass]) -> list[str]:
    """Names of the classes by their mean error under attack, the fewest errors first; without it in their own order."""
    names = list(dict.fromkeys(row.label for row in rows if row.label))
    right = {name: [row.value for row in robust if row.label == name] for name in names}
    error = {name: 1 - sum(values) / len(values) if values else 0.0 for name, values in right.items()}
    return sorted(names, key=lambda name: error[name])


def ends(names: Sequence[str]) -> tuple[list[str], str]:
    """Classes that fit a figure, and what is said of the others."""
    if len(names) <= 2 * ENDS:
        return list(names), ""
    words = f" Of {len(names)} classes, the {ENDS} with the fewest and the {ENDS} with the most errors."
    return [*names[:ENDS], *names[-ENDS:]], words


def vulnerability(
    setting: Setting,
    rows: Sequence[Property],
    classes: Sequence[PerClass],
    palette: Palette,
    defenses: Sequence[str],
) -> Figure:
    """Both thetas and the robust accuracy, a panel each; a class per place, a point with its interval per defense."""
    robust = standing([row for row in classes if row.defense in defenses])
    rows = [row for row in rows if row.defense in defenses and row.label]
    names, left_out = ends(ordered(rows, robust))
    if len({palette.colour(name) for name in defenses}) < len(defenses):
        palette = Palette(defenses)
    panels: list[tuple[str, Sequence[Property | PerClass]]] = [
        ("θ, log-prob. (nats)", [row for row in rows if row.measure == "theta_logp"]),
        ("θ, margin", [row for row in rows if row.measure == "theta_margin"]),
        ("robust accuracy", robust),
    ]
    panels = [panel for panel in panels if panel[1]]
    figure, drawn = canvas(1.1 + 1.35 * len(panels), len(panels), sharex=True, squeeze=False)
    for axes, (title, points) in zip(drawn[:, 0], panels, strict=True):
        scatter(axes, points, names, palette, defenses)
        if points is robust:
            percent_axis(axes.yaxis, title)
        else:
            axes.set_ylabel(title)
        axes.grid(axis="y")
    long = max(map(len, names)) > 2
    turned = {"rotation": 40, "ha": "right"} if long else {}
    axes.set_xticks(range(len(names)), [shorten(name, 16) for name in names], **turned)
    axes.set_xlabel("class, by error under attack" if robust else "class")
    sns.despine(figure)
    marked = doubted(robust)
    key(figure, palette, defenses, line=True, doubted=marked)
    title = setting_label(setting)
    where = f"; below, robust accuracy ({label(robust[0].attack)})" if robust else ""
    return save(
        figure,
        name=stem("thetas", setting),
        section="properties",
        title=title,
        caption=f"Two forms of θ per class{where}, with 95 % intervals."
        + (" Classes with more errors stand further right." if robust else "")
        + left_out
        + DOUBTED * bool(marked),
        alt=f"Points of theta per class and defense for {title}; the table has the numbers.",
    )


def scatter(
    axes: Any,
    points: Sequence[Property | PerClass],
    names: Sequence[str],
    palette: Palette,
    defenses: Sequence[str],
) -> None:
    """Points with their intervals, the defenses side by side at each class."""
    place = {name: position for position, name in enumerate(names)}
    for point in points:
        if point.label in place:
            shift = (defenses.index(point.defense) - (len(defenses) - 1) / 2) * 0.7 / len(defenses)
            x, colour = place[point.label] + shift, palette.colour(point.defense)
            axes.plot([x, x], [point.low, point.high], color=colour, linewidth=1.3, solid_capstyle="butt")
            axes.plot(x, point.value, color=colour, marker=palette.marker(point.defense), markersize=3.8)
