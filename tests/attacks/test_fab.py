"""FAB: its projection against linear programs and bisection, its passes, its restarts and its last search."""

import pytest
import torch
from nearest_oracle import Planes, distance, exact, planes
from torch import Tensor

from deconfound.attacks import fab
from deconfound.attacks.ascent import Point
from deconfound.attacks.boundary import to_plane
from deconfound.attacks.fab import FAB
from deconfound.attacks.minimal import Closest
from deconfound.attacks.victim import attacking
from deconfound.models.classifier import predict
from deconfound.threat import Norm, size

NORMS: tuple[Norm, ...] = ("linf", "l2", "l1")


def fresh(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def cases(count: int = 60, pixels: int = 7) -> tuple[Tensor, Tensor, Tensor]:
    """Images at and off the edges, slopes with zeros, and values of which some lie out of reach."""
    rng = fresh(3)
    x = (torch.rand(count, pixels, generator=rng) * 1.6 - 0.3).clamp(0, 1)
    w = torch.randn(count, pixels, generator=rng) * (torch.rand(count, pixels, generator=rng) > 0.2)
    return x, w, torch.randn(count, generator=rng) * 2


@pytest.mark.parametrize("norm", NORMS)
def test_the_way_to_a_plane_is_the_shortest_inside_the_box(norm: Norm) -> None:
    x, w, value = cases()
    d = to_plane(x, w, value, norm)
    least = torch.tensor([distance(*case, norm) for case in zip(x, w, value.tolist(), strict=True)])

    reachable = least.isfinite()
    assert 5 < reachable.sum() < 55
    assert (x + d).min() >= -1e-6 and (x + d).max() <= 1 + 1e-6
    assert torch.allclose((value + (w * d).sum(1))[reachable], torch.zeros(int(reachable.sum())), atol=1e-5)
    assert torch.allclose(size(d, norm)[reachable], least[reachable].float(), atol=1e-4)


@pytest.mark.parametrize("norm", NORMS)
def test_towards_a_plane_out_of_reach_the_way_ends_in_the_nearest_corner(norm: Norm) -> None:
    x, w, value = cases()
    value = value.sign() * (w.abs().sum(1) + 1)
    corner = torch.where(-value[:, None] * w > 0, 1.0, 0.0)
    d = to_plane(x, w, value, norm)
    assert torch.allclose((x + d)[w != 0], corner[w != 0], atol=1e-6) and (d[w == 0] == 0).all()


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("scale", [0.0, 1e-42, 1e-30, 1e30])
def test_a_slope_of_any_size_gives_a_finite_way(norm: Norm, scale: float) -> None:
    x, w, value = cases()
    for worth in (value, torch.zeros_like(value), value * scale):
        d = to_plane(x, w * scale, worth, norm)
        assert d.isfinite().all() and ((x + d) >= -1e-6).all() and ((x + d) <= 1 + 1e-6).all()
        assert scale or not d.any()


@pytest.mark.parametrize("norm", NORMS)
def test_two_points_of_an_image_share_one_slope(norm: Norm) -> None:
    x, w, value = cases()
    both = to_plane(torch.stack([x, 1 - x]), w, torch.stack([value, -value / 2]), norm)
    apart = [to_plane(x, w, value, norm), to_plane(1 - x, w, -value / 2, norm)]
    assert torch.allclose(both, torch.stack(apart), atol=1e-6)


@pytest.mark.parametrize(
    ("wrong", "alpha_max", "pixel"),
    [
        (False, 0.9, 0.8 + 0.1 / 3),  # 0.1 from the iterate and 0.2 from the image: weights 2/3 and 1/3
        (False, 0.1, 0.8 + 0.1 * 0.1),
        (True, 0.9, 0.85 + 0.05 * 0.15 / 0.35),  # drawn back to 0.55, 0.15 from the plane
    ],
)
def test_an_iterate_and_its_image_both_go_eta_times_the_way_and_meet_between(
    wrong: bool, alpha_max: float, pixel: float
) -> None:
    x = torch.full((1, 1, 1, 2), 0.5)
    z, slope = x.clone(), torch.tensor([2.0, 0.0]).view(1, 1, 1, 2)
    z[..., 0] = 0.6
    with attacking(planes(2)[0], x, torch.zeros(1).long()) as victim:
        found = Closest(victim, x, "l2", reach=0.0)
    found.wrong[:] = wrong
    move = fab.Approach(found, torch.zeros(1).long(), alpha_max=alpha_max, eta=2.0, beta=0.5)
    ahead = move(0, Point(torch.zeros(1).long(), x, z, torch.tensor([-0.2]), slope))  # the plane is at 0.7
    assert ahead.flatten().tolist() == pytest.approx([pixel, 0.5], abs=1e-6)


@pytest.mark.parametrize("targets", [1, 2, 9])
def test_a_step_costs_one_forward_and_one_backward_pass(targets: int) -> None:
    model, x, y = planes(4)
    FAB(eps=0.1, steps=20, targets=targets).minimal(model, x, y, rng=fresh())
    runs = min(targets, 3)
    assert model.backwards == 20 * runs
    assert model.forwards <= 21 * runs + 5


def test_without_a_target_a_step_costs_a_backward_pass_per_class() -> None:
    model, x, y = planes(4)
    FAB(eps=0.1, steps=20, targeted=False).minimal(model, x, y, rng=fresh())
    assert model.forwards <= 21 + 5 and model.backwards <= 20 * 4


@pytest.mark.parametrize("classes", [2, 5])
@pytest.mark.parametrize("norm", NORMS)
def test_the_distance_is_exact_where_the_box_is_in_the_way(norm: Norm, classes: int) -> None:
    model, x, y = planes(classes, seed=7)
    found = size(FAB(eps=1, norm=norm).minimal(model, x, y, rng=fresh()) - x, norm)
    least = exact(model, x, y, norm)
    assert (found >= least * (1 - 1e-4)).all() and (found <= least * 1.01).all()


def test_targets_are_the_likeliest_wrong_classes() -> None:
    model = Planes(torch.eye(4)[:, :3], torch.tensor([0.0, 0.0, 0.0, -9.0]))
    x = torch.tensor([0.9, 0.1, 0.5]).view(1, 1, 1, 3)
    x_adv = FAB(eps=1, norm="l1", targets=1).minimal(model, x, torch.zeros(1).long(), rng=fresh())
    assert model(x_adv).argmax() == 2


class Wavy(Planes):
    """A boundary with many bays: which one an approach ends in depends on where it starts."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward((8 * x).sin())


@pytest.mark.parametrize("norm", NORMS)
def test_a_restart_never_loses_an_image_and_draws_from_its_generator(
    norm: Norm, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Of two segments the one with the closer end need not be the one that crosses the boundary closer.
    monkeypatch.setattr(fab, "SEARCHES", 0)
    flat, x, _ = planes(5)
    model = Wavy(flat.w.detach(), flat.b.detach() + torch.tensor([3.0, 0, 0, 0, 0]))
    y = predict(model, x).argmax(1)

    def found(restarts: int, seed: int = 0) -> Tensor:
        attack = FAB(eps=1.0, norm=norm, steps=4, restarts=restarts)
        return attack.minimal(model, x, y, rng=fresh(seed)) - x

    once, often = (size(d, norm).where(d.flatten(1).any(1), torch.inf) for d in (found(1), found(4)))
    assert (often <= once).all() and (often < once * 0.99).any()
    assert torch.equal(found(4), found(4)) and not torch.equal(found(4), found(4, 1))


def test_restarts_begin_within_half_of_eps_or_of_the_distance_reached() -> None:
    class Recorder(Planes):
        def forward(self, x: Tensor) -> Tensor:
            asked.append(x.detach().clone())
            return super().forward(x)

    asked: list[Tensor] = []
    model = Recorder(torch.stack([torch.zeros(4), torch.ones(4)]), torch.tensor([0.0, -1.7]))
    x = torch.tensor([0.3, 0.42]).view(2, 1, 1, 1).expand(2, 1, 2, 2).clone()  # distances 0.125 and 0.005
    FAB(eps=0.04, steps=1, restarts=2).minimal(model, x, torch.zeros(2).long(), rng=fresh())
    starts = (asked[3] - x).abs().flatten(1).amax(1)  # after the clean look, and two of the first start
    assert 0.005 < starts[0] <= 0.02 + 1e-6 and 0.0003 < starts[1] <= 0.0027


@pytest.mark.parametrize("norm", NORMS)
def test_the_last_search_takes_the_overshoot_back(norm: Norm) -> None:
    model, x, y = planes(2)
    x_adv = FAB(eps=1, norm=norm, steps=1, eta=1.4).minimal(model, x, y, rng=fresh())
    gap = model(x_adv).diff(dim=1).abs() / model(x).diff(dim=1).abs()
    assert (model(x_adv).argmax(1) != y).all() and gap.max() < 1e-2


def test_images_within_eps_leave_the_batch() -> None:
    model, x, y = planes(3)
    FAB(eps=1.0, steps=50, early_stop=True)(model, x, y, rng=fresh())
    assert model.images < 10 * len(x)
