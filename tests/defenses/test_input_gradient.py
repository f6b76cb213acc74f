"""Input gradients: the penalty in closed form, its way to the weights, and nothing of it at weight zero."""

import pytest
import torch
from oracle_models import Linear, linear_problem, same, small_network, tiny_images, workbench
from torch import Tensor, nn
from torch.nn import functional as F

from deconfound.defenses.input_gradient import InputGradient, pixel_gradient, squares
from deconfound.defenses.jacobian import directions, frobenius
from deconfound.defenses.standard import Standard
from deconfound.models.classifier import Classifier
from deconfound.recipe import Recipe
from deconfound.rng import generator, global_seed

RECIPE = Recipe(epochs=2, batch_size=8, flip=True)
IMAGES = tiny_images(12)
X, Y = IMAGES.x.float() / 255, IMAGES.y
RNG = torch.Generator()


class Smooth(nn.Module):
    """Two layers without batch norm and with a nonlinearity that has a second derivative."""

    def __init__(self) -> None:
        super().__init__()
        rng = torch.Generator().manual_seed(0)
        self.first = nn.Parameter(torch.randn(16, 5, generator=rng) / 4)
        self.second = nn.Parameter(torch.randn(5, 3, generator=rng))

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(x.flatten(1) @ self.first) @ self.second


def test_the_penalty_of_a_linear_model_is_as_computed_by_hand() -> None:
    model, x, y = linear_problem()
    loss = InputGradient(weight=3).objective(model, x, y, rng=RNG)
    logits = model(x)
    wrong = logits.softmax(1).gather(1, 1 - y[:, None]).squeeze(1)  # dCE/dx = -+ 2 (1 - p_y) w
    expected = F.cross_entropy(logits, y) + 3 * (4 * wrong.square() * model.w.square().sum()).mean()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)


def test_the_gradient_of_the_penalty_is_that_of_finite_differences() -> None:
    model = Smooth().double()
    x = X.double()

    def loss() -> Tensor:
        return InputGradient(weight=2).objective(model, x, Y, rng=RNG)

    loss().backward()  # type: ignore[no-untyped-call]
    for weights in (model.first, model.second):
        assert weights.grad is not None
        for place in ((0, 0), (3, 1)):
            step = 1e-5
            with torch.no_grad():
                weights[place] += step
            above = loss().item()
            with torch.no_grad():
                weights[place] -= 2 * step
            below = loss().item()
            with torch.no_grad():
                weights[place] += step
            assert weights.grad[place].item() == pytest.approx((above - below) / (2 * step), rel=1e-5)


def test_the_penalty_alone_moves_every_layer() -> None:
    model = small_network(dropout=0.0).train()
    x = X.clone().requires_grad_(True)
    losses = F.cross_entropy(model(x), Y, reduction="none")
    squares(pixel_gradient(losses, x)).mean().backward()  # type: ignore[no-untyped-call]
    for name, weights in model.named_parameters():
        if name.endswith("weight"):
            assert weights.grad is not None and weights.grad.abs().sum() > 0, name


def test_without_weight_it_is_standard_training_to_the_bit_and_with_it_not() -> None:
    def trained(defense: InputGradient | Standard) -> dict[str, Tensor]:
        return dict(defense(workbench(RECIPE)[0]).model.state_dict())

    standard = trained(Standard())
    assert same(trained(InputGradient(weight=0)), standard)
    assert not same(trained(InputGradient(weight=0.1)), standard)


def test_training_makes_the_gradients_of_the_logits_smaller() -> None:
    def smooth(purpose: str) -> Classifier:
        with global_seed(generator(0, purpose)):
            body = nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.Tanh())
            return Classifier(body, nn.Linear(8, 3), channels=1)

    def left(weight: float) -> float:
        bench, _ = workbench(Recipe(epochs=10, batch_size=8), network=smooth)
        model = InputGradient(weight=weight)(bench).model
        x = X.clone().requires_grad_(True)
        logits = model(x)
        return frobenius(logits, x, directions(logits, 0, rng=RNG)).mean().item()

    assert left(1.0) < 0.5 * left(0.0)


@pytest.mark.parametrize("scale", [0.0, 1.0, 1e4], ids=["uniform", "ordinary", "saturated"])
def test_loss_and_gradient_are_finite(scale: float) -> None:
    model = small_network(dropout=0.0).train()
    with torch.no_grad():
        model.head.weight.mul_(scale)
    loss = InputGradient().objective(model, X, Y, rng=RNG)
    loss.backward()  # type: ignore[no-untyped-call]
    assert loss.isfinite() and all(w.grad is None or w.grad.isfinite().all() for w in model.parameters())


def test_the_images_of_the_batch_are_left_alone() -> None:
    x = X.clone()
    InputGradient().objective(Linear(torch.ones(16)), x, Y.clamp_max(1), rng=RNG)
    assert torch.equal(x, X) and not x.requires_grad
