"""Saliency alignment: what the network looks at shall look like the picture.

Adversarially trained networks have gradients that resemble the image (Etmann, Lunz, Maass and Schönlieb, "On the
Connection Between Adversarial Robustness and Saliency Map Interpretability", ICML 2019, arXiv:1905.04172); this loss
asks for the resemblance itself. It is ours, in the spirit of Chan, Tay, Ong and Fu, "Jacobian Adversarially Regularized
Networks for Robustness", ICLR 2020, arXiv:1912.10185, who train a discriminator, and of Singh et al., "Attributional
Robustness Training using Input-Gradient Spatial Alignment", ECCV 2020, arXiv:1911.13073, who take a triplet loss under
attack. It tells whether the resemblance is a cause of robustness or only goes with it.
"""

from typing import ClassVar, Literal

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from deconfound.defenses.input_gradient import FLATTENED, pixel_gradient
from deconfound.defenses.standard import cross_entropy
from deconfound.defenses.workbench import Adaptive, Defended, Workbench
from deconfound.fields import NonNegative, hyperparameters


@hyperparameters
class SaliencyAlignment:
    """weight: of 1 - cosine between an image (pixels in [0, 1], or centred) and the gradient, by its pixels, of the
    log-odds of its label; 0 is standard training, and on MNIST 5 left a network that knew nothing. centred: subtract
    the image's own mean per channel first, so that brightness alone is no resemblance. toward: the `image`, or, as a
    placebo, an `other` image of the batch.

    The cosine knows no length: the penalty bounds no gradient. Cross-entropy and penalty come from one forward pass in
    training mode, see `input_gradient`.
    """

    adaptive: ClassVar[Adaptive] = FLATTENED

    weight: NonNegative = 1.0
    centred: bool = False
    toward: Literal["image", "other"] = "image"

    def __call__(self, bench: Workbench) -> Defended:
        """Train on cross-entropy and misalignment."""
        model = bench.begin()
        bench.fit(model, self.objective)
        return Defended(model)

    def objective(self, model: nn.Module, x: Tensor, y: Tensor, *, rng: Generator) -> Tensor:
        """CE + weight * (1 - cosine), means over the batch; scalar."""
        if not self.weight:
            return cross_entropy(model, x, y, rng=rng)
        x = x.detach().requires_grad_(True)
        logits = model(x)
        maps = pixel_gradient(log_odds(logits, y), x)
        aim = x.detach()
        if self.toward == "other":
            aim = aim[another(len(aim), rng=rng).to(aim.device)]
        if self.centred:
            aim = aim - aim.mean((2, 3), keepdim=True)
        return F.cross_entropy(logits, y) + self.weight * (1 - alignment(maps, aim)).mean()


def log_odds(logits: Tensor, y: Tensor) -> Tensor:
    """log p_y / (1 - p_y) of logits (N, K) and labels y (N,): the logit of the label minus the log of the summed
    exponentials of the others, (N,).
    """
    true = logits.gather(1, y[:, None]).squeeze(1)
    return true - logits.scatter(1, y[:, None], -torch.inf).logsumexp(1)


def alignment(maps: Tensor, images: Tensor) -> Tensor:
    """Cosine (N,) between maps and images, both (N, C, H, W); 0 where one of them vanishes."""
    return F.cosine_similarity(maps.flatten(1), images.flatten(1), dim=1)


def another(count: int, *, rng: Generator) -> Tensor:
    """For each of `count` images the place of another one, (count,): the next in a random circle, so that every image
    is taken once and none for itself (a single image has no other).
    """
    order = torch.randperm(count, generator=rng)
    found = torch.empty_like(order)
    found[order] = order.roll(-1)
    return found
