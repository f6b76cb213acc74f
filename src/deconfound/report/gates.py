"""What the trust gate says, in words: why a number is not believable, and what each check asks."""

import re
from collections.abc import Mapping

from deconfound.report.words import label

PASSED, FAILED, OPEN = "passed", "failed", "not assessed"
FEWER = "that gradient attacks leave standing and that"
CHECKS: Mapping[str, str] = {
    "answers": "Share of images for which the model raises an error or returns logits that are not finite. "
    "A model that does not answer has shown nothing, least of all robustness.",
    "repeats": "Share of images that get another answer when they are asked about again. Against a model that draws at "
    "random, attacks chase noise and look weaker than they are.",
    "independent": "Share of images whose answer depends on the other images of the batch. Then a rate says as much "
    "about the order of the test images as about the model.",
    "attacks_ran": "Whether one of the attacks could not work on this model, for lack of a gradient for instance. "
    "An attack that did not run has broken nothing, and that is not robustness.",
    "gradients": "Share of images at which the gradient is zero or not finite. Attacks that follow the gradient are "
    "blind there, so that images stand which another attack would break.",
    "exploding": "Share of images whose gradient is more than a thousand times as large as usual. So steep a slope "
    "misleads every attack that follows it.",
    "logits": "Share of images whose outputs look like probabilities. Probabilities are rounded to 0 or 1, which "
    "wipes out the gradient that attacks need.",
    "more_steps": "Share of images counted as robust that a longer attack breaks. "
    "The reported attacks stopped too early, so their number is too high.",
    "more_restarts": "Share of images counted as robust that an attack breaks when it starts again from other points. "
    "The reported attacks were stuck, so their number is too high.",
    "noise": f"Share of images {FEWER} random noise breaks. "
    "A gradient that is worse than chance leads nowhere: it is masked.",
    "black_box": f"Share of images {FEWER} an attack without gradients (Square) breaks. "
    "To know the model should help an attack; where it does not, the gradient is masked.",
    "transfer": f"Share of images {FEWER} images crafted on another model break. "
    "An attack on the model itself should be the stronger one; where it is not, the gradient is masked.",
    "logit_scale": "Share of images counted as robust that break once the logits are divided by a constant. This "
    "changes no prediction, so large logits had hidden the gradient from the reported attacks.",
    "growing_eps": "Largest rise of the accuracy when the radius grows. A larger budget contains the smaller one, so "
    "accuracy can only fall: where it rises, the attack searches badly.",
    "whole_box": "Share of images that stand although every picture is allowed. No model can be robust to that, "
    "so the attack does not work on this one.",
}


def has_failed(gate: str) -> bool:
    """Is a number of this gate not believable?"""
    return gate.startswith(FAILED)


def doubt(gate: str) -> str:
    """'Trust gate failed in 2 of 3 seeds: black box', or with the names of the sides; empty when it did not fail."""
    if not has_failed(gate):
        return ""
    sides = re.match(r"failed \((.*?)\)(?:;|$)", gate)
    if sides is None:
        return f"Trust gate {gate.split(';')[0]}"
    said = [re.sub(r"^\S+", lambda found: label(found[0]), side) for side in sides[1].split("; ")]
    return f"Trust gate: {'; '.join(said)}"


def said(gate: str) -> str:
    """The gate of a claim as prose, with its premise; names of defenses as everywhere else."""
    _, found, rest = gate.partition(")") if gate.startswith("failed (") else ("", "", "")
    return doubt(gate).removeprefix("Trust gate: ") + rest if found else gate
