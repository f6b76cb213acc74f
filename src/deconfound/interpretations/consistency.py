"""Consistency with concepts: do an image's derivatives look like those of other images with the same prediction?

After an idea in the survey by Liu et al., "Adversarial Attacks and Defenses: An Interpretation Perspective", SIGKDD
Explorations 2021, arXiv:2004.11488; the form is ours. Held-out images alone teach it, no trigger and no attack: signs
of the derivatives of the predicted class's logit along directions towards each class and each edit of `concepts`. The
score of an image is their mean distance from those that are typical of its prediction.
"""

import torch
from torch import Tensor

from deconfound.detectors.layers import gradients
from deconfound.interpretations.case import Case
from deconfound.interpretations.layers import BATCH, means, outputs
from deconfound.models.classifier import Classifier, to_unit


class Reader:
    """Reads one layer of the model of a case, float64 on the CPU."""

    def __init__(self, case: Case, name: str) -> None:
        self.case, self.name = case, name

    def heights(self, x: Tensor) -> Tensor:
        """Activations (N, D) of images (N, C, H, W), uint8 or in [0, 1]."""
        return means(outputs(self.case.model, self.name, x)).double()

    def derivatives(self, x: Tensor, target: Tensor) -> Tensor:
        """(N, D): of the logits of the classes target (N,)."""
        model: Classifier = self.case.model
        parts = zip(torch.split(x, BATCH), torch.split(target, BATCH), strict=True)
        found = [gradients(model, self.name, to_unit(z.to(self.case.device)), y) for z, y in parts]
        return torch.cat(found).double().cpu()


class Consistency:
    """What derivatives along directions (M, D) look like on held-out images (N, C, H, W), by predicted class."""

    def __init__(self, reader: Reader, val: Tensor, directions: Tensor, classes: int) -> None:
        self.reader, self.directions = reader, directions
        signs, labels = self._signs(val)
        count = torch.bincount(labels, minlength=classes).clamp_min(1)[:, None]
        self.typical = signs.new_zeros(classes, len(directions)).index_add_(0, labels, signs) / count

    def score(self, x: Tensor) -> Tensor:
        """(n,) in [0, 1]; a half for a class that no held-out image was given."""
        signs, labels = self._signs(x)
        return (signs - self.typical[labels]).abs().mean(1) / 2

    def _signs(self, x: Tensor) -> tuple[Tensor, Tensor]:
        labels = self.reader.case.logits(x).argmax(1)
        slopes = self.reader.derivatives(x, labels) @ self.directions.T
        return slopes.sign(), labels.cpu()
