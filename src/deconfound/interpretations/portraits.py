"""Activation maximisation: a picture that excites one unit.

Erhan, Bengio, Courville, Vincent, "Visualizing Higher-Layer Features of a Deep Network", Technical Report 1341,
University of Montreal, 2009, with the total variation and the jitter of later work. The ascent is the one of the
attacks, in a ball that holds the whole box; steps are normalised, so that the scale of a unit does not matter but
against the total variation. It begins at noise around the mean colour of the training images; where a unit is silent
there, behind its ReLU, nothing could be climbed, and it begins at the first of other pictures that wakes it.
"""

from collections.abc import Sequence

import torch
from torch import Generator, Tensor

from deconfound.attacks.ascent import Steepest, climb
from deconfound.detectors.layers import activations
from deconfound.fields import Count, Natural, NonNegative, Positive, hyperparameters
from deconfound.interpretations.layers import means, units_second
from deconfound.models.classifier import Classifier, eval_mode
from deconfound.threat import ThreatModel

START = 0.05  # pixel units: standard deviation of the noise that an ascent starts from


@hyperparameters
class Portrait:
    """steps of ascent, each of the length step_size (root mean square over the pixels, pixel units), on the mean
    activation of a unit over its positions minus `tv` times the total variation of the picture (mean over the pixels);
    before each step the picture is moved by up to `jitter` pixels either way, around the edges.
    """

    steps: Count = 64
    step_size: Positive = 0.03
    tv: NonNegative = 1.0
    jitter: Natural = 2

    def __call__(
        self,
        model: Classifier,
        name: str,
        units: Tensor,
        largest: Tensor,
        others: Sequence[Tensor],
        *,
        rng: Generator,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """A picture (u, C, H, W) in [0, 1] for each of units (u,) of a module; its activation there, (u,); and where it
        began: 0 at noise, k at the k-th of `others`, each (u, C, H, W) in [0, 1]; -1 if nothing wakes it. Activations
        count in parts of `largest` (u,); a unit where that is not positive counts nothing.
        """
        device = next(model.parameters()).device
        scale = torch.where(largest > 0, largest, torch.inf).to(device)
        places, side, shape = units.to(device), 2 * self.jitter + 1, others[0].shape

        def active(z: Tensor, rows: Tensor) -> Tensor:
            (h,), _ = activations(model, (name,), z, read=units_second)
            return means(h)[torch.arange(len(z), device=device), places[rows]] / scale[rows]

        def look(z: Tensor, rows: Tensor) -> tuple[Tensor, None]:
            down, right = (torch.randint(side, (2,), generator=rng) - self.jitter).tolist()
            moved = torch.roll(z, (down, right), (2, 3))
            return active(moved, rows) - self.tv * total_variation(z), None

        noise = (model.mean.view(1, -1, 1, 1) + START * torch.randn(shape, generator=rng).to(device)).clamp(
            0, 1
        )
        every = torch.arange(len(units), device=device)
        starts = torch.stack([noise, *(other.to(noise) for other in others)])
        width = float(shape[1:].numel()) ** 0.5  # of the box
        move = Steepest(ThreatModel(norm="l2", eps=width), self.step_size * width)
        with eval_mode(model):
            with torch.no_grad():
                awake = torch.stack([active(start, every) > 0 for start in starts])
            first = awake.int().argmax(0)
            start = starts[first, every]
            z = climb(look, start, start, move, steps=self.steps)
            with torch.no_grad():
                reached = active(z, every)
        return z.cpu(), reached.cpu(), torch.where(awake.any(0), first, -1).cpu()


def total_variation(z: Tensor) -> Tensor:
    """(n,): absolute differences of neighbouring pixels of pictures (n, C, H, W), both ways, over the number of
    pixels.
    """
    down, right = (z.diff(dim=dim).abs().flatten(1).sum(1) for dim in (2, 3))
    return (down + right) / z[0].numel()
