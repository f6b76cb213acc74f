"""Which map can be trusted: whether the marked pixels move the output, and whether the map depends on the network.

Deletion and insertion curves: Petsiuk, Das, Saenko, "RISE", BMVC 2018, arXiv:1806.07421. Randomised weights and
labels: Adebayo et al., "Sanity Checks for Saliency Maps", NeurIPS 2018, arXiv:1810.03292. Infidelity and sensitivity:
Yeh et al., "On the (In)fidelity and Sensitivity of Explanations", NeurIPS 2019, arXiv:1901.09392.
"""

import copy
from dataclasses import dataclass
from itertools import combinations
from typing import Any, Literal

import torch
from torch import Generator, Tensor, nn

from deconfound.attributions.asking import Attribution, Scalar, ScalarName, check, logit_weights, scalars
from deconfound.attributions.baselines import Baseline
from deconfound.attributions.shift import Shift, signed_spearman, spearman
from deconfound.errors import UserError
from deconfound.models.classifier import Classifier, eval_mode, predict
from deconfound.rng import global_seed
from deconfound.types import Images

Order = Literal["signed", "absolute"]


@dataclass(frozen=True)
class Curves:
    """Probability of the target class (N, Q) as a growing share of the pixels is replaced by the baseline (deletion)
    or put back into it (insertion): the marked pixels first, or in random order (a mean over orders).
    """

    deletion: Tensor
    insertion: Tensor
    random_deletion: Tensor
    random_insertion: Tensor

    def areas(self) -> dict[str, Tensor]:
        """Areas under the curves (N,), from 0 to 1. Of a faithful map deletion is below its random reference, and
        insertion above.
        """
        return {name: _area(curve) for name, curve in vars(self).items()}


def curves(
    model: Classifier,
    x: Tensor,
    target: Tensor,
    maps: Tensor,
    *,
    rng: Generator,
    baseline: Baseline | None = None,
    order: Order = "signed",
    points: int = 21,
    orders: int = 3,
) -> Curves:
    """Deletion and insertion curves of maps (N, C, H, W) of images x (N, C, H, W).

    baseline: by default the mean colour. order: pixels with the largest evidence for the target first, or the strongest
    of either sign; ties go to the pixel that comes first. points: on a curve, from no pixel to all. orders: random
    ones.
    """
    check(x, target)
    (blank,) = (baseline or Baseline(kind="mean")).maker(model, x.shape[1:], rng=rng)(x)[:1]
    flat = (maps.sum(1) if order == "signed" else maps.abs().sum(1)).flatten(1).cpu()
    chosen = flat.argsort(stable=True, dim=1, descending=True)
    pixels = flat.shape[1]

    def both(ranking: Tensor) -> tuple[Tensor, Tensor]:
        ranks = torch.empty_like(ranking).scatter(1, ranking, torch.arange(pixels).expand_as(ranking))
        ranks = ranks.view(len(x), 1, *x.shape[2:]).to(x.device)
        falls: list[Tensor] = []
        rises: list[Tensor] = []
        for point in range(points):
            marked = ranks < round(pixels * point / (points - 1))
            for found, image in (
                (falls, torch.where(marked, blank, x)),
                (rises, torch.where(marked, x, blank)),
            ):
                found.append(predict(model, image).softmax(1).gather(1, target.cpu()[:, None])[:, 0])
        return torch.stack(falls, 1), torch.stack(rises, 1)

    deletion, insertion = both(chosen)
    drawn = [both(torch.randperm(pixels, generator=rng).expand_as(chosen)) for _ in range(orders)]
    return Curves(deletion, insertion, *(torch.stack([pair[i] for pair in drawn]).mean(0) for i in (0, 1)))


def completeness_error(
    model: Classifier,
    x: Tensor,
    target: Tensor,
    maps: Tensor,
    *,
    rng: Generator,
    baseline: Baseline,
    scalar: ScalarName = "logit",
) -> tuple[Tensor, Tensor]:
    """What a map's sum lacks to the scalar of the image minus that of its baseline (N,), absolute and relative to that
    difference. Of several baselines their mean; with `uniform`, rng must be where the method's was.
    """
    blanks = baseline.maker(model, x.shape[1:], rng=rng)(x)
    own = scalars(model, x, target, scalar=scalar)
    gaps = torch.stack([own - scalars(model, x, target, at=blank, scalar=scalar) for blank in blanks]).mean(0)
    error = (maps.double().sum((1, 2, 3)) - gaps).abs()
    return error, error / gaps.abs()


def cascade(
    method: Attribution,
    model: Classifier,
    x: Tensor,
    target: Tensor,
    *,
    rng: Generator,
    measure: Shift = signed_spearman,
) -> dict[str, Tensor]:
    """Agreement (N,) of a method's maps with those after the layers from the head down to each named one have been
    given fresh weights, on copies. It must fall: a map that survives does not depend on what was learnt.

    measure: with signs by default. Without them (`spearman`) maps that multiply by the pixel stay alike on images with
    a black background whatever the weights are, since they are 0 in the same places.
    Parameters outside layers that can be reset (a class token) keep their values.
    """
    seed = _seed(rng)
    own = method(model, x, target, rng=_at(seed))
    twin, found = copy.deepcopy(model), dict[str, Tensor]()
    for name in resettable(model):
        with global_seed(rng):
            layer: Any = twin.get_submodule(name)
            layer.reset_parameters()
        found[name] = measure(own, method(twin, x, target, rng=_at(seed)))
    return found


def resettable(model: nn.Module) -> list[str]:
    """Names of the layers with weights of their own that can be drawn anew, the last one first."""
    return [
        name
        for name, module in reversed(list(model.named_modules()))
        if hasattr(module, "reset_parameters") and next(module.parameters(recurse=False), None) is not None
    ]


def shuffled_labels(data: Images, *, rng: Generator) -> Images:
    """A training set whose labels are permuted at random: a network trained on it has learnt nothing but its images."""
    return Images(data.x, data.y[torch.randperm(len(data.y), generator=rng).to(data.y.device)])


def label_check(
    method: Attribution,
    model: Classifier,
    shuffled: Classifier,
    x: Tensor,
    target: Tensor,
    *,
    rng: Generator,
    measure: Shift = signed_spearman,
) -> Tensor:
    """Agreement (N,) of a method's maps of a network and of one trained on shuffled labels; the lower, the more the map
    owes to what relates images to labels. measure: as in `cascade`.
    """
    seed = _seed(rng)
    return measure(method(model, x, target, rng=_at(seed)), method(shuffled, x, target, rng=_at(seed)))


def seed_stability(
    method: Attribution, model: Classifier, x: Tensor, target: Tensor, *, rng: Generator, seeds: int = 3
) -> Tensor:
    """Mean rank correlation (N,) between a method's maps under different seeds; 1 for a method that draws nothing."""
    if seeds < 2:
        raise UserError(f"seeds: expected at least 2, got {seeds}")
    maps = [method(model, x, target, rng=_at(_seed(rng))) for _ in range(seeds)]
    return torch.stack([spearman(a, b) for a, b in combinations(maps, 2)]).mean(0)


def infidelity(
    model: Classifier,
    x: Tensor,
    target: Tensor,
    maps: Tensor,
    *,
    rng: Generator,
    sigma: float = 0.1,
    samples: int = 32,
    scalar: ScalarName = "logit",
    chunk: int = 512,
) -> Tensor:
    """Mean squared error (N,), unit of squared logits, of the map as a linear prediction of what Gaussian noise of
    standard deviation `sigma` (pixel units) does to the scalar, at the best scale of the map per image.

    Every image gets the same noise. Only gradient-like maps claim to predict this; of others the ranks are of interest.
    """
    from captum.metrics import infidelity as captum_infidelity

    check(x, target)
    noise = torch.randn(samples, *x.shape[1:], generator=rng) * sigma
    whole = maps.expand_as(x) / (x.shape[1] // maps.shape[1])
    parts = [torch.split(rows, max(1, chunk // samples)) for rows in (x, target, whole)]
    found = []

    def moved(images: Tensor) -> tuple[Tensor, Tensor]:
        drawn = noise.to(images).repeat(len(images) // samples, 1, 1, 1)
        return drawn, images - drawn

    with eval_mode(model):
        asked = Scalar(model)
        for z, wanted, own in zip(*parts, strict=True):
            weights = logit_weights(model(z).detach(), wanted, scalar)
            found.append(
                captum_infidelity(
                    asked,
                    moved,
                    z,
                    own.to(z),
                    additional_forward_args=(weights,),
                    n_perturb_samples=samples,
                    normalize=True,
                )
            )
    return torch.cat(found).detach().cpu() if found else torch.zeros(0)


def max_sensitivity(
    method: Attribution,
    model: Classifier,
    x: Tensor,
    target: Tensor,
    *,
    rng: Generator,
    eps: float = 0.02,
    samples: int = 10,
) -> Tensor:
    """Largest distance (N,) between an image's map and that of a neighbour, over the norm of its map. Neighbours are
    drawn from the Linf ball of radius eps (pixel units), the same offsets for every image; the method's own draws are
    the same for all.
    """
    from captum.metrics import sensitivity_max

    seed = _seed(rng)
    offsets = (torch.rand(samples, *x.shape[1:], generator=rng) * 2 - 1) * eps

    def moved(images: Tensor) -> Tensor:
        return images + offsets.to(images).repeat(len(images) // samples, 1, 1, 1)

    def maps(images: Any, wanted: Tensor) -> Any:
        z = images[0] if isinstance(images, tuple) else images
        found = method(model, z, wanted.repeat_interleave(len(z) // len(wanted)), rng=_at(seed))
        return (found,) if isinstance(images, tuple) else found  # Captum hands back what it was handed

    found: Tensor = sensitivity_max(maps, x, moved, n_perturb_samples=samples, wanted=target)
    return found.detach().cpu()


def _area(curve: Tensor) -> Tensor:
    return torch.trapezoid(curve.double(), dx=1 / (curve.shape[1] - 1))


def _seed(rng: Generator) -> int:
    return int(torch.randint(2**62, (), generator=rng))


def _at(seed: int) -> Generator:
    return torch.Generator().manual_seed(seed)
