"""SimCLR: the loss against a sum written out, and views that are windows, mirrors and colours of the picture."""

import math

import pytest
import torch
from oracle_models import same, small_network
from torch import Generator, Tensor

from deconfound.defenses import contrastive
from deconfound.defenses.contrastive import (
    Contrast,
    luminance,
    nt_xent,
    projecting,
    recoloured,
    resized_crop,
)


def fresh(seed: int = 0) -> Generator:
    return torch.Generator().manual_seed(seed)


# The loss


def test_the_loss_of_two_perfect_pairs_is_as_computed_by_hand() -> None:
    unit = torch.eye(2)
    # every anchor has cosine 1 with its partner and 0 with two others: -log(e^2 / (e^2 + 1 + 1)) at temperature 1/2
    assert nt_xent(unit, unit, temperature=0.5).item() == pytest.approx(
        math.log(1 + 2 * math.exp(-2)), rel=1e-6
    )


def test_the_loss_of_two_swapped_pairs_is_as_computed_by_hand() -> None:
    unit = torch.eye(2)
    # the partner has cosine 0, one of the two others has cosine 1
    expected = math.log(2 + math.exp(2))
    assert nt_xent(unit, unit.flip(0), temperature=0.5).item() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("temperature", [0.2, 1.0])
def test_the_loss_is_the_sum_over_all_anchors_written_out(temperature: float) -> None:
    first, second = torch.randn(2, 5, 3, generator=fresh()).double()
    every = [*first, *second]
    total = 0.0
    for i, anchor in enumerate(every):
        scores = [float(anchor @ other / (anchor.norm() * other.norm()) / temperature) for other in every]
        others = sum(math.exp(score) for j, score in enumerate(scores) if j != i)
        total -= math.log(math.exp(scores[(i + 5) % 10]) / others) / 10
    assert nt_xent(first, second, temperature=temperature).item() == pytest.approx(total, rel=1e-9)


def test_the_length_of_a_projection_does_not_matter() -> None:
    first, second = torch.randn(2, 4, 3, generator=fresh())
    stretched = nt_xent(first * torch.tensor([[1.0], [2], [3], [4]]), second, temperature=0.5)
    assert stretched.item() == pytest.approx(nt_xent(first, second, temperature=0.5).item(), rel=1e-5)


# The network


def test_the_projection_stands_on_the_body_itself_and_sees_what_it_sees() -> None:
    network = small_network()
    network.mean.fill_(0.3)
    network.std.fill_(0.2)
    made = projecting(network, width=7, rng=fresh())
    body = {id(parameter) for parameter in network.body.parameters()}
    assert body and body <= {id(parameter) for parameter in made.parameters()}
    assert id(network.head.weight) not in {id(parameter) for parameter in made.parameters()}
    x = torch.rand(5, 1, 4, 4, generator=fresh())
    z = network.eval().features(x)
    assert made.eval()(x).shape == (5, 7)
    assert torch.equal(made.features(x), made.body[2](made.body[1](z)))  # type: ignore[operator, index]


def test_the_generator_decides_the_projection() -> None:
    one, again, other = (projecting(small_network(), rng=fresh(seed)).state_dict() for seed in (0, 0, 1))
    assert same(dict(one), dict(again)) and not same(dict(one), dict(other))


def test_the_objective_asks_for_no_label() -> None:
    contrast = Contrast(temperature=0.5, area=0.5, jitter=0.4, grey=0.2, flip=True)
    x = torch.rand(6, 3, 4, 4, generator=fresh())

    class Flat(torch.nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.flatten(1) - 0.5

    losses = [contrast(Flat(), x, y, rng=fresh(1)).item() for y in (torch.zeros(6), torch.arange(6))]
    assert losses[0] == losses[1] and 0 < losses[0] < math.log(11) + 4


# The views

SIDE = 32
RAMPS = torch.stack(
    [
        ((torch.arange(SIDE) + 0.5) / SIDE).expand(SIDE, SIDE),
        ((torch.arange(SIDE) + 0.5) / SIDE)[:, None].expand(SIDE, SIDE),
    ]
).expand(300, 2, SIDE, SIDE)  # the two channels are the coordinates of a pixel, in pictures


def windows(flip: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Crops of the ramps, their widths (negative where mirrored) and heights, in pictures."""
    views = resized_crop(RAMPS, area=0.2, flip=flip, rng=fresh())
    middle = SIDE // 2
    width = (views[:, 0, middle, middle] - views[:, 0, middle, middle - 1]) * SIDE
    height = (views[:, 1, middle, middle] - views[:, 1, middle - 1, middle]) * SIDE
    return views, width, height


def test_a_view_is_a_window_of_the_picture_that_is_neither_too_small_nor_too_narrow() -> None:
    views, width, height = windows(flip=False)
    assert (width > 0).all() and width.max() <= 1 + 1e-4 and height.max() <= 1 + 1e-4
    inside = (width < 0.999) & (height < 0.999)  # else cut off at the picture
    area, aspect = (width * height)[inside], (width / height)[inside]
    assert inside.sum() > 200 and area.min() > 0.2 - 1e-3
    assert aspect.min() > 3 / 4 - 1e-3 and aspect.max() < 4 / 3 + 1e-3
    assert area.min() < 0.25 and area.max() > 0.8
    for channel, length in ((0, width), (1, height)):
        steps = views[:, channel].diff(dim=2 - channel)  # straight all over: nothing but a window
        steps = steps[:, 2:-2, 2:-2] * SIDE
        assert torch.allclose(steps, length.view(-1, 1, 1).expand_as(steps), atol=1e-3)
    assert views.min() >= 0.5 / SIDE - 1e-5 and views.max() <= 1 - 0.5 / SIDE + 1e-5


def test_windows_lie_anywhere() -> None:
    views, width, _ = windows(flip=False)
    left = views[:, 0].mean((1, 2)) - width / 2
    small = width < 0.7
    assert left[small].min() < 0.05 and (left + width)[small].max() > 0.95


def test_about_half_of_the_views_are_mirrored_if_asked() -> None:
    _, width, height = windows(flip=True)
    assert 110 < int((width < 0).sum()) < 190 and (height > 0).all()


def test_a_window_of_the_whole_picture_is_the_picture(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(contrastive, "ASPECT", (1.0, 1.0))
    x = torch.rand(5, 3, 6, 8, generator=fresh())
    assert torch.allclose(resized_crop(x, area=1.0, flip=False, rng=fresh()), x, atol=1e-5)


def test_no_jitter_and_no_grey_leave_the_colours() -> None:
    x = torch.rand(5, 3, 4, 4, generator=fresh())
    assert torch.allclose(recoloured(x, jitter=0, grey=0, rng=fresh()), x, atol=1e-6)


def test_a_grey_view_has_the_brightness_of_the_colours() -> None:
    x = torch.rand(5, 3, 4, 4, generator=fresh())
    grey = recoloured(x, jitter=0, grey=1, rng=fresh())
    expected = 0.299 * x[:, 0] + 0.587 * x[:, 1] + 0.114 * x[:, 2]
    for channel in grey.unbind(1):
        assert torch.allclose(channel, expected, atol=1e-5)
    one = x[:, :1]
    assert torch.equal(luminance(one), one)


def test_about_four_views_of_five_are_brighter_or_darker_by_up_to_the_jitter() -> None:
    x = torch.full((500, 3, 2, 2), 0.5)  # of one grey: contrast and saturation change nothing
    factor = recoloured(x, jitter=0.4, grey=0, rng=fresh())[:, 0, 0, 0] / 0.5
    touched = (factor - 1).abs() > 1e-4
    assert 360 < int(touched.sum()) < 440
    assert factor.min() > 0.6 - 1e-4 and factor.max() < 1.4 + 1e-4
    assert factor.min() < 0.63 and factor.max() > 1.37


def test_views_are_pictures_that_the_generator_decides() -> None:
    contrast = Contrast(temperature=0.5, area=0.2, jitter=1.0, grey=0.2, flip=True)
    x = torch.rand(20, 3, 8, 8, generator=fresh())
    views = [contrast.view(x, rng=fresh(seed)) for seed in (0, 0, 1)]
    assert views[0].shape == x.shape and views[0].min() >= 0 and views[0].max() <= 1
    assert torch.equal(views[0], views[1]) and not torch.equal(views[0], views[2])
