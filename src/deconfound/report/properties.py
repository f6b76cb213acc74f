"""The section on what the papers say of a trained network: alignment, vulnerability, mutual information."""

import math
from collections.abc import Mapping, Sequence

from deconfound.report.blocks import Block, column, facts, figures, head, heading, section, table, text
from deconfound.report.figures import by_setting, grouped
from deconfound.report.inputs import Cell, Inputs, Measure, Property
from deconfound.report.matrix import size_note
from deconfound.report.plotting import Figure
from deconfound.report.thetas import THETAS, chosen, ordered, standing
from deconfound.report.words import (
    Order,
    count,
    interval,
    is_rate,
    label,
    metric_label,
    number,
    setting_label,
    value_unit,
)

Sentences = Mapping[str, str]
CALIBRATION = "pages/calibration.html"
LEAD = (
    "Beyond accuracy, each paper says what happens inside a network when it is attacked. Here that is measured on "
    "every network alike, whatever it was trained with. Small print below a mean over images is its 95 % interval, "
    "over seeds and images; below a mean over seeds, it is the lowest and the highest seed."
)
ALIGNMENT_LEAD = (
    "The paper parts what a network knows of an image into content, which the network reads "
    "its answer from, and style, which is left over, and says that an attack misleads through style. A small probe "
    "learns here to guess the class from the style of clean images alone; then the images are attacked."
)
ALIGNMENT: Sentences = {
    "style_kl": "How far the attack moves the probe's prediction: the divergence KL from clean to attacked; 0 means "
    "that style tells the same of both.",
    "output_kl": "The same for the network's own prediction.",
    "style_accuracy_clean": "Share of clean images whose class the probe guesses from style alone.",
    "style_accuracy_adversarial": "The same for attacked images, whose style the probe has never seen.",
    "style_gap": "What the attack costs the probe: the first accuracy minus the second.",
    "style_shift": "How far the attack moves style, for each unit by which it moves content.",
}
SPLIT: Sentences = {
    "content_style_correlation": "How strongly content and style go together over images: 0 not at all, 1 completely.",
    "basis_residual": "Covariance of style with content over the training images, relative to the largest that it "
    "could be: 0 is a clean separation.",
    "style_share": "Share of the squared length of the features that is orthogonal to the directions of the classes.",
}
VULNERABILITY_LEAD = (
    "θ (theta) is how much the perturbation itself moves the outcome, measured class by class. "
    "Whether its order over the classes follows the errors is asked by a claim, among the verdicts."
)
THETA: Sentences = {
    "theta_logp": "What the attack takes from the log-probability of the true class, in nats, on average over images.",
    "theta_margin": "By how much the wrong answer beats the true one, weighted by how unsure the network is of it, "
    "and 0 for images that are not fooled. This is the form that ADML trains on.",
}
SPREAD: Sentences = {
    "class_spread": "Standard deviation of the robust accuracies of the classes: 0 if all are equally safe.",
    "worst_class": "Robust accuracy of the class that has the lowest, in the worst case of all L∞ attacks.",
    "bottom3": "Mean robust accuracy of the three classes that have the lowest.",
    "top3": "Mean robust accuracy of the three classes that have the highest.",
    "theta_logp_rank": "Whether classes with a larger θ have more errors under the attack: rank correlation, 1 the "
    "same order, 0 none, −1 the opposite one.",
    "theta_margin_rank": "The same for the form with the margin.",
    "theta_contrast_rank": "The same for the form of 2022: the outcome of images that were fooled against that of "
    "images of the class that were not.",
}
INFORMATION_LEAD = (
    "Small networks, trained for each defense, score how much a network's output tells of "
    "the image (natural) and of the noise that the attack added (adversarial). Unless something else is said, numbers "
    "are over test images that are right when clean and wrong when attacked. They are scores, not nats: the formula "
    "has no fixed unit, so that their order means something and their size does not."
)
SCORES: Sentences = {
    "natural_gap": "The natural score of clean images minus that of attacked ones.",
    "natural_auc": "Chance that a clean image has a higher natural score than an attacked one: 50 % is a coin.",
    "adversarial_gap": "The adversarial score of attacked images minus that of clean ones.",
    "adversarial_auc": "Chance that an attacked image has a higher adversarial score than a clean one.",
    "logp_auc": "The trivial baseline: the same chance for the log-probability of the true class. The clean image is "
    "right and the attacked one wrong, so anything that follows correctness tells them apart.",
    "shuffled_natural_auc": "The placebo: the natural score asked about another image.",
    "shuffled_adversarial_auc": "The placebo: the adversarial score asked about the noise of another image.",
}
DETAILS: Sentences = {
    "natural_profile": "One minus the cosine of the natural scores of clean and attacked images: 0 is the same "
    "profile.",
    "adversarial_profile": "The same for the adversarial scores.",
    "natural_auc_gain": "AUC of the natural score minus that of the trivial baseline.",
    "adversarial_auc_gain": "AUC of the adversarial score minus that of the trivial baseline.",
    "contrastive_natural_gain": "On an attack that no estimator was trained on: AUC of the natural score minus that "
    "of estimators that were trained to find information, but not to tell clean from attacked.",
    "contrastive_adversarial_gain": "The same for the adversarial score.",
    "mi_clean_minus_adversarial": "Over all images: natural score of the clean image and its output, minus that of "
    "the attacked image and its output; the paper expects more than 0.",
    "mi_adversarial_minus_mixed": "Over all images: natural score of the attacked image and its output, minus that of "
    "the clean image and the same output; the paper expects more than 0.",
}
FROZEN: Sentences = {
    f"{side}_{name}_frozen": words
    for name, words in {
        "gap": "The gap of the {} score, read by the estimators that the defense itself trained against.",
        "auc": "The AUC of the {} score, read by the same.",
        "profile": "One minus the cosine of the {} scores, read by the same.",
    }.items()
    for side in ("natural", "adversarial")
    for words in [words.format(side)]
}
MEASURES = frozenset({**ALIGNMENT, **SPLIT, **THETA, **SPREAD, **SCORES, **DETAILS, **FROZEN})
GATED = ("class_spread", "worst_class", "bottom3", "top3")  # they rest on the attacks of the evaluation


def properties(inputs: Inputs, drawn: Sequence[Figure], order: Order) -> list[Block]:
    """Alignment, vulnerability and mutual information, each where it was measured."""
    blocks = [*alignment(inputs, order), *vulnerability(inputs, drawn, order), *information(inputs, order)]
    return [section("properties", "Properties", LEAD, blocks)] if blocks else []


def shown_here(measure: str) -> bool:
    """Has a measure its place in this section, or on the page of the calibration?"""
    return measure in MEASURES or measure.endswith("_usable_to")


def alignment(inputs: Inputs, order: Order) -> list[Block]:
    """Whether style moves when images are attacked, and how well content and style are parted."""
    blocks = by_defense("what the attack does to style", ALIGNMENT, inputs, order)
    blocks += by_defense("how well content and style are parted", SPLIT, inputs, order, folded=True)
    return [heading("Alignment (CausalAdv)"), text(ALIGNMENT_LEAD), *blocks] if blocks else []


def vulnerability(inputs: Inputs, drawn: Sequence[Figure], order: Order) -> list[Block]:
    """Theta per class, drawn and in numbers, and how the classes differ under each defense."""
    blocks = [*figures(drawn, "properties"), *per_class(inputs, order)]
    blocks += by_defense("how classes differ under attack", SPREAD, inputs, order)
    lead = [heading("Vulnerability (ADML)"), text(VULNERABILITY_LEAD), meanings(THETA)]
    return [*lead, *blocks] if blocks else []


def information(inputs: Inputs, order: Order) -> list[Block]:
    """Scores of information in image and noise, beside their trivial baseline and their placebo."""
    blocks = by_defense("what outputs tell of image and noise", SCORES, inputs, order)
    blocks += by_defense("profiles, gains and order of the scores", DETAILS, inputs, order, folded=True)
    blocks += by_defense("scores of the defense's own estimators", FROZEN, inputs, order, folded=True)
    if not blocks:
        return []
    words = "How far such estimates follow a truth that is known is measured on a page of its own: "
    link = [{"kind": "link", "text": words, "file": CALIBRATION}] if inputs.calibrated else []
    return [heading("Mutual information (NAMID)"), text(INFORMATION_LEAD), *link, *blocks]


def meanings(sentences: Sentences, folded: str = "") -> Block:
    """What each column of a table means."""
    return facts([(metric_label(name), [words]) for name, words in sentences.items()], folded=folded)


def by_defense(
    title: str, sentences: Sentences, inputs: Inputs, order: Order, *, folded: bool = False
) -> list[Block]:
    """What some measures mean, and a table per setting with a row per defense; nothing where none was taken."""
    everything: list[Measure | Property] = [*inputs.properties, *inputs.measures]
    taken = [row for row in everything if row.measure in sentences]
    blocks = []
    for setting, rows in by_setting(taken, order):
        names = [name for name in sentences if any(row.measure == name for row in rows)]
        columns = [column("defense"), *(column(metric_label(name), unit_of(name)) for name in names)]
        body = []
        for _, mine in grouped(rows, lambda row: order.key("defenses", row.defense)):
            gate = gate_of(mine[0], inputs)
            body.append([head(mine[0]), *(number_of(name, mine, gate) for name in names)])
        caption = f"{setting_label(setting)}: {title}"
        blocks += table(caption, columns, body, folded=caption if folded else "", notes=dashes(body))
    if not blocks:
        return []
    known = {name: words for name, words in sentences.items() if any(row.measure == name for row in taken)}
    return [meanings(known, f"Meaning of the columns: {title}" if folded else ""), *blocks]


def unit_of(measure: str) -> str:
    """Unit of a measure, for the head of its column."""
    return value_unit(measure).strip()


def dashes(body: Sequence[Sequence[Block]]) -> list[str]:
    """What a dash means, where a table has one."""
    empty = any(cell["text"] == "–" for row in body for cell in row)
    return ["A dash: not measured, or on too few images to say anything."] if empty else []


def gate_of(cell: Cell, inputs: Inputs) -> str:
    """What the trust gate says of a cell's worst case under L∞; empty where there is none."""
    found = [
        row.gate
        for row in inputs.summary
        if (row.group, row.metric, row.attack, row.norm, row.curve)
        == (cell.group, "robust_accuracy", "worst_case", "linf", "")
    ]
    return found[0] if found else ""


def number_of(name: str, rows: Sequence[Measure | Property], gate: str) -> Block:
    """A measure of one defense: a mean over images with its interval, or a mean over seeds with their range."""
    mine = [row for row in rows if row.measure == name]
    for row in mine:
        if isinstance(row, Property) and not row.label:
            return mean_of(row)
    cell = over_seeds([row.value for row in mine], rate=is_rate(name))
    return cell | {"gate": gate} if gate and name in GATED and cell["text"] != "–" else cell


def mean_of(row: Property) -> Block:
    """A mean over images over its interval."""
    rated = is_rate(row.measure)
    raw = {"value": row.value, "low": row.low, "high": row.high}
    return {
        "text": number(row.value, rate=rated),
        "note": interval(row.low, row.high, rate=rated),
        **{key: None if math.isnan(value) else value for key, value in raw.items()},
    }


def over_seeds(values: Sequence[float], *, rate: bool) -> Block:
    """Mean over seeds over their range; a dash where nothing was measured."""
    known = [value for value in values if not math.isnan(value)]
    if not known:
        return {"text": "–"}
    mean = sum(known) / len(known)
    return {
        "text": number(mean, rate=rate),
        "note": interval(min(known), max(known), rate=rate) if known[1:] else count(1, "seed"),
        "value": mean,
    }


def per_class(inputs: Inputs, order: Order) -> list[Block]:
    """Theta of all images and of each class, for the defenses of the figure, in its order."""
    blocks = []
    for setting, rows in by_setting([row for row in inputs.properties if row.measure in THETAS], order):
        shown = chosen(rows, inputs.runs, order)
        beside = [row for row in inputs.per_class if row.setting == setting and row.defense in shown]
        found = {(row.defense, row.measure, row.label): row for row in rows}
        columns = [
            column("class"),
            *(column(label(at), metric_label(name)) for at in shown for name in THETAS),
        ]
        body = []
        for name in ["", *ordered(rows, standing(beside))]:
            line = [found.get((at, theta, name)) for at in shown for theta in THETAS]
            sizes = size_note([(row.total, row.seeds) for row in line if row])
            body.append([{"text": name or "all classes", "note": sizes}, *map(theta_cell, line)])
        caption = f"{setting_label(setting)}: θ per class"
        note = "The same numbers of every other defense are in tables/properties.csv."
        folded = f"Numbers of θ per class: {setting_label(setting)}"
        blocks += table(caption, columns, body, folded=folded, notes=[note])
    return blocks


def theta_cell(row: Property | None) -> Block:
    """A theta over its interval, or a dash."""
    return mean_of(row) if row else {"text": "–"}
