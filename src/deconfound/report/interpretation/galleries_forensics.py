"""Sheets of what looks for the poison: the heads of the lists, and reversed triggers beside the true one."""

from collections.abc import Sequence

import numpy as np

from deconfound.report.interpretation.files import Array, Interpreted
from deconfound.report.interpretation.sheets import Arrays, Marks, begin
from deconfound.report.interpretation.strips import Sheet, Strip, Words, by_start
from deconfound.report.interpretation.vocabulary import subject_key, subject_words
from deconfound.report.pictures import WRONG
from deconfound.report.plotting import INK, part_name, part_of, parts

ACROSS = 10  # training images side by side
TOGETHER = 4  # detectors of one sheet
CLASSES = 10  # whose reversed triggers are shown
GREY = 0.5  # behind a pattern where its mask is empty
BACKDOORED = " In a backdoored network the mask of the attacker's class should be small and lie on the trigger (green)."
CLEAN = " Nothing is poisoned here: so small a mask can be without any backdoor, and an accusation is a false one."


def heads(one: Interpreted, name: str, arrays: Arrays, marks: Marks) -> list[Sheet]:
    """The most suspicious training images of every detector, in the order of its list."""
    lists = by_start(arrays, "top.")
    detectors = sorted({key.split(".")[0] for key in lists}, key=subject_key)
    known = bool(arrays["poisoned"].any())
    made, groups = [], parts(detectors, TOGETHER)
    for number, group in enumerate(groups):
        strips: list[Strip] = []
        for detector in group:
            poisoned = lists[f"{detector}.poisoned"].astype(bool)
            said = f"{int(poisoned.sum())} of {len(poisoned)} poisoned" if known else "no poison in this run"
            title = f"{subject_words(detector)}: {said}"
            labels = lists[f"{detector}.labels"]
            words = [
                (one.classes[int(k)], WRONG if bad else INK) for k, bad in zip(labels, poisoned, strict=True)
            ]
            strips += wrapped(title, lists[f"{detector}.images"], words)
        file, title = begin(one, name, "head", *part_name(number, len(groups)))
        made.append(
            Sheet(
                file,
                one.kind(name),
                f"{title}: the most suspicious training images{part_of(number, len(groups))}",
                "The head of each detector's list, the most suspicious first, row by row, with the labels that they "
                "bear; the labels of poisoned images are red. Images with equal scores stand in the order of the set.",
                strips,
                columns=ACROSS,
            )
        )
    return made


def wrapped(title: str, images: Array, words: Sequence[Words]) -> list[Strip]:
    """Images in as many rows as they need; the first one has the title."""
    return [
        Strip("" if start else title, images[start : start + ACROSS], words[start : start + ACROSS])
        for start in range(0, len(images), ACROSS)
    ]


def reversed_triggers(one: Interpreted, name: str, arrays: Arrays, marks: Marks) -> list[Sheet]:
    """The true trigger, and below it the masks and the patches of the classes."""
    if "masks" not in arrays:
        return []
    masks = arrays["masks"]
    target = int(arrays["trigger.target"][0]) if "trigger.target" in arrays else None
    shown = chosen(arrays["norms"], target)
    norms, accused = arrays["norms"], arrays["accused"].astype(bool)
    outlines = None
    if target is not None:
        outlines = np.zeros((len(shown), *masks.shape[1:]), bool)
        outlines[shown.index(target)] = arrays["trigger.changed"].astype(bool)
    patches = masks[:, None] * (arrays["patterns"] / 255.0) + (1 - masks[:, None]) * GREY
    names = [(one.classes[k], WRONG if accused[k] else INK) for k in shown]
    strips = [
        *(the_trigger(one, arrays, target) if target is not None else []),
        Strip(
            "reversed masks: white is stamped, black left alone", masks[shown][:, None], names, masks=outlines
        ),
        Strip(
            "reversed masks with their patterns, on grey; pixels of mask",
            patches[shown],
            [(f"{norms[k]:.3g}", INK) for k in shown],
        ),
    ]
    file, title = begin(one, name)
    caption = (
        "For each class the smallest patch that was found to send all images there; accused classes are red."
    )
    if target is not None:
        caption += BACKDOORED
    elif one.poison == "clean":
        caption += CLEAN
    if len(shown) < len(masks):
        caption += f" Of {len(masks)} classes those with the smallest masks."
    return [
        Sheet(
            file,
            one.kind(name),
            f"{title}: reversed triggers",
            caption,
            strips,
            columns=max(6, len(shown)),
        )
    ]


def the_trigger(one: Interpreted, arrays: Arrays, target: int) -> list[Strip]:
    """A victim without and with the trigger, the pixels that it changes, and the mask and patch of its class."""
    changed = np.repeat(
        arrays["trigger.changed"].astype(np.float64)[None], len(arrays["trigger.images"][0]), 0
    )
    images = np.concatenate([arrays["trigger.images"] / 255.0, changed[None]])
    words = [("without", INK), ("with", INK), ("changed", INK)]
    return [Strip(f"the true trigger, which asks for {one.classes[target]}", images, words)]


def chosen(norms: Array, target: int | None) -> list[int]:
    """The attacker's class first if there is one, then the others in their order, or those with the smallest masks."""
    rest = [int(k) for k in np.argsort(norms, kind="stable") if k != target]
    first = [] if target is None else [target]
    kept = rest[: CLASSES - len(first)]
    return first + (sorted(kept) if len(kept) == len(rest) else kept)
