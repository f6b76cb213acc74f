"""What every number of the page silently presupposes: targets, baselines, steps, layers, sample counts, limits."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from deconfound.report.blocks import Block, facts, section, text
from deconfound.report.interpretation.files import Interpreted
from deconfound.report.words import label

LIMITS = (
    (
        "Which class",
        [
            "A map explains the score of one class; tables and pictures say of which. `Predicted` is the class "
            "predicted on the very image."
        ],
    ),
    (
        "Which score",
        [
            "The logit of that class, unless the settings of a map say otherwise. A map of a probability vanishes "
            "where the model is certain."
        ],
    ),
    (
        "Sign and colour",
        [
            "Red raises the score of the class, blue lowers it. Measures of overlap look at strengths (absolute "
            "values, summed over colour channels), unless they are called signed."
        ],
    ),
    (
        "Not covered",
        [
            "Triggers that differ from image to image have no fixed place, so that mass and deletion say little; "
            "physical attacks are out of scope; so are maps of models other than image classifiers."
        ],
    ),
    (
        "Evidence, not proof",
        [
            "Maps are evidence about what the model is sensitive to, not proof of a cause. Only the interventions of "
            "this page (erasing, putting in, changing the style) change a cause."
        ],
    ),
)
SHOWN = (
    "examples",
    "held",
    "targets",
    "baseline",
    "steps",
    "samples",
    "layer",
    "layers",
    "eps",
    "norm",
    "scalar",
)


def footnotes(records: Sequence[Interpreted]) -> Block:
    """The footnotes, and the settings of each interpretation in one line; all settings are in the evidence."""
    blocks = [facts([(name, list(words)) for name, words in LIMITS])]
    if known := settings(records):
        blocks += [facts(known, folded="Settings that move the numbers (all of them are in the evidence)")]
    if not known:
        blocks.append(text("No interpretation was run."))
    lead = "What to keep in mind for every number of this page."
    return section("footnotes", "Footnotes", lead, blocks)


def settings(records: Sequence[Interpreted]) -> list[tuple[str, list[str]]]:
    """By block: the named settings that readers ask about."""
    found: dict[str, list[str]] = {}
    for one in records:
        for name, block in one.spec.items():
            found.setdefault(name, list(asked(block)))
    return [(label(name), words) for name, words in found.items() if words]


def asked(block: Mapping[str, Any], place: str = "") -> Iterator[str]:
    """'examples 100', 'attack: eps 0.1' of a block and of the blocks in it."""
    for key, value in block.items():
        if isinstance(value, Mapping):
            yield from asked(value, f"{place}{label(key)}: ")
        elif key in SHOWN:
            words = ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
            yield f"{place}{key.replace('_', ' ')} {words}"
