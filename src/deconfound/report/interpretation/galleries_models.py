"""Sheets of pictures of units, concepts and training images."""

from collections.abc import Sequence

import numpy as np

from deconfound.report.interpretation.files import Array, Interpreted
from deconfound.report.interpretation.sheets import Arrays, Marks, begin
from deconfound.report.interpretation.strips import Sheet, Strip, by_start
from deconfound.report.interpretation.vocabulary import subject_words
from deconfound.report.pictures import WRONG
from deconfound.report.plotting import INK


def components(one: Interpreted, name: str, arrays: Arrays, marks: Marks) -> list[Sheet]:
    """Per layer: the units that stand out, with a picture made to excite them and the images that do."""
    made = []
    for layer in sorted(key.removesuffix("_maximised") for key in arrays if key.endswith("_maximised")):
        strips = []
        for unit, painted, best in zip(
            arrays[f"{layer}_units"], arrays[f"{layer}_maximised"], arrays[f"{layer}_top_images"], strict=True
        ):
            row = np.concatenate([painted[None], best])
            words = [("made for it", INK), *((f"number {i + 1}", INK) for i in range(len(best)))]
            strips.append(Strip(f"unit {int(unit)}", row, words))
        file, title = begin(one, name, layer)
        made.append(
            Sheet(
                file,
                one.kind(name),
                f"{title}: units of the {subject_words(layer)}",
                "First a picture that was made to excite the unit, then the test images that excite it most. What "
                "they have in common is a guess at what the unit answers to.",
                strips,
            )
        )
    return made


def concepts(one: Interpreted, name: str, arrays: Arrays, marks: Marks) -> list[Sheet]:
    """What the concepts look like."""
    if "examples" not in arrays:
        return []
    file, title = begin(one, name)
    strips = [
        Strip(subject_words(str(word)), images)
        for word, images in zip(arrays["concepts"], arrays["examples"], strict=True)
    ]
    words = "Test images with each concept added: the examples that define its direction."
    return [Sheet(file, one.kind(name), f"{title}: the concepts", words, strips)]


def influence(one: Interpreted, name: str, arrays: Arrays, marks: Marks) -> list[Sheet]:
    """Per condition: images that are asked about, each with the training images that helped and that harmed."""
    made = []
    for condition in ("trigger", "attack", "clean"):
        part = by_start(arrays, f"{condition}_")
        if "images" not in part:
            continue
        strips = []
        for i, image in enumerate(part["images"]):
            answer = one.classes[int(part["given"][i])]
            strips.append(
                Strip(
                    f"image {i + 1}, read as {answer}; then the most helpful",
                    *around(one, part, "helpful", i, image),
                )
            )
            strips.append(
                Strip(f"image {i + 1}; then the most harmful", *around(one, part, "harmful", i, image))
            )
        file, title = begin(one, name, condition)
        made.append(
            Sheet(
                file,
                one.kind(name),
                f"{title}: {CONDITIONS[condition]}",
                "Training images that pull towards the answer (helpful) and away from it (harmful), by their "
                "influence in the last layer, with their labels; poisoned ones are red.",
                strips,
            )
        )
    return made[:2]


CONDITIONS = {"trigger": "images with the trigger", "attack": "attacked images", "clean": "untouched images"}


def around(
    one: Interpreted, part: Arrays, side: str, i: int, image: Array
) -> tuple[Array, Sequence[tuple[str, str]]]:
    """An image with its training images on one side, and the words below them."""
    found = part[side][i]
    poisoned = part[f"{side}_poisoned"][i] if f"{side}_poisoned" in part else np.zeros(len(found), bool)
    words = [
        (one.classes[int(given)], WRONG if bad else INK)
        for given, bad in zip(part[f"{side}_labels"][i], poisoned, strict=True)
    ]
    return np.concatenate([image[None], found]), [("asked about", INK), *words]


def poisoning(one: Interpreted, name: str, arrays: Arrays, marks: Marks) -> list[Sheet]:
    """Training images before and after an attacker changed them, behind the test image that they were to turn."""
    if "target" not in arrays:
        return []
    file, title = begin(one, name)
    target = arrays["target"][None]
    rows = [np.concatenate([target, arrays[side]]) for side in ("before", "after")]
    first = (one.classes[int(arrays["label"].ravel()[0])], INK)
    words = [first, *(("training", INK) for _ in arrays["before"])]
    strips = [
        Strip("the chosen test image; training images before", rows[0], words),
        Strip("the chosen test image; training images after", rows[1], words),
    ]
    caption = "Training images that were moved along their influence, so that the first image is misread."
    return [Sheet(file, one.kind(name), f"{title}: poisoning by influence", caption, strips)]
