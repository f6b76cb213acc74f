"""I-BAU: the hyper-gradient of a quadratic problem, the perturbation of a linear model, and who carries it."""

import pytest
import torch
from oracle_models import same
from repair_benches import RECIPE, bench, convolutional
from torch import Tensor, nn
from torch.nn import functional as F

from deconfound.defenses.i_bau import IBAU, Unlearning, through, universal
from deconfound.defenses.workbench import Pace
from deconfound.models.classifier import Classifier, to_unit
from deconfound.types import Images

IMAGES = bench().val
X, Y = to_unit(IMAGES.x), IMAGES.y


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def quadratic(terms: int, rate: float = 0.1) -> tuple[float, float, float]:
    """Gradient of outer(d*(w), w) with inner = a d^2 / 2 - w d, so d* = w / a, and outer = (d - c)^2 / 2 + b w."""
    a, b, c, w = 2.0, 0.7, 5.0, torch.tensor(3.0, requires_grad=True)
    best = torch.tensor([3.0 / a])
    found = through(
        lambda d: (d - c).square().sum() / 2 + b * w,
        lambda d: a * d.square().sum() / 2 - w * d.sum(),
        best,
        rate=rate,
        terms=terms,
    )
    found.backward()
    assert w.grad is not None
    slope = 3.0 / a - c
    return found.item(), w.grad.item(), b + slope / a * (1 - (1 - rate * a) ** terms)


@pytest.mark.parametrize("terms", [1, 2, 5])
def test_the_hypergradient_of_a_quadratic_is_its_neumann_sum(terms: int) -> None:
    value, found, expected = quadratic(terms)
    assert found == pytest.approx(expected, rel=1e-5)
    assert value == pytest.approx((1.5 - 5) ** 2 / 2 + 0.7 * 3)  # the loss itself, no more


def test_with_many_terms_it_is_the_true_gradient_through_the_minimiser() -> None:
    assert quadratic(400)[1] == pytest.approx(0.7 + (1.5 - 5) / 2, rel=1e-4)


def test_a_map_of_several_dimensions_uses_the_whole_matrix() -> None:
    a = torch.tensor([[2.0, 0.5], [0.5, 1.0]])
    w = torch.tensor([1.0, -2.0], requires_grad=True)
    c = torch.tensor([0.3, 0.4])
    best = torch.linalg.solve(a, w.detach())
    through(
        lambda d: (c * d).sum(), lambda d: d @ a @ d / 2 - (w * d).sum(), best, rate=0.1, terms=600
    ).backward()
    assert w.grad is not None
    assert torch.allclose(w.grad, torch.linalg.solve(a, c), atol=1e-4)


def linear(seed: int = 0) -> Classifier:
    model = Classifier(nn.Flatten(), nn.Linear(16, 3, bias=False), channels=1)
    model.head.weight.data = torch.randn(3, 16, generator=rng(seed))
    return model.eval()


def test_the_first_step_of_the_perturbation_is_the_mean_gradient_times_the_rate() -> None:
    model = linear()
    found = universal(model, IMAGES, IBAU(inner_lr=0.5), batch_size=len(Y))
    logits = model(X)
    slope = (logits.softmax(1) - F.one_hot(logits.argmax(1), 3).float()) @ model.head.weight / len(Y)
    expected = 0.5 * slope.sum(0).view(1, 1, 4, 4)  # up the cross-entropy against the network's own answers
    assert torch.allclose(found, expected, atol=1e-6) and not found.requires_grad


def test_further_passes_lower_the_networks_confidence_and_the_penalty_holds_the_perturbation_back() -> None:
    model = linear()
    labels = model(X).argmax(1)

    def norm_and_loss(**options: float) -> tuple[float, float]:
        delta = universal(model, IMAGES, IBAU(inner_lr=0.5, **options), batch_size=8)  # type: ignore[arg-type]
        return float(delta.norm()), F.cross_entropy(model(X + delta), labels).item()

    one, many, held = norm_and_loss(), norm_and_loss(passes=5), norm_and_loss(passes=5, penalty=0.5)
    assert many[1] > one[1] > F.cross_entropy(model(X), labels).item()
    assert held[0] < many[0]
    assert all(parameter.requires_grad and parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize("radius", [0.05, 0.2, 1000.0])
def test_a_radius_bounds_the_perturbation_and_a_large_one_changes_nothing(radius: float) -> None:
    free = universal(linear(), IMAGES, IBAU(inner_lr=0.5, passes=2), batch_size=8)
    found = universal(linear(), IMAGES, IBAU(inner_lr=0.5, passes=2, radius=radius), batch_size=8)
    assert float(free.norm()) > 0.2
    assert same(found, free) if radius == 1000 else float(found.norm()) == pytest.approx(radius, rel=1e-4)


def carriers(batch: int, portion: float) -> list[int]:
    """How many images of a batch carry the perturbation in each of the passes of a step."""
    model, seen = linear(), []
    objective = Unlearning(IBAU(portion=portion), IMAGES, 8)
    objective.delta = torch.full((1, 1, 4, 4), 100.0)
    x = torch.zeros(batch, 1, 4, 4)

    class Watching(nn.Module):
        def forward(self, z: Tensor) -> Tensor:
            seen.append(int((z == 100).flatten(1).all(1).sum()))
            logits: Tensor = model(z)
            return logits

    objective(Watching(), x, torch.zeros(batch).long(), rng=rng())
    return seen


@pytest.mark.parametrize(
    ("batch", "portion", "expected"), [(8, 0.01, 1), (8, 0.5, 4), (150, 0.01, 1), (200, 0.01, 2)]
)
def test_at_least_one_image_of_a_batch_carries_the_perturbation(
    batch: int, portion: float, expected: int
) -> None:
    assert carriers(batch, portion) == [expected, batch]  # the outer loss, and the map


def test_the_gradient_differs_from_the_one_that_does_not_go_through_the_perturbation() -> None:
    model = convolutional()
    objective = Unlearning(IBAU(inner_lr=0.1, portion=0.5), IMAGES, 8)
    objective(model, X, Y, rng=rng(1)).backward()
    implicit = model.body[0].weight.grad.clone()  # type: ignore[index, union-attr]
    model.zero_grad()
    carried = torch.zeros(len(X), 1, 1, 1)
    carried[torch.randperm(len(X), generator=rng(1))[: len(X) // 2]] = 1
    assert objective.delta is not None
    F.cross_entropy(model(X + carried * objective.delta), Y).backward()
    direct = model.body[0].weight.grad  # type: ignore[index, union-attr]
    assert (implicit - direct).abs().max() > 1e-4


def test_a_network_with_attention_has_a_hypergradient_too() -> None:
    class Attending(nn.Module):
        def forward(self, z: Tensor) -> Tensor:
            rows = z.view(-1, 1, 4, 4)
            return F.scaled_dot_product_attention(rows, rows, rows).flatten(1)

    model = Classifier(Attending(), nn.Linear(16, 3), channels=1).eval()
    Unlearning(IBAU(inner_lr=0.1), IMAGES, 8)(model, X, Y, rng=rng()).backward()
    assert model.head.weight.grad is not None and model.head.weight.grad.isfinite().all()


def test_the_simple_form_is_cross_entropy_with_the_perturbation_on_all_images() -> None:
    model = convolutional()
    objective = Unlearning(IBAU(simplified=True), IMAGES, 8)
    loss = objective(model.train(), X, Y, rng=rng())
    assert objective.delta is not None and not model.training  # evaluation mode throughout
    assert loss.item() == pytest.approx(F.cross_entropy(model(X + objective.delta), Y).item())


def test_every_round_finds_its_own_perturbation_and_keeps_it() -> None:
    objective, model = Unlearning(IBAU(), IMAGES, 8), convolutional()
    found = []
    for epoch in (0, 0, 1):
        objective.pace(Pace(epoch, 2, epoch / 2))
        objective(model, X, Y, rng=rng())
        found.append(objective.delta)
        model.head.weight.data += 0.1 * torch.randn(model.head.weight.shape, generator=rng(epoch))
    assert found[0] is found[1] and found[2] is not None and found[0] is not None
    assert not same(found[1], found[2])
    again = Unlearning(IBAU(), IMAGES, 8)
    again.restore(objective.state())
    assert same(again.delta, objective.delta) and Unlearning(IBAU(), IMAGES, 8).state() == {}


@pytest.mark.parametrize("simplified", [False, True])
def test_statistics_of_batch_norms_do_not_move(simplified: bool) -> None:
    room = bench(recipe=RECIPE)
    done = IBAU(rounds=2, simplified=simplified)(room)
    assert room.start is not None
    before, after = room.start.state_dict(), done.model.state_dict()
    for name in before:
        assert same(before[name], after[name]) == (
            "running" in name or "batches" in name or name in ("mean", "std")
        )
    assert float(done.notes["perturbation_norm"]) > 0


def test_a_network_that_one_pixel_turns_unlearns_it() -> None:
    """Two classes by the left pixel; a bright right pixel shouts class 1. No clean image has one."""
    model = Classifier(nn.Flatten(), nn.Linear(2, 2), channels=1).eval()
    model.head.weight.data = torch.tensor([[4.0, -6.0], [-4.0, 6.0]])
    model.head.bias.data = torch.tensor([-2.0, 2.0])
    left = torch.arange(16) % 2
    images = Images(torch.stack([left * 255, torch.zeros(16)], 1).view(16, 1, 1, 2).to(torch.uint8), 1 - left)
    trigger = torch.tensor([[[[1.0, 1.0]]]])
    before = model(trigger).softmax(1)[0, 1].item()
    objective = Unlearning(IBAU(simplified=True, inner_lr=1.0), images, 8)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.3)
    for epoch in range(200):
        objective.pace(Pace(epoch, 200, 0))
        optimizer.zero_grad()
        objective(model, to_unit(images.x), images.y, rng=rng(epoch)).backward()
        optimizer.step()
    assert before > 0.99 and model(trigger).softmax(1)[0, 1].item() < 0.5
    assert (model(to_unit(images.x)).argmax(1) == images.y).all()
