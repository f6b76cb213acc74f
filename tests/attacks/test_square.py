"""Square: how near a search without gradients comes to the exact worst case, and what it asks for."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from oracle_models import Linear, linear_problem, small_network
from torch import Tensor, nn

from deconfound.attacks.scores import margin
from deconfound.attacks.square import Square, hills, share
from deconfound.threat import Norm, ThreatModel

NORMS: tuple[Norm, ...] = ("linf", "l2", "l1")
DUAL = {"linf": 1, "l2": 2, "l1": torch.inf}
REACHED = {"linf": 0.999, "l2": 0.4, "l1": 0.7}  # of the exact gain, on images of 2 x 2 pixels


def fresh(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


class Counting(nn.Module):
    """Remembers what the model was asked, and that nobody wanted a gradient."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.asked: list[Tensor] = []

    def forward(self, x: Tensor) -> Tensor:
        assert not torch.is_grad_enabled()
        self.asked.append(x.clone())
        logits: Tensor = self.model(x)
        return logits


class Constant(nn.Module):
    """Class 0 for every image, by 1."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.tensor([[1.0, 0.0]]).repeat(len(x), 1)


@pytest.mark.parametrize("eps", [0.01, 0.03, 0.1, 0.4])
@pytest.mark.parametrize("norm", NORMS)
def test_square_breaks_what_is_clearly_inside_the_radius_and_nothing_outside(norm: Norm, eps: float) -> None:
    model, x, y = linear_problem()
    radius = model.margin(x).abs() / model.w.norm(p=DUAL[norm])  # distance to the boundary

    x_adv = Square(eps=eps, norm=norm, queries=500)(model, x, y, rng=fresh())
    broken = model(x_adv).argmax(1) != y

    assert broken[radius < REACHED[norm] * eps].all()
    assert not broken[radius > eps + 1e-5].any()


@pytest.mark.parametrize(
    ("norm", "eps", "reached"), [("linf", 0.002, 0.9), ("l2", 0.02, 0.65), ("l1", 0.05, 0.6)]
)
def test_a_thousand_queries_reach_most_of_the_gain_of_the_exact_worst_case(
    norm: Norm, eps: float, reached: float
) -> None:
    model = Linear(torch.randn(64, generator=fresh(1)) / 20)
    x = torch.rand(20, 1, 8, 8, generator=fresh(2)) * 0.5 + 0.25
    y = (model.margin(x) > 0).long()
    x_adv = Square(eps=eps, norm=norm, queries=1000)(model, x, y, rng=fresh())
    stands = model(x_adv).argmax(1) == y
    gain = (model.margin(x_adv) - model.margin(x)) * (1 - 2 * y) / (eps * model.w.norm(p=DUAL[norm]))
    assert stands.sum() >= 10
    assert gain[stands].min() > reached and gain.max() <= 1 + 1e-3


@given(
    st.sampled_from(NORMS),
    st.integers(1, 3),
    st.tuples(st.integers(1, 9), st.integers(1, 9)),
    st.floats(0.001, 3),
    st.integers(0, 1000),
)
def test_square_never_leaves_the_ball_and_the_box(
    norm: Norm, channels: int, sides: tuple[int, int], eps: float, seed: int
) -> None:
    x = torch.rand(4, channels, *sides, generator=fresh(seed))
    x = (x * 1.4 - 0.2).clamp(0, 1)  # some pixels at the edge of the box
    model = Linear(torch.randn(x[0].numel(), generator=fresh(seed + 1)))
    y = (model.margin(x) > 0).long()
    attack = Square(eps=eps, norm=norm, queries=25, restarts=2)
    x_adv = attack(model, x, y, rng=fresh(seed))
    assert x_adv.shape == x.shape and x_adv.min() >= 0 and x_adv.max() <= 1
    assert ThreatModel(norm=norm, eps=eps).contains(x, x_adv).all()
    assert (margin(model(x_adv), y) >= margin(model(x), y)).all()


@pytest.mark.parametrize("restarts", [1, 3])
@pytest.mark.parametrize("queries", [1, 2, 30])
@pytest.mark.parametrize("norm", NORMS)
def test_no_image_is_asked_about_more_often_than_allowed(norm: Norm, queries: int, restarts: int) -> None:
    model, x = Counting(Constant()), torch.rand(5, 1, 4, 4, generator=fresh())
    y = torch.zeros(5).long()
    Square(eps=0.1, norm=norm, queries=queries, restarts=restarts)(model, x, y, rng=fresh())
    assert len(model.asked) == 1 + restarts * (queries - 1) <= restarts * queries
    assert all(len(asked) == 5 for asked in model.asked)


@pytest.mark.parametrize("norm", NORMS)
def test_an_image_on_which_the_model_errs_leaves_at_once(norm: Norm) -> None:
    linear, x, y = linear_problem()
    y = torch.where(torch.arange(64) < 10, 1 - y, y)  # ten labels that the model gets wrong from the start
    model = Counting(linear)

    x_adv = Square(eps=0.05, norm=norm, queries=200)(model, x, y, rng=fresh())

    sizes = [len(asked) for asked in model.asked]
    stands = int((linear(x_adv).argmax(1) == y).sum())
    assert sizes[:2] == [64, 54] and sizes[-1] == stands
    assert sizes == sorted(sizes, reverse=True)
    assert torch.equal(x_adv[:10], x[:10])
    found = x_adv[linear(x_adv).argmax(1) != y]
    asked = torch.cat(model.asked)
    times = (asked[:, None] == found[None]).flatten(2).all(2).sum(0)
    assert (times == 1).all()  # the broken image was the last that was asked about


def test_the_area_of_the_square_halves_along_the_queries() -> None:
    assert [share(query, 10000, 0.8) for query in (0, 10, 11, 51, 201, 8001)] == [
        0.8, 0.8, 0.4, 0.2, 0.1, 0.8 / 512,
    ]  # fmt: skip
    assert [share(query, 5000, 0.8) for query in (5, 6, 25, 26, 4999)] == [0.8, 0.4, 0.4, 0.2, 0.8 / 512]
    assert share(99, 100, 0.5) == 0.5 / 512


@pytest.mark.parametrize("channels", [1, 3])
def test_no_query_of_linf_asks_about_the_image_that_it_already_has(channels: int) -> None:
    model, x = Counting(Constant()), torch.rand(6, channels, 3, 3, generator=fresh())
    Square(eps=0.1, queries=100)(model, x, torch.zeros(6).long(), rng=fresh())
    start = model.asked[1]
    for asked in model.asked[2:]:  # nothing was better than the start
        assert (asked != start).flatten(1).any(1).all()


@pytest.mark.parametrize("norm", ["l2", "l1"])
@pytest.mark.parametrize("side", range(1, 12))
def test_hills_are_two_pyramids_of_opposite_sign_and_of_length_one(norm: Norm, side: int) -> None:
    shape = hills(side, norm)
    assert shape.shape == (side, side) and shape.norm(p=2 if norm == "l2" else 1) == pytest.approx(
        1, abs=1e-5
    )
    assert (shape[: side // 2] > 0).all() and (shape[side // 2 :] < 0).all()
    if side % 2 == 0:
        assert shape.sum() == pytest.approx(0, abs=1e-5)


def test_a_hill_is_the_sum_of_rings_by_hand() -> None:
    upper = torch.tensor([0.25, 1.25, 0.25])  # 1 x 3: 1 in the middle, 1/4 over the whole width
    assert torch.allclose(hills(3, "l1")[0], upper / upper.sum() / 2)


@pytest.mark.parametrize("norm", NORMS)
def test_restarts_never_raise_robust_accuracy(norm: Norm) -> None:
    model, x, y = linear_problem()
    stands = [
        model(Square(eps=0.1, norm=norm, queries=6, restarts=count)(model, x, y, rng=fresh())).argmax(1) == y
        for count in (1, 2, 6)
    ]
    assert not (stands[1] & ~stands[0]).any() and not (stands[2] & ~stands[1]).any()
    assert stands[2].sum() < stands[0].sum()


@pytest.mark.parametrize("norm", NORMS)
def test_the_generator_alone_decides_and_the_layout_of_memory_does_not(norm: Norm) -> None:
    model, x = small_network(), torch.rand(9, 1, 4, 4, generator=fresh())
    y, attack = torch.arange(9) % 3, Square(eps=0.1, norm=norm, queries=40)
    first = attack(model, x, y, rng=fresh(3))
    torch.manual_seed(7)
    assert torch.equal(attack(model, x, y, rng=fresh(3)), first)
    assert torch.equal(attack(model, x.contiguous(memory_format=torch.channels_last), y, rng=fresh(3)), first)
    assert not torch.equal(attack(model, x, y, rng=fresh(4)), first)


class Steps(nn.Module):
    """Logits without a gradient: the brightness, rounded."""

    def forward(self, x: Tensor) -> Tensor:
        m = (x.flatten(1).mean(1) * 100).round() / 10
        return torch.stack([m, 10 - m], 1)


@pytest.mark.parametrize("score", ["margin", "cross_entropy", "dlr"])
@pytest.mark.parametrize("norm", NORMS)
def test_square_needs_no_gradient(norm: Norm, score: str) -> None:
    x, y = torch.full((8, 1, 6, 6), 0.6), torch.zeros(8).long()
    eps = {"linf": 0.2, "l2": 3.0, "l1": 30.0}[norm]
    attack = Square(eps=eps, norm=norm, queries=300, score=score)  # type: ignore[arg-type]
    assert (Steps()(attack(Steps(), x, y, rng=fresh())).argmax(1) != y).all()
