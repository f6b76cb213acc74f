"""Verdict lights: five questions about every model, each with its number and the threshold that decides."""

from collections.abc import Callable, Mapping, Sequence

from deconfound.report.blocks import Block, column, facts, head, rate, section, table
from deconfound.report.inputs import Inputs, Interpretation
from deconfound.report.interpretation.grids import by_cell
from deconfound.report.interpretation.vocabulary import subject_words
from deconfound.report.matrix import condition
from deconfound.report.names import METRICS
from deconfound.report.words import Order, label, listing, number

Rows = Sequence[Interpretation]
RATES = ("clean_accuracy", "robust_accuracy", "asr")
AT = ("none", "worst_case")  # rates without an attack, and in the worst case
NONE: Block = {"text": "not measured", "slug": "notrun"}
UNDETECTED = 0.1  # share of images that an attacker may turn without an alarm
GAIN = 0.1  # share of triggered images that get their class back when the trigger is erased
GAP = 0.05  # accuracy under an attack on the loss minus that on the margin
TAIL = 0.9  # AUROC of self-influence above which a tail of it is poison
RATIO = 2.0  # mass ratio above which a map points at the trigger


def light(good: bool, text: str, note: str) -> Block:
    """A cell of a colour and a sign."""
    return {"text": text, "slug": "supported" if good else "contradicted", "note": note, "wrap": True}


def one(rows: Rows, kind: str, subject: str, condition: str, metric: str) -> float | None:
    """Value of a reading; None where there is none."""
    for row in rows:
        if (row.kind, row.subject, row.condition, row.metric) == (kind, subject, condition, metric):
            return None if row.value != row.value else row.value
    return None


def trigger(rows: Rows) -> Block:
    """Does the model rely on the trigger? The intervention decides, the map stands beside it."""
    gain = one(rows, "trigger_mass", "trigger", "deleted", "gain")
    if gain is None:
        return NONE
    ratios = [
        r for r in rows if r.kind == "trigger_mass" and (r.condition, r.metric) == ("stamped_hoped", "ratio")
    ]
    ratios = [row for row in ratios if row.value == row.value]
    best = max(ratios, key=lambda row: row.value, default=None)
    said = f"; mass ratio {best.value:.1f} ({subject_words(best.subject)})" if best else ""
    if best and (best.value > RATIO) != (gain > GAIN):
        said += ", which disagrees"
    return light(gain <= GAIN, f"{number(gain, sign=True)} points", f"at most +{number(GAIN)}{said}")


def detection(rows: Rows) -> Block:
    """Does the best detector stop an attacker who knows it?"""
    found = [
        r
        for r in rows
        if r.kind == "adversarial_detection" and (r.condition, r.metric) == ("adaptive", "evaded")
    ]
    found = [row for row in found if row.value == row.value]
    if not found:
        return NONE
    best = min(found, key=lambda row: row.value)
    note = f"at most {number(UNDETECTED)} %; best: {subject_words(best.subject)}"
    return light(best.value <= UNDETECTED, f"{number(best.value)} %", note)


def masking(rows: Rows) -> Block:
    """Does an attack on the loss overlook what one on the margin finds?"""
    gap = one(rows, "robust_interpretability", "masking", "alarm", "gap")
    if gap is None:
        return NONE
    zero = one(rows, "robust_interpretability", "masking", "clean", "zero_gradient")
    said = f"; zero gradients: {number(zero)} %" if zero else ""
    return light(gap <= GAP, f"{number(gap, sign=True)} points", f"at most +{number(GAP)}{said}")


def tail(rows: Rows) -> Block:
    """Does an end of the list of self-influence hold the poison?"""
    kind, subject = "influential_examples", "self_influence"
    found = {name: one(rows, kind, subject, "train", f"auroc_{name}") for name in ("low", "high")}
    known = {name: value for name, value in found.items() if value is not None}
    if not known:
        return NONE
    name, best = max(known.items(), key=lambda item: item[1])
    return light(best <= TAIL, f"{number(best)} %", f"at most {number(TAIL)} %; {name} tail")


def trusted(rows: Rows) -> Block:
    """Do all maps pass their checks?"""
    found = [
        row for row in rows if (row.kind, row.metric) == ("map_trust", "marked") and row.value == row.value
    ]
    if not found:
        return NONE
    failed = [row.subject for row in found if row.value > 0]
    note = "none may fail" + (f"; failed: {', '.join(map(subject_words, failed))}" if failed else "")
    return light(not failed, f"{len(failed)} of {len(found)} fail", note)


LIGHTS: Mapping[str, tuple[str, str, Callable[[Rows], Block]]] = {
    "trigger": (
        "reliance on the trigger",
        "How many more triggered images get their true class when the trigger is erased. A model that ignores the "
        "trigger gains nothing. Beside it the highest mass ratio of a map; where the two disagree, believe the "
        "erasing.",
        trigger,
    ),
    "detection": (
        "adaptive attacker",
        "Share of the correctly classified images that an attacker who knows the detector turns wrong without an "
        "alarm, for the detector that does best.",
        detection,
    ),
    "masking": (
        "hidden gradients",
        "Accuracy under an attack on the loss minus that under the same attack on the margin. Where the margin finds "
        "much more, small gradients hide weakness.",
        masking,
    ),
    "trust": (
        "maps",
        "How many kinds of maps fail a check of faithfulness or sanity on this model.",
        trusted,
    ),
    "tail": (
        "influence tail",
        "Chance that a poisoned training image stands nearer than a clean one to one end of the list of influence on "
        "itself. Near 100 %, that end is poison.",
        tail,
    ),
}
LEAD = (
    "Each light is one number against a threshold of this project: ✓ within it, ✕ beyond it, ○ not "
    "measured for this model. A light is a summary for a first look; the sections below have the intervals."
)


def lights(inputs: Inputs, order: Order) -> list[Block]:
    """A row per model, with its rates from the report."""
    blocks = lamps(inputs, order, RATES)
    return [section("lights", "At a glance", LEAD, blocks)] if blocks else []


def lamps(inputs: Inputs, order: Order, metrics: Sequence[str] = ()) -> list[Block]:
    """The table of lights, with some rates in front; and what each light asks."""
    groups = by_cell(inputs.interpretation, order)
    if not groups:
        return []
    several = len({row.poison for row in inputs.interpretation}) > 1
    rates = {
        (row.group, row.metric): row for row in inputs.summary if not row.curve and condition(row)[1] in AT
    }
    shown = [metric for metric in metrics if any((mine[0].group, metric) in rates for mine in groups)]
    found = {name: [shine(mine) for mine in groups] for name, (_, _, shine) in LIGHTS.items()}
    lit = [name for name, cells in found.items() if any(cell is not NONE for cell in cells)]
    if not lit:
        return []
    columns = [column("model"), *(column(METRICS[metric][0], "per cent") for metric in shown)]
    columns += [column(LIGHTS[name][0]) for name in lit]
    body = []
    for place, mine in enumerate(groups):
        first = head(mine[0], poison=several)
        first["note"] = f"{label(mine[0].dataset)} · {first['note']}"
        known = [rates.get((mine[0].group, metric)) for metric in shown]
        numbers: list[Block] = [rate(row) if row else {"text": "–"} for row in known]
        body.append([first, *numbers, *(dict(found[name][place]) for name in lit)])
    dark = [title for name, (title, _, _) in LIGHTS.items() if name not in lit]
    notes = [f"Measured for no model of this experiment: {listing(dark)}."] if dark else []
    words = [LIGHTS[name][:2] for name in lit]
    asked = facts([(title, [meaning]) for title, meaning in words], folded="What the lights ask")
    return [*table("Verdict lights", columns, body, notes=notes), asked]
