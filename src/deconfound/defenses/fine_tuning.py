"""Fine-tuning: train the suspicious network on a few clean images, and hope that it forgets the trigger.

The baseline of every repair; settings of BackdoorBench (Wu et al., "BackdoorBench: A Comprehensive Benchmark of
Backdoor Learning", NeurIPS 2022, arXiv:2206.12654): SGD, momentum 0.9, cosine. Batches and augmentations are those of
the run's recipe. A small rate keeps accuracy and backdoor, a large one loses both, and clean images cannot tell where
between them the backdoor goes.
"""

from typing import ClassVar

from deconfound.defenses.repair import accuracy, clean_images, gently, suspect
from deconfound.defenses.standard import cross_entropy
from deconfound.defenses.workbench import GRADIENT, Adaptive, Defended, Workbench
from deconfound.fields import Count, NonNegative, Positive, hyperparameters


@hyperparameters
class FineTuning:
    """epochs: passes over the clean images, all of `val`. lr: learning rate at the start, cosine to zero.
    weight_decay: of SGD.
    """

    needs: ClassVar[tuple[str, ...]] = ("starts_from",)
    adaptive: ClassVar[Adaptive] = Adaptive(
        "clean images move only what they use: a trigger spread over the picture, or one that is also met without its"
        " label (cover images), shares little with them; and the result is a network without further parts",
        attacks=GRADIENT,
        poisons=("sig", "adap_blend", "blend", "badnets"),
    )

    epochs: Count = 100
    lr: Positive = 0.01
    weight_decay: NonNegative = 5e-4

    def __call__(self, bench: Workbench) -> Defended:
        """Train a copy of the network on the clean images."""
        model, images = suspect(bench), clean_images(bench)
        before = accuracy(model, images)
        recipe = gently(bench.recipe, epochs=self.epochs, lr=self.lr, weight_decay=self.weight_decay)
        bench.fit(model, cross_entropy, recipe=recipe, data=images)
        return Defended(model, notes={"clean_images": len(images.y), "accuracy_before": before})
