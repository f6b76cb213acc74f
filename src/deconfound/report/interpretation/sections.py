"""The sections of the page: which kinds stand in each, and what is missing and why."""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

from deconfound.report.blocks import Block, facts, figures, fold, heading, section, text
from deconfound.report.detection import EXAMPLES, MODEL, detected, means
from deconfound.report.heatmaps import by_place as by_setting
from deconfound.report.inputs import Inputs
from deconfound.report.interpretation.files import Interpreted
from deconfound.report.interpretation.grids import Marks, of_kind
from deconfound.report.interpretation.kinds import layout_of
from deconfound.report.interpretation.trusted import marks_of
from deconfound.report.plotting import Figure
from deconfound.report.words import Order, label


@dataclass(frozen=True)
class Part:
    """A section of the page: its title and lead, the kinds whose readings it shows, and why it may be missing."""

    title: str
    lead: str
    kinds: Sequence[str] = ()
    reason: str = ""


NOT_ASKED = "No study of this experiment asks for it."
PARTS: dict[str, Part] = {
    "gallery": Part(
        "Pictures",
        "Images with the maps of what the model reacts to. Read down a column: the maps of an image share one colour "
        "scale, blue lowers the score of the class that was asked for and red raises it. A name with a dagger failed "
        "a check of the section on trust in maps: its picture may show the image rather than the model. A picture "
        "convinces more than it proves; the numbers follow.",
        reason="No interpretation of this experiment left pictures of maps.",
    ),
    "shift": Part(
        "How far maps move under attack",
        "",
        ("attribution_shift",),
    ),
    "map_trust": Part("Which map can be trusted", "", ("map_trust",)),
    "detectors": Part("Detecting attacked images", "", ("adversarial_detection",)),
    "forensics": Part(
        "Finding poisoned training images",
        "Detectors rank the training images without knowing which are poisoned; afterwards their ranking is scored. "
        "The poison was planted, so precision and recall are exact. Detectors of this table look at loss, features "
        "or influence.",
        ("poison_forensics",),
        reason="No training set of this experiment is poisoned, or no detector of training examples was asked.",
    ),
    "scans": Part(
        "Scanning models for a backdoor",
        "A scan asks of every class how little it takes to send all images there; in a backdoored model the "
        "attacker's class takes suspiciously little. Clean models are accused as well: with few classes something "
        "always stands out, so read the row of the clean model first.",
        ("trigger_inversion",),
        reason="No detector of backdoored models was asked.",
    ),
    "neurons": Part(
        "Inside the network",
        "Single units (channels or features) of a layer: what they answer to, which of them a trigger moves, and "
        "what happens when they are taken away.",
        ("components", "prune_curve"),
    ),
    "concepts": Part("Concepts", "", ("concepts",)),
    "influence": Part(
        "Training images and answers",
        "An answer rests on training images. Which ones, and how few of them an attacker has to change.",
        ("influential_examples", "influence_poisoning"),
    ),
    "causal": Part(
        "Against the truth",
        "Here the truth is known: where the object is, which pixels the trigger changed, what the style of a scene "
        "is. So maps can be scored, and the cause itself can be changed. Each number of a map stands beside the "
        "number of an intervention; where the two disagree, believe the intervention.",
        ("object_mass", "trigger_mass", "style_dependence", "patterns"),
    ),
    "panel": Part("Robustness and interpretability", "", ("robust_interpretability",)),
    "explanations": Part("Attacks on explanations", "", ("explanation_attack",)),
}
REST, GALLERY = "others", "gallery"


def sections(
    inputs: Inputs, records: Sequence[Interpreted], drawn: Sequence[Figure], order: Order
) -> list[Block]:
    """Every section that has something to show."""
    marks = marks_of(inputs)
    made = []
    for name, part in PARTS.items():
        blocks = gallery(drawn) if name == GALLERY else []
        if look := LOOKS.get(name):
            blocks += look(inputs, order)
        for kind in part.kinds:
            blocks += of_one(kind, name, part, inputs, drawn, order, marks)
        if blocks:
            lead = part.lead or layout_of(part.kinds[0]).lead
            made.append(section(name, part.title, lead, blocks))
    known = {kind for part in PARTS.values() for kind in part.kinds}
    others = sorted({row.kind for row in inputs.interpretation} - known)
    rest = [
        block for kind in others for block in of_one(kind, REST, Part("", ""), inputs, drawn, order, marks)
    ]
    lead = "Interpretations for which this page has no words of its own, with the names that they gave their readings."
    return made + ([section(REST, "Other readings", lead, rest)] if rest else [])


def gallery(drawn: Sequence[Figure]) -> list[Block]:
    """The pictures of the first model, and behind a line those of each other one."""
    models = dict.fromkeys(model_of(figure) for figure in drawn if figure.section == GALLERY)
    blocks: list[Block] = []
    for model in models:
        mine = figures([figure for figure in drawn if model_of(figure) == model], GALLERY)
        blocks += [fold(f"The same pictures of {model}", mine)] if blocks else mine
    return blocks


def model_of(figure: Figure) -> str:
    """The model that a figure is about, from its title."""
    return figure.title.partition(":")[0]


def of_one(
    kind: str, name: str, part: Part, inputs: Inputs, drawn: Sequence[Figure], order: Order, marks: Marks
) -> list[Block]:
    """Figures and tables of a kind, under a title of their own where the section has several kinds."""
    rows = [row for row in inputs.interpretation if row.kind == kind]
    if not rows:
        return []
    layout = layout_of(kind)
    titled = len(part.kinds) != 1 or bool(part.lead)
    words = [heading(layout.title), text(layout.lead)] if titled else []
    return [*words, *figures(drawn, kind), *of_kind(rows, layout, order, marks)]


def forensics(inputs: Inputs, order: Order) -> list[Block]:
    """Detectors of poisoned training examples."""
    return looked(inputs, order, "examples", "poisoned training examples, in per cent", EXAMPLES)


def scans(inputs: Inputs, order: Order) -> list[Block]:
    """Detectors of backdoored models."""
    return looked(inputs, order, "model", "backdoored models", MODEL)


def looked(inputs: Inputs, order: Order, look: str, words: str, names: Sequence[str]) -> list[Block]:
    """The table of the report on detectors that look in one way."""
    rows = [row for row in inputs.detection if row.look == look]
    blocks: list[Block] = []
    for place, mine in by_setting(rows, order):
        blocks += detected(f"{label(place[0])} · {label(place[1])}: {words}", mine, names, order)
    return [*blocks, facts([means(name) for name in names], folded="What the columns mean")] if blocks else []


LOOKS: dict[str, Callable[[Inputs, Order], list[Block]]] = {"forensics": forensics, "scans": scans}


def missing(shown: Collection[str], inputs: Inputs, records: Sequence[Interpreted]) -> Block:
    """The sections that this page lacks, each with the reason, and what the interpretations could not read."""
    items = []
    kinds = {row.kind for row in inputs.interpretation}
    asked = {str(block["kind"]) for one in records for block in one.spec.values()}
    for name, part in PARTS.items():
        lacking = [kind for kind in part.kinds if kind not in kinds]
        reasons = [
            f"{layout_of(kind).title}: "
            + ("asked for, but it gave no reading; its reasons are below." if kind in asked else NOT_ASKED)
            for kind in lacking
        ]
        if part.reason and name not in shown:
            reasons.insert(0, part.reason)
        if reasons:
            items.append((part.title, reasons))
    blocks = [facts(items)] if items else [text("Every section has something to show.")]
    if said := unread(records):
        blocks += [heading("What could not be read"), facts(said)]
    lead = "Nothing is left out silently: what this page could show and does not, with the reason."
    return section("missing", "What is missing", lead, blocks)


def unread(records: Sequence[Interpreted]) -> list[tuple[str, list[str]]]:
    """The sentences of the interpretations by block, each once, with how many runs it is about."""
    found: dict[str, dict[str, list[str]]] = {}
    for one in records:
        for name, sentences in one.notes.items():
            for words in dict.fromkeys(sentences):
                found.setdefault(name, {}).setdefault(words, []).append(one.id)
    about = {name: len([one for one in records if name in one.spec]) for name in found}
    return [
        (label(name), [f"{words} ({runs_of(ids, about[name])})" for words, ids in said.items()])
        for name, said in found.items()
    ]


def runs_of(ids: Sequence[str], total: int) -> str:
    """'all runs', or which."""
    if len(ids) == total:
        return "every run"
    return ", ".join(ids) if len(ids) < 4 else f"{len(ids)} of {total} runs"
