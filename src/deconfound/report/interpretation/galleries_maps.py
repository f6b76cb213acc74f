"""Sheets of pictures of maps, and of what maps are held against."""

from deconfound.report.interpretation.files import Interpreted
from deconfound.report.interpretation.sheets import Arrays, Marks, begin, method, methods
from deconfound.report.interpretation.strips import Sheet, Strip, by_start, change, named, said
from deconfound.report.pictures import WRONG


def shift(one: Interpreted, name: str, arrays: Arrays, marks: Marks) -> list[Sheet]:
    """The images, then a sheet per map: untouched, attacked for both classes, and with noise."""
    if "gallery.clean" not in arrays:
        return []
    g = by_start(arrays, "gallery.")
    file, title = begin(one, name)
    clean = Strip("untouched, and the true class", g["clean"], named(one.classes, g["label"]))
    attacked = Strip(
        "attacked, and what it sees", g["attacked"], said(one.classes, g["predicted_attacked"], g["label"])
    )
    noisy = Strip(
        "random noise of the same size", g["noisy"], said(one.classes, g["predicted_noisy"], g["label"])
    )
    made = [
        Sheet(
            file,
            "gallery",
            f"{title}: the images",
            "Images that are misread under attack come first. The maps of the next figures are of these images.",
            [clean, attacked, change("change by the attack", g["clean"], g["attacked"]), noisy],
        )
    ]
    for subject in methods(arrays, "map."):
        words, doubt = method(one, subject, marks)
        maps = by_start(arrays, f"map.{subject}.")
        strips = [clean, *(Strip(STATES[key], maps[key], signed=True) for key in STATES if key in maps)]
        made.append(
            Sheet(
                begin(one, name, subject)[0],
                "gallery",
                f"{title}: {words}",
                "Maps of the images above, in each column on one scale (its limit stands below). Does the map of the "
                f"attacked image for the true class differ more from the first map than that with noise?{doubt}",
                strips,
            )
        )
    return made


STATES = {
    "clean": "map of the untouched image, true class",
    "attacked_true": "attacked, asked for the true class",
    "attacked_pred": "attacked, asked for the predicted class",
    "attacked": "attacked, asked for the class predicted before",
    "noisy_true": "noise of the same size, true class",
    "noisy": "noise of the same size",
}


def explanation(one: Interpreted, name: str, arrays: Arrays, marks: Marks) -> list[Sheet]:
    """A sheet: the images, and each map before the attack, after it, and with noise."""
    if "gallery.clean" not in arrays:
        return []
    g = by_start(arrays, "gallery.")
    file, title = begin(one, name)
    strips = [
        Strip(
            "untouched, and what the model sees (also after the attack)",
            g["clean"],
            named(one.classes, g["predicted"]),
        ),
        Strip("attacked", g["attacked"]),
    ]
    made = []
    for subject in methods(arrays, "map."):
        words, doubt = method(one, subject, marks)
        maps = by_start(arrays, f"map.{subject}.")
        rows = [
            Strip(STATES[key], maps[key], signed=True)
            for key in ("clean", "attacked", "noisy")
            if key in maps
        ]
        made.append(
            Sheet(
                f"{file}-{subject}",
                one.kind(name),
                f"{title}: {words} under an attack on explanations",
                "The answer stays, the map moves. The third map shows what noise of the same size does; each column "
                f"has one scale, its limit stands below.{doubt}",
                [*strips, *rows],
            )
        )
    return made[:2]


def mass(one: Interpreted, name: str, arrays: Arrays, marks: Marks) -> list[Sheet]:
    """A sheet per situation: images with the known region outlined, and the maps."""
    made = []
    for situation, words in SITUATIONS.items():
        part = by_start(arrays, f"{situation}.")
        if "images" not in part:
            continue
        subjects = methods(part, "maps.")
        doubts = "".join(dict.fromkeys(method(one, subject, marks)[1] for subject in subjects))
        masks = part["masks"]
        strips = [Strip("image, and the region", part["images"], masks=masks)]
        for subject in subjects:
            shown = method(one, subject, marks)[0]
            strips.append(Strip(shown, part[f"maps.{subject}"], signed=True, masks=masks))
        file, title = begin(one, name, situation)
        caption = (
            "Green: the region whose pixels are known to be the object, or the trigger. Does the strength of a map lie "
            f"inside? Every map has a scale of its own here.{doubts}"
        )
        made.append(Sheet(file, one.kind(name), f"{title}: {words}", caption, strips, alone=True))
    return made


SITUATIONS = {
    "clean": "untouched",
    "moved": "under do(style)",
    "stamped": "with trigger",
    "success": "misread under attack",
}


def gradients(one: Interpreted, name: str, arrays: Arrays, marks: Marks) -> list[Sheet]:
    """Images with their gradients, and what a large targeted ascent paints."""
    file, title = begin(one, name)
    made = []
    if "gradients" in arrays:
        made.append(
            Sheet(
                file,
                one.kind(name),
                f"{title}: gradients",
                "Gradient of the label's logit by the pixels, summed over colour channels. In robust models it looks "
                "more like the image; each column has its own scale.",
                [
                    Strip("image", arrays["images"]),
                    Strip("gradient", arrays["gradients"].sum(1), signed=True),
                ],
                unit="logit per unit of a pixel",
            )
        )
    if "paintings" in arrays:
        made.append(
            Sheet(
                f"{file}-paintings",
                one.kind(name),
                f"{title}: painted images",
                "A targeted ascent with a large budget, far beyond any attack. Where its picture looks like the "
                "target, the model's gradients point to what people see.",
                [
                    Strip("start, and its class", arrays["starts"], named(one.classes, arrays["labels"])),
                    Strip(
                        "painted, and its target",
                        arrays["paintings"],
                        named(one.classes, arrays["painted_targets"]),
                    ),
                ],
            )
        )
    return made


def patterns(one: Interpreted, name: str, arrays: Arrays, marks: Marks) -> list[Sheet]:
    """Natural and adversarial pattern, split among the pixels."""
    if "clean" not in arrays:
        return []
    file, title = begin(one, name)
    strips = [
        Strip("untouched, and its class", arrays["clean"], named(one.classes, arrays["labels"])),
        Strip(
            "attacked, and the wrong class",
            arrays["attacked"],
            [(w, WRONG) for w, _ in named(one.classes, arrays["wrong"])],
        ),
        Strip("evidence of the natural image for its class", arrays["natural"], signed=True),
    ]
    strips += [
        Strip(f"{word} by the perturbation", arrays[word], signed=True)
        for word in ("suppression", "promotion")
        if word in arrays
    ]
    words = (
        "Per pixel, its contribution to a logit: of the natural image, and of the perturbation to the fall of the "
        "label's logit (suppression) and the rise of the wrong one (promotion). One scale per column."
    )
    return [Sheet(file, one.kind(name), f"{title}: two patterns", words, strips, unit="logits")]


def style(one: Interpreted, name: str, arrays: Arrays, marks: Marks) -> list[Sheet]:
    """Pairs before and after do(style)."""
    if "before" not in arrays:
        return []
    file, title = begin(one, name)
    says = arrays["predictions"]
    strips = [
        Strip(
            "as it is, and what it sees", arrays["before"], said(one.classes, says[:, 0], arrays["labels"])
        ),
        Strip(
            "under do(style), and what it sees",
            arrays["after"],
            said(one.classes, says[:, 1], arrays["labels"]),
        ),
    ]
    words = "The same object on another ground; answers that changed come first, wrong ones are red."
    return [Sheet(file, one.kind(name), f"{title}: do(style)", words, strips)]
