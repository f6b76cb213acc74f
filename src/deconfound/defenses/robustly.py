"""How every adversarial defense runs its training: one loop, with or without a look at `val` after each epoch."""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from deconfound.attacks.ascent import Ascent
from deconfound.attacks.scores import cross_entropy
from deconfound.defenses.workbench import Defended, Validation, Workbench
from deconfound.models.classifier import Classifier, eval_mode, to_unit
from deconfound.types import Images, Objective

BATCH = 512  # images attacked at a time


def train_robustly(
    bench: Workbench,
    model: Classifier,
    objective: Objective,
    ascent: Ascent,
    validation: Validation,
    *,
    notes: Callable[[], Mapping[str, float | str]] | None = None,
    parts: Callable[[], Mapping[str, Tensor]] | None = None,
) -> Defended:
    """Train `model` in place; `track` records accuracy under the ascent on `val` after each epoch, `best` keeps the
    weights of the best one (early stopping, Rice et al., "Overfitting in adversarially robust deep learning", ICML
    2020). notes and parts are asked for after the training.
    """

    def validate(model: Classifier) -> float:
        return robust_accuracy(model, bench.val, ascent, rng=bench.rng("validation"))

    watched = validation != "none" and len(bench.val.y) > 0
    bench.fit(
        model, objective, validate=validate if watched else None, keep_best=watched and validation == "best"
    )
    return Defended(model, notes=notes() if notes else {}, parts=parts() if parts else {})


def robust_accuracy(model: Classifier, images: Images, ascent: Ascent, *, rng: torch.Generator) -> float:
    """Accuracy on images (N, C, H, W) uint8 after an ascent on the cross-entropy, in evaluation mode; a fraction."""
    device = next(model.parameters()).device
    right = 0
    with eval_mode(model):
        for x, y in zip(images.x.split(BATCH), images.y.split(BATCH), strict=True):  # type: ignore[no-untyped-call]
            x, y = to_unit(x.to(device)), y.to(device)

            def score(z: Tensor, y: Tensor = y) -> Tensor:
                return cross_entropy(model(z), y)

            x_adv = ascent(score, x, rng=rng)
            with torch.no_grad():
                right += int((model(x_adv).argmax(1) == y).sum())
    return right / len(images.y)
