"""PGD and FGSM: the exact worst case of a linear model, and what an attack must leave alone."""

import pytest
import torch
from oracle_models import DUAL, Linear, linear_problem, same, small_network, snapshot
from torch import Tensor, nn

from deconfound.attacks.ascent import Ascent
from deconfound.attacks.fgsm import FGSM
from deconfound.attacks.pgd import PGD
from deconfound.attacks.scores import ScoreName, margin
from deconfound.models.classifier import predict
from deconfound.threat import Norm, ThreatModel

NORMS: tuple[Norm, ...] = ("linf", "l2", "l1")


def fresh(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("score", ["cross_entropy", "margin"])
@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("eps", [0.0, 0.01, 0.03, 0.1])
def test_pgd_finds_the_exact_worst_case_of_a_linear_model(norm: Norm, eps: float, score: ScoreName) -> None:
    model, x, y = linear_problem()
    radius = model.margin(x).abs() / model.w.norm(p=DUAL[norm])  # distance to the boundary

    attack = PGD(eps=eps, norm=norm, score=score, steps=20, step_size=eps / 2 or None)
    broken = model(attack(model, x, y, rng=fresh())).argmax(1) != y

    clear = (radius - eps).abs() > 1e-4
    assert torch.equal(broken[clear], (radius < eps)[clear])


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("eps", [0.0, 0.01, 0.03, 0.1])
def test_fgsm_finds_the_exact_worst_case_of_a_linear_model(norm: Norm, eps: float) -> None:
    model, x, y = linear_problem()
    x_adv = FGSM(eps=eps, norm=norm)(model, x, y, rng=fresh())
    moved = (model.margin(x_adv) - model.margin(x)) * (1 - 2 * y)  # towards the other class
    assert torch.allclose(moved, (eps * model.w.norm(p=DUAL[norm])).expand(64), atol=1e-5)


@pytest.mark.parametrize("attack", [PGD(eps=0.3), FGSM(eps=0.3)])
def test_at_the_edge_of_the_box_the_worst_case_is_the_clipped_corner(attack: PGD | FGSM) -> None:
    weights = torch.linspace(-0.5, 0.5, 12)
    model, x = Linear(weights), torch.rand(32, 3, 2, 2, generator=fresh())
    y = (model.margin(x) > 0).long()
    away = (1 - 2 * y).view(-1, 1, 1, 1) * weights.sign().view(3, 2, 2)
    corner = (x + 0.3 * away).clamp(0, 1)
    assert torch.allclose(attack(model, x, y, rng=fresh()), corner, atol=1e-6)


class Bumpy(nn.Module):
    """Two classes, and a margin with many hills: where an ascent ends depends on where it starts."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(40.0))

    def forward(self, x: Tensor) -> Tensor:
        m = (self.scale * x).sin().flatten(1).sum(1)
        return torch.stack([m, -m], 1)


@pytest.mark.parametrize("norm", NORMS)
def test_restarts_keep_per_image_the_largest_margin_of_independent_runs(norm: Norm) -> None:
    model, x, y = Bumpy(), torch.rand(40, 1, 2, 2, generator=fresh(1)), torch.zeros(40).long()
    rng = fresh()
    single = PGD(eps=0.2, norm=norm, steps=3)
    runs = torch.stack([margin(model(single(model, x, y, rng=rng)), y) for _ in range(3)])

    together = PGD(eps=0.2, norm=norm, steps=3, restarts=3)(model, x, y, rng=fresh())

    assert torch.equal(margin(model(together), y), runs.amax(0))
    assert len(runs.argmax(0).unique()) == 3  # each of the three runs was the best for some image


def test_added_restarts_never_raise_robust_accuracy() -> None:
    model, x, y = Bumpy(), torch.rand(200, 1, 2, 2, generator=fresh(1)), torch.zeros(200).long()
    hits = [
        model(PGD(eps=0.02, steps=2, restarts=count)(model, x, y, rng=fresh())).argmax(1) == y
        for count in (1, 2, 4, 8)
    ]
    for fewer, more in zip(hits, hits[1:], strict=False):
        assert not (more & ~fewer).any()
    assert hits[-1].sum() < hits[0].sum()


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("kind", [PGD, FGSM])
def test_a_radius_of_zero_returns_the_images_themselves(kind: type[PGD | FGSM], norm: Norm) -> None:
    model, x, y = linear_problem()
    x_adv = kind(eps=0, norm=norm)(model, x, y, rng=fresh())
    assert torch.equal(x_adv, x) and x_adv.data_ptr() != x.data_ptr()


@pytest.mark.parametrize("attack", [PGD(eps=0.1), PGD(eps=0.1, norm="l2", restarts=2), FGSM(eps=0.1)])
def test_an_empty_batch_comes_back_empty(attack: PGD | FGSM) -> None:
    x = torch.zeros(0, 3, 2, 2)
    assert attack(linear_problem()[0], x, torch.zeros(0).long(), rng=fresh()).shape == x.shape


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("attack", [PGD(eps=0.1, steps=3, restarts=2), FGSM(eps=0.1)])
def test_an_attack_leaves_model_and_inputs_as_they_were(attack: PGD | FGSM, training: bool) -> None:
    model = small_network().train(training)
    model.body[2].eval()  # a mode of its own
    model.head.weight.requires_grad_(False)
    x, y = torch.rand(6, 1, 4, 4, generator=fresh()), torch.arange(6) % 3
    before, inputs = snapshot(model), (x.clone(), y.clone())

    x_adv = attack(model, x, y, rng=fresh())

    assert same(snapshot(model), before)
    assert same((x, y), inputs) and not x.requires_grad
    assert not x_adv.requires_grad and x_adv.grad_fn is None


def test_a_model_in_training_mode_is_attacked_as_it_will_predict() -> None:
    model = small_network()
    x, y = torch.rand(6, 1, 4, 4, generator=fresh()), torch.arange(6) % 3
    attack = PGD(eps=0.1, steps=5)
    assert torch.equal(attack(model.train(), x, y, rng=fresh()), attack(model.eval(), x, y, rng=fresh()))


def test_no_image_of_a_batch_influences_another() -> None:
    model, attack = small_network(), PGD(eps=0.1, steps=5, random_start=False)
    x, y = torch.rand(6, 1, 4, 4, generator=fresh()), torch.arange(6) % 3
    apart = [attack(model, x[i : i + 1], y[i : i + 1], rng=fresh()) for i in range(6)]
    assert torch.allclose(attack(model, x, y, rng=fresh()), torch.cat(apart), atol=1e-5)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("attack", [PGD, FGSM])
def test_a_model_without_any_gradient_is_attacked_with_finite_legal_images(
    attack: type[PGD | FGSM], norm: Norm
) -> None:
    model, x, y = Linear(torch.zeros(12)), linear_problem()[1], torch.zeros(64).long()
    x_adv = attack(eps=0.1, norm=norm)(model, x, y, rng=fresh())
    assert x_adv.isfinite().all()
    assert ThreatModel(norm=norm, eps=0.1).contains(x, x_adv).all()


class Rivals(nn.Module):
    """Logits (0, first pixel, second pixel): the margin follows the larger, the cross-entropy both."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([torch.zeros(len(x), 1), x.flatten(1)[:, :2]], dim=1)


@pytest.mark.parametrize(
    ("score", "moved"), [("margin", [0.1, 0, 0, 0]), ("cross_entropy", [0.1, 0.1, 0, 0])]
)
def test_the_score_says_what_is_climbed(score: ScoreName, moved: list[float]) -> None:
    x = torch.tensor([0.5, 0.3, 0.5, 0.5]).view(1, 1, 2, 2)
    attack = PGD(eps=0.1, score=score, steps=1, step_size=0.1, random_start=False)
    x_adv = attack(Rivals(), x, torch.zeros(1).long(), rng=fresh())
    assert (x_adv - x).flatten().tolist() == pytest.approx(moved, abs=1e-6)


def test_without_gradient_and_random_start_the_image_stays() -> None:
    model, x, y = Linear(torch.zeros(12)), linear_problem()[1], torch.zeros(64).long()
    assert torch.equal(PGD(eps=0.1, norm="l2", random_start=False)(model, x, y, rng=fresh()), x)


class Recorder(Linear):
    """Remembers what it was asked."""

    def __init__(self, w: Tensor) -> None:
        super().__init__(w)
        self.asked: list[Tensor] = []

    def forward(self, x: Tensor) -> Tensor:
        self.asked.append(x.detach().clone())
        return super().forward(x)


@pytest.mark.parametrize(
    ("attack", "size"), [(PGD(eps=0.1, steps=10), 0.025), (PGD(eps=0.1, step_size=0.01), 0.01)]
)
def test_a_step_is_step_size_or_by_default_two_and_a_half_eps_over_steps(attack: PGD, size: float) -> None:
    model, (_, x, y) = Recorder(torch.full((12,), 0.1)), linear_problem()
    attack = PGD(eps=attack.eps, steps=attack.steps, step_size=attack.step_size, random_start=False)
    attack(model, x, y, rng=fresh())
    assert torch.equal(model.asked[0], x)
    assert torch.allclose((model.asked[1] - x).abs(), torch.full_like(x, size), atol=1e-6)
    assert len(model.asked) == attack.steps


def test_a_random_start_asks_the_model_somewhere_else_first() -> None:
    model, (_, x, y) = Recorder(torch.full((12,), 0.1)), linear_problem()
    PGD(eps=0.1, steps=1)(model, x, y, rng=fresh())
    PGD(eps=0.1, steps=1)(model, x, y, rng=fresh(1))
    first, other = model.asked
    assert ((first - x).abs() > 0).float().mean() > 0.99 and not torch.equal(first, other)


def test_an_ascent_needs_no_gradient_mode_of_its_caller() -> None:
    model, x, y = linear_problem()
    with torch.no_grad():
        quiet = PGD(eps=0.1)(model, x, y, rng=fresh())
    assert torch.equal(quiet, PGD(eps=0.1)(model, x, y, rng=fresh()))


def test_an_ascent_climbs_any_score() -> None:
    x = torch.full((2, 1, 2, 2), 0.5)
    goal = torch.tensor([0.52, 0.9]).view(2, 1, 1, 1)
    climb = Ascent(threat=ThreatModel(eps=0.1), step_size=0.01, steps=40)
    z = climb(lambda z: -(z - goal).square().flatten(1).sum(1), x, rng=fresh())
    assert torch.allclose(z[1], torch.full((1, 2, 2), 0.6), atol=1e-6)  # the ball ends there
    assert torch.allclose(z[0], torch.full((1, 2, 2), 0.52), atol=0.011)  # within one step of the top


def test_predictions_on_the_attacked_images_are_not_better_than_before() -> None:
    model = small_network()
    x = torch.rand(50, 1, 4, 4, generator=fresh())
    y = predict(model, x).argmax(1)
    x_adv = PGD(eps=0.2)(model, x, y, rng=fresh())
    with torch.no_grad():
        model.eval()
        assert (margin(model(x_adv), y) >= margin(model(x), y) - 1e-6).all()
        assert (margin(model(x_adv), y) > 0).any()
