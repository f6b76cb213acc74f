"""TI-DIM: MIM with random inputs and smoothed gradients, and each of the two alone."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from oracle_models import Linear, linear_problem, small_network
from pydantic import ValidationError
from torch import Tensor, nn

from deconfound.attacks.mim import MIM
from deconfound.attacks.scores import ScoreName
from deconfound.attacks.ti_dim import TIDIM, gaussian, shrunk_and_shifted, smooth
from deconfound.threat import Norm, ThreatModel

NORMS: tuple[Norm, ...] = ("linf", "l2", "l1")


def fresh(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


class Recorder(Linear):
    """Remembers what it was asked."""

    def __init__(self, w: Tensor) -> None:
        super().__init__(w)
        self.asked: list[Tensor] = []

    def forward(self, x: Tensor) -> Tensor:
        self.asked.append(x.detach().clone())
        return super().forward(x)


@pytest.mark.parametrize("length", [1, 3, 7, 15])
@pytest.mark.parametrize("sigma", [0.5, 7 / 3])
def test_the_kernel_sums_to_one_is_symmetric_and_falls_from_its_middle(length: int, sigma: float) -> None:
    weights = gaussian(length, sigma)
    assert len(weights) == length and weights.sum() == pytest.approx(1)
    assert torch.equal(weights, weights.flip(0))
    falls = weights[length // 2 :]
    assert (falls.diff() < 0).all()
    if length > 1:
        assert falls[1] / falls[0] == pytest.approx(torch.tensor(-0.5 / sigma**2).exp().item())


def test_smoothing_spreads_one_pixel_into_the_kernel_within_its_channel() -> None:
    image = torch.zeros(2, 3, 7, 9)
    image[1, 2, 3, 4] = 1
    weights = gaussian(5, 1.0)
    spread = smooth(image, weights)
    expected = torch.zeros_like(image, dtype=torch.float64)
    expected[1, 2, 1:6, 2:7] = weights[:, None] * weights[None]
    assert torch.allclose(spread.double(), expected, atol=1e-7)


@given(st.floats(0, 1), st.integers(1, 9), st.integers(1, 9), st.integers(0, 1000))
def test_a_random_input_keeps_size_and_range(least: float, height: int, width: int, seed: int) -> None:
    x = torch.rand(2, 3, height, width, generator=fresh(seed)).round(decimals=1)
    z = shrunk_and_shifted(x, least, rng=fresh(seed))
    assert z.shape == x.shape and z.isfinite().all()
    assert z.min() >= 0 and z.max() <= x.max() + 1e-6


def test_a_random_input_is_the_shrunk_image_somewhere_in_black() -> None:
    x = torch.ones(1, 1, 10, 20)
    boxes = set()
    for seed in range(200):
        z = shrunk_and_shifted(x, 0.8, rng=fresh(seed))[0, 0]
        rows, columns = z.any(1).nonzero().flatten(), z.any(0).nonzero().flatten()
        assert z.sum() == len(rows) * len(columns)  # one rectangle of ones
        boxes.add((len(rows), len(columns), rows[0].item(), columns[0].item()))
    heights, widths, tops, lefts = (set(values) for values in zip(*boxes, strict=True))
    assert heights == {8, 9, 10} and widths == {16, 17, 18, 19, 20}
    assert tops == {0, 1, 2} and lefts == {0, 1, 2, 3, 4}
    assert torch.equal(shrunk_and_shifted(x, 1.0, rng=fresh()), x)


@pytest.mark.parametrize("score", ["cross_entropy", "margin", "kl"])
@pytest.mark.parametrize("norm", NORMS)
def test_without_random_inputs_and_with_a_kernel_of_one_pixel_it_is_mim(norm: Norm, score: ScoreName) -> None:
    model, x = small_network(), torch.rand(6, 1, 4, 4, generator=fresh())
    y = torch.arange(6) % 3
    plain = TIDIM(eps=0.1, norm=norm, probability=0, kernel=1, score=score, momentum=0.8)
    expected = MIM(eps=0.1, norm=norm, score=score, momentum=0.8)(model, x, y, rng=fresh())
    assert torch.equal(plain(model, x, y, rng=fresh()), expected)
    assert not torch.equal(expected, x)


def test_the_step_follows_the_smoothed_gradient() -> None:
    weights = torch.zeros(7, 7)
    weights[3, 3], weights[0, 0] = 1.0, -0.4
    model, x = Linear(weights.flatten()), torch.full((1, 1, 7, 7), 0.5)
    attack = TIDIM(eps=0.1, steps=1, probability=0, kernel=7, sigma=1.5)
    moved = attack(model, x, torch.zeros(1).long(), rng=fresh()) - x
    expected = smooth(weights[None, None], gaussian(7, 1.5))
    assert (expected != 0).sum() > 30  # many pixels move, of which the gradient itself names two
    assert torch.allclose(moved, 0.1 * expected.sign(), atol=1e-6)


@pytest.mark.parametrize(("probability", "changed"), [(0.0, 0), (0.5, 100), (1.0, 200)])
def test_the_probability_says_how_many_inputs_are_random(probability: float, changed: int) -> None:
    model, x = Recorder(torch.zeros(36)), torch.ones(2, 1, 6, 6)
    attack = TIDIM(eps=0.1, steps=200, probability=probability, resize=0.7)
    attack(model, x, torch.zeros(2).long(), rng=fresh())
    shrunk = sum(bool((asked == 0).any()) for asked in model.asked)  # a factor near 1 leaves the image whole
    assert len(model.asked) == 200 and changed * 0.6 <= shrunk <= changed * 1.2


def test_samples_are_inputs_of_their_own() -> None:
    model, x = Recorder(torch.zeros(64)), torch.ones(1, 1, 8, 8)
    TIDIM(eps=0.1, steps=3, samples=5, probability=1, resize=0.5)(
        model, x, torch.zeros(1).long(), rng=fresh()
    )
    assert len(model.asked) == 15
    assert len({asked.numpy().tobytes() for asked in model.asked[:5]}) > 1


@pytest.mark.parametrize("shape", [(1, 1, 1), (3, 2, 2), (1, 4, 6), (3, 8, 8)])
@pytest.mark.parametrize("norm", NORMS)
def test_small_images_limit_the_kernel_and_stay_legal(norm: Norm, shape: tuple[int, int, int]) -> None:
    x = torch.rand(5, *shape, generator=fresh())
    model = Linear(torch.randn(x[0].numel(), generator=fresh(1)))
    y = (model.margin(x) > 0).long()
    x_adv = TIDIM(eps=0.2, norm=norm)(model, x, y, rng=fresh())
    assert ThreatModel(norm=norm, eps=0.2).contains(x, x_adv).all() and not torch.equal(x_adv, x)
    assert x_adv.min() >= 0 and x_adv.max() <= 1


@pytest.mark.parametrize(("side", "length"), [(1, 1), (5, 5), (6, 5), (20, 15)])
def test_the_kernel_is_the_longest_odd_one_that_the_image_has_room_for(side: int, length: int) -> None:
    x = torch.rand(3, 1, side, side + 2, generator=fresh())
    model = Linear(torch.randn(x[0].numel(), generator=fresh(1)))
    y = (model.margin(x) > 0).long()
    found, expected = (
        TIDIM(eps=0.1, norm="l2", probability=0, kernel=kernel)(model, x, y, rng=fresh())
        for kernel in (15, length)
    )
    assert torch.equal(found, expected)


def test_on_a_linear_model_whose_weights_agree_smoothing_costs_nothing() -> None:
    model, x, y = linear_problem()  # all weights positive: the sign of their mean is that of each
    x_adv = TIDIM(eps=0.05, probability=0)(model, x, y, rng=fresh())
    assert torch.allclose(x_adv, MIM(eps=0.05)(model, x, y, rng=fresh()), atol=1e-6)


def test_the_generator_alone_decides_and_the_layout_of_memory_does_not() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Tanh(), nn.Flatten(), nn.Linear(64, 3))
    x, y = torch.rand(6, 3, 6, 6, generator=fresh()), torch.arange(6) % 3
    attack = TIDIM(eps=0.1, resize=0.5)
    first = attack(model, x, y, rng=fresh(3))
    torch.manual_seed(7)
    assert torch.equal(attack(model, x, y, rng=fresh(3)), first)
    other = attack(model, x.contiguous(memory_format=torch.channels_last), y, rng=fresh(3))
    assert torch.allclose(other, first, atol=1e-6)
    assert not torch.equal(attack(model, x, y, rng=fresh(4)), first)


def test_an_even_kernel_is_refused() -> None:
    with pytest.raises(ValidationError, match="expected an odd number of pixels, got 4"):
        TIDIM(eps=0.1, kernel=4)
