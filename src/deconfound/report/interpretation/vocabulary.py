"""Words for readings that all kinds share: subjects, the class that was asked for, how numbers are written."""

import math
import re
from collections.abc import Mapping
from enum import Enum

from deconfound.report.words import count, label, number

SUBJECTS: Mapping[str, str] = {
    "saliency": "saliency",
    "input_x_gradient": "input × gradient",
    "smooth_grad": "SmoothGrad",
    "integrated_gradients": "integrated gradients",
    "grad_cam": "Grad-CAM",
    "lrp": "LRP",
    "deep_lift": "DeepLIFT",
    "guided_backprop": "guided backpropagation",
    "occlusion": "occlusion",
    "shapley": "Shapley values",
    "kernel_shap": "KernelSHAP",
    "lime": "LIME",
    "confidence": "low confidence",
    "feature_squeezing": "feature squeezing",
    "leave_one_out": "leave one out",
    "ml_loo": "ML-LOO",
    "lid": "LID",
    "mahalanobis": "Mahalanobis",
    "signature": "attribution signature",
    "witnesses": "witnesses (AmI)",
    "last_conv": "last convolution",
    "penultimate": "penultimate layer",
    "jsma": "JSMA",
    "cw_l2": "C&W L2",
    "tcav": "TCAV",
    "ig_norm": "IG-NORM",
    "target": "the attacker's class",
}
"""In the order of the tables."""
RULES: Mapping[str, str] = {
    "pred_clean": "asked for the class predicted without attack",
    "true": "asked for the true class",
    "pred": "asked for the predicted class",
    "hoped": "asked for the attacker's class",
}
"""By the ending of a condition: which class a map was asked for."""


class Form(Enum):
    """How a number is written: in per cent, with two decimals, with three digits, or as passed (1) or failed (0), and
    the other way round.
    """

    SHARE = "share"
    SCORE = "score"
    PLAIN = "plain"
    PASSED = "passed"
    FAILED = "failed"


def shown(value: float, form: Form) -> str:
    """A number as text; a dash where there is none."""
    if math.isnan(value):
        return "–"
    if math.isinf(value):
        return "∞" if value > 0 else "−∞"
    if form in (Form.PASSED, Form.FAILED):
        good = value if form is Form.PASSED else 1 - value
        return {1.0: "passed", 0.0: "failed"}.get(good, f"passed in {number(good)} % of seeds")
    if form is Form.SHARE:
        return number(value)
    text = f"{value:.2f}" if form is Form.SCORE else f"{value:.3g}"
    if float(text) == 0:
        text = text.lstrip("-")
    return text.replace("-", "−")


def subject_words(name: str) -> str:
    """A subject as prose."""
    if found := re.fullmatch(r"images_(\d+)", name):
        return count(int(found[1]), "training image")
    return SUBJECTS.get(name) or label(name)


def split_rule(condition: str) -> tuple[str, str]:
    """A condition as situation and rule, 'success_true' as ('success', 'true'); the rule is empty where it has none."""
    for rule in RULES:
        if condition == rule:
            return "", rule
        if condition.endswith(f"_{rule}"):
            return condition.removesuffix(f"_{rule}"), rule
    return condition, ""


def subject_key(name: str) -> tuple[int, str]:
    """Sort key of a subject: as the tables list them, unknown ones last."""
    names = list(SUBJECTS)
    return (names.index(name) if name in SUBJECTS else len(names)), name
