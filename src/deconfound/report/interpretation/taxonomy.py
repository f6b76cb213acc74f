"""The boxes of the survey: what each asks, which components here stand for it, and where their numbers are.

N. Liu, M. Du, R. Guo, H. Liu, X. Hu, "Adversarial Attacks and Defenses: An Interpretation Perspective", ACM SIGKDD
Explorations 23(1), 2021, arXiv:2004.11488. The division into boxes is the survey's; which method of a box stands for it
is our choice.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from deconfound.report.blocks import Block, column, section, table
from deconfound.report.interpretation.vocabulary import subject_words

REPORT = "../robustness.html"


@dataclass(frozen=True)
class Box:
    """A box: its name, its question for a student, the kinds that stand for it, and the sections (of this page, or with
    a '#' of the report) in which their numbers are.
    """

    name: str
    question: str
    kinds: Sequence[str]
    places: Sequence[str]


BOXES: Mapping[str, Box] = {
    "F0": Box(
        "explaining by gradients",
        "If this pixel changed a little, how much would the score of the class change?",
        (
            *("saliency", "input_x_gradient", "smooth_grad", "integrated_gradients", "grad_cam", "lrp"),
            *("deep_lift", "guided_backprop"),
        ),
        ("gallery", "shift", "map_trust"),
    ),
    "F1": Box(
        "explaining by hiding parts",
        "If this part of the image were missing, how much would the score fall?",
        ("occlusion", "shapley", "kernel_shap", "lime"),
        ("gallery", "shift", "map_trust"),
    ),
    "F2": Box(
        "explaining by training examples",
        "Which training images made the model answer like this?",
        ("influential_examples", "influence", "poison_forensics"),
        ("influence", "forensics"),
    ),
    "A1": Box(
        "attacks that follow gradients",
        "Which small change of the pixels makes the answer wrong?",
        ("fgsm", "bim", "pgd", "cw_l2", "deepfool", "ddn", "apgd", "jsma", "autoattack"),
        ("#evasion", "shift"),
    ),
    "A2": Box(
        "attacks that imitate or explain a black box",
        "Can the model be fooled by somebody who only sees its answers?",
        ("substitute", "patch_ranking", "square", "transfer"),
        ("#evasion",),
    ),
    "A3": Box(
        "attacks by influence",
        "Which training images must be changed, and how, so that one test image is misread?",
        ("influence_poisoning",),
        ("influence",),
    ),
    "D1": Box(
        "training with explanations",
        "Does a model become robust when its gradients are kept small or sensible?",
        (
            *(
                "input_gradient",
                "jacobian",
                "saliency_alignment",
                "ig_norm",
                "interpretability_aware",
                "distillation",
            ),
            "adversarial_training",
        ),
        ("panel", "#evasion"),
    ),
    "D2": Box(
        "detecting by explanations",
        "Do explanations of attacked images look different?",
        ("ml_loo", "leave_one_out", "signature", "feature_squeezing"),
        ("detectors",),
    ),
    "M0": Box(
        "explaining single components",
        "What does this unit of the network answer to?",
        ("components", "prune_curve"),
        ("neurons",),
    ),
    "M1": Box(
        "explaining representations",
        "Which human idea is a direction in the network's features?",
        ("concepts",),
        ("concepts",),
    ),
    "A4": Box(
        "attacks on components",
        "Can a few units be made to obey a trigger?",
        ("trojan_optimised", "trojan", "badnets"),
        ("neurons", "#backdoor"),
    ),
    "A5": Box(
        "attacks on representations",
        "Can the features of one image be given to another, or one change fool on all images?",
        ("universal", "feature_adversary"),
        ("detectors", "#evasion"),
    ),
    "D3": Box(
        "repairing components",
        "Does the backdoor go when some units are taken away or trained again?",
        ("fine_pruning", "clp", "anp", "neural_cleanse", "denoising_cnn"),
        ("neurons", "#backdoor"),
    ),
    "D4": Box(
        "detecting by components and features",
        "Do the activations of attacked images, of poisoned training images, or of backdoored models stand out?",
        (
            *("mahalanobis", "lid", "witnesses", "activation_clustering", "spectral_signatures"),
            *("neural_cleanse", "stimulation", "poison_forensics", "trigger_inversion"),
        ),
        ("detectors", "forensics", "scans"),
    ),
    "D5": Box(
        "defending representations",
        "Do the concepts in an image agree with the predicted class?",
        ("concepts", "feature_squeezing"),
        ("concepts", "detectors"),
    ),
    "R1": Box(
        "attacks on explanations",
        "Can the map be changed while the answer stays?",
        ("explanation_attack", "fragile", "attention", "manipulation"),
        ("explanations",),
    ),
    "R2": Box(
        "robust models explain better",
        "Do the gradients of robust models look more like the image?",
        ("robust_interpretability",),
        ("panel",),
    ),
    "R3": Box(
        "explanations explain attacks",
        "Which evidence does a perturbation remove, and which does it add?",
        ("patterns", "robust_features", "non_robust_features"),
        ("causal", "#evasion"),
    ),
    "R4": Box(
        "open challenges",
        "Does the explanation hold when the cause itself is changed, and when the attacker knows the defense?",
        ("object_mass", "trigger_mass", "style_dependence", "adversarial_detection"),
        ("causal", "detectors"),
    ),
}
LEAD = (
    "Liu and others (2021) order the field into boxes: ways to explain a model, attacks and defenses that use each of "
    "them, and what robustness and explanations have to do with each other. Each box is here with its question, what "
    "stands for it in this project, what of it this experiment contains, and where to look."
)


def taxonomy(config: Any, sections: Mapping[str, str]) -> Block:
    """A row per box. config: the experiment's parts; sections: titles of the sections of this page by name."""
    used = kinds_of(config)
    columns = [
        column("box"),
        column("question", prose=True),
        column("stands for it here", prose=True),
        column("where", prose=True),
    ]
    body = [row(name, box, used, sections) for name, box in BOXES.items()]
    notes = ["In brackets: part of the project, but not of this experiment."]
    return section("boxes", "The boxes of the survey", LEAD, table("Box by box", columns, body, notes=notes))


def row(name: str, box: Box, used: Collection[str], sections: Mapping[str, str]) -> list[Block]:
    """One box; its place is the first section that exists."""
    mine = [subject_words(kind) for kind in box.kinds if kind in used]
    rest = [subject_words(kind) for kind in box.kinds if kind not in used]
    said = ", ".join(mine) + (" " if mine and rest else "") + (f"({', '.join(rest)})" if rest else "")
    where: Block = {"text": "configured, without numbers here" if mine else "not in this experiment"}
    for place in box.places:
        if place.startswith("#") and mine:
            where = {"text": f"report: {place[1:]}", "href": f"{REPORT}{place}"}
            break
        if place in sections and mine:
            where = {"text": sections[place], "href": f"#{place}"}
            break
    return [{"text": f"{name}: {box.name}"}, {"text": box.question}, {"text": said}, where]


def kinds_of(value: Any) -> set[str]:
    """Every `kind` anywhere in a configuration."""
    return set(_kinds(value))


def _kinds(value: Any) -> Iterator[str]:
    if isinstance(value, Mapping):
        if isinstance(value.get("kind"), str):
            yield value["kind"]
        for part in value.values():
            yield from _kinds(part)
    elif isinstance(value, list | tuple):
        for part in value:
            yield from _kinds(part)
