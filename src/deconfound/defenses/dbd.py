"""DBD: learn to see without labels, then trust the labels that agree with what is seen.

Huang, Li, Wu, Qin and Ren, "Backdoor Defense via Decoupling the Training Process", ICLR 2022, arXiv:2202.03423. Stages
and defaults are those of the authors' code: a body trained by SimCLR, a linear head on the frozen body, training with
the half of the labels that fit and without the others. Here an epoch of the last stage is one pass over the training
set, not 1,024 batches of each half, and the last epoch counts; the release also stores the best one on the test set.
"""

from dataclasses import replace
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from deconfound.defenses.abl import AS_STORED, constant, lowest
from deconfound.defenses.contrastive import Contrast, projecting
from deconfound.defenses.semi_supervised import MixMatch, places
from deconfound.defenses.standard import cross_entropy
from deconfound.defenses.workbench import Adaptive, Defended, Workbench
from deconfound.fields import (
    Count,
    Fraction01,
    Natural,
    NonNegative,
    OpenFraction,
    Positive,
    hyperparameters,
)
from deconfound.models.classifier import Classifier, eval_mode, predict
from deconfound.optimisers import batches
from deconfound.types import Images

CE, RCE = 0.1, 1.0  # weights of the two halves of the symmetric cross-entropy
P_FLOOR, LABEL_FLOOR = 1e-7, 1e-4


@hyperparameters
class DBD:
    """Body: contrastive_epochs of SimCLR from the rate contrastive_lr (cosine) in batches of contrastive_batch, at
    `temperature`; the release ran up to 1,000 epochs. Its views: area, the smallest part of a picture that is shown;
    jitter, of brightness, contrast and saturation; grey, the share without colour.

    Head: warmup_epochs of Adam at warmup_lr with the symmetric cross-entropy, the body frozen in evaluation mode (the
    release lets its batch statistics move). keep: the fraction of examples of the lowest symmetric cross-entropy that
    keep their labels; resplit: after every epoch of `mixmatch` again, by the network as it then is.

    finish: `mixmatch`, or `supervised` training on the kept labels and on the head's predictions for the others, which
    is less than DBD (DBD-lite). finish_epochs, finish_lr: by default those of the run's recipe, of which the optimiser
    is in any case; the release takes Adam at 0.002 for 190 epochs. guesses, sharpening, mixing, unlabelled_weight: of
    MixMatch, its number of views, temperature, Beta parameter and final weight of the guessed half. crop, flip: pixels
    of padding and mirroring of the views of head and finish; flip also of the body's.
    """

    adaptive: ClassVar[Adaptive] = Adaptive(
        "poison whose label fits what is seen keeps its label: clean-label triggers, and triggers so plain that the"
        " body gathers the stamped images of itself",
        poisons=("badnets", "sig", "label_consistent"),
    )

    contrastive_epochs: Count = 100
    contrastive_lr: Positive = 0.4
    contrastive_batch: Annotated[Natural, Field(ge=2)] = 512
    temperature: Positive = 0.5
    area: OpenFraction = 0.2
    jitter: Annotated[NonNegative, Field(le=1)] = 0.4
    grey: Fraction01 = 0.2
    warmup_epochs: Count = 10
    warmup_lr: Positive = 2e-3
    keep: OpenFraction = 0.5
    resplit: bool = True
    finish: Literal["mixmatch", "supervised"] = "mixmatch"
    finish_epochs: Count | None = None
    finish_lr: Positive | None = None
    guesses: Count = 2
    sharpening: Positive = 0.5
    mixing: Positive = 0.75
    unlabelled_weight: NonNegative = 15.0
    crop: Natural = 4
    flip: bool = True

    def __call__(self, bench: Workbench) -> Defended:
        """Train the body without labels, the head on it, choose whose labels to keep, then train both."""
        model = bench.begin()
        self._see(bench, model)
        views = replace(bench.recipe, crop=self.crop, flip=self.flip, cutout=0)
        recipe = replace(
            constant(views, self.warmup_epochs, self.warmup_lr), optimizer="adam", weight_decay=0.0
        )
        bench.fit(model, frozen_body, phase="warmup", recipe=recipe)
        losses = sce_losses(model, bench.data)
        kept = lowest(losses, self.keep)
        finish = replace(views, epochs=self.finish_epochs or views.epochs, lr=self.finish_lr or views.lr)
        last = kept
        if self.finish == "supervised":
            guessed = predict(model, bench.data.x).argmax(1)
            relabelled = Images(bench.data.x, torch.where(kept, bench.data.y.cpu(), guessed))
            bench.fit(model, cross_entropy, recipe=finish, data=relabelled)
        else:
            objective = MixMatch(
                bench.data,
                kept,
                model.head.out_features,
                finish,
                guesses=self.guesses,
                temperature=self.sharpening,
                alpha=self.mixing,
                weight=self.unlabelled_weight,
                judge=(lambda model: lowest(sce_losses(model, bench.data), self.keep))
                if self.resplit
                else None,
            )
            every = len(batches(len(kept), finish.batch_size, drop_last=finish.drop_last))
            bench.fit(
                model,
                objective,
                recipe=finish,
                data=places(bench.data),
                watch=objective.after_epoch,
                every=every,
            )
            last = objective.kept
        notes = {"kept": float(kept.sum()), "kept_to_the_end": float((kept & last).sum())}
        trace = {"kept": kept.numpy(), "dropped": (~kept).numpy(), "sce_loss": losses.numpy()}
        return Defended(model, trace=trace, notes=notes)

    def _see(self, bench: Workbench, model: Classifier) -> None:
        """Train the body in place, by SimCLR."""
        contrast = Contrast(
            temperature=self.temperature, area=self.area, jitter=self.jitter, grey=self.grey, flip=self.flip
        )
        recipe = replace(
            bench.recipe,
            epochs=self.contrastive_epochs,
            lr=self.contrastive_lr,
            batch_size=self.contrastive_batch,
            schedule="cosine",
            **AS_STORED,
        )
        network = projecting(model, rng=bench.rng("projection"))
        bench.fit(network, contrast, phase="contrastive", recipe=recipe)


def frozen_body(model: nn.Module, x: Tensor, y: Tensor, *, rng: Generator) -> Tensor:
    """Mean symmetric cross-entropy of the head, whose body gets no gradient and keeps its batch statistics."""
    assert isinstance(model, Classifier)
    with torch.no_grad(), eval_mode(model):
        z = model.features(x)
    return symmetric_cross_entropy(model.head(z), y).mean()


def symmetric_cross_entropy(logits: Tensor, y: Tensor) -> Tensor:
    """0.1 CE + 1 RCE of each example, (N,) nats. RCE, the cross-entropy with label and prediction exchanged, takes
    probabilities of at least 1e-7 and one-hot labels of at least 1e-4.

    Wang et al., "Symmetric Cross Entropy for Robust Learning with Noisy Labels", ICCV 2019, arXiv:1908.06112.
    """
    p = logits.softmax(1).clamp(P_FLOOR, 1)
    label = F.one_hot(y, logits.shape[1]).float().clamp(LABEL_FLOOR, 1)
    reverse = -(p * label.log()).sum(1)
    return CE * F.cross_entropy(logits, y, reduction="none") + RCE * reverse


def sce_losses(model: nn.Module, data: Images) -> Tensor:
    """Symmetric cross-entropy (N,) of each training example against its given label, in evaluation mode, on the CPU."""
    return symmetric_cross_entropy(predict(model, data.x), data.y.cpu())
