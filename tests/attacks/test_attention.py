"""AoA: the attention it looks at, the way it goes, and what falls."""

import pytest
import torch
from nearest_oracle import Planes, planes
from oracle_models import small_network
from torch import Tensor, nn

from deconfound.attacks.attention import AttentionAttack, attention, log_ratio
from deconfound.attacks.pgd import PGD
from deconfound.errors import NoGradientError
from deconfound.models.classifier import eval_mode
from deconfound.rng import generator, global_seed


def fresh(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def ratio(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    with eval_mode(model):
        z = x.clone().requires_grad_(True)
        return log_ratio(z, model(z), y).detach()


def test_attention_of_a_linear_model_is_the_sum_of_weight_times_pixel() -> None:
    model, x, y = planes(4)
    z = x.clone().requires_grad_(True)
    found = attention(z, model(z), y)
    expected = (x.flatten(1) * model.w[y]).abs().sum(1)
    assert torch.allclose(found, expected, rtol=1e-5)


def test_attention_of_a_network_without_biases_sums_to_the_logit_before_the_absolute_value() -> None:
    w = torch.tensor([[1.0, 2.0], [3.0, 1.0]])
    model = Planes(w, torch.zeros(2))
    z = torch.tensor([[0.5, 0.25]]).view(1, 1, 1, 2).requires_grad_(True)
    assert attention(z, model(z), torch.tensor([1])).tolist() == pytest.approx([1.75])


def test_one_step_on_a_linear_model_follows_the_closed_form() -> None:
    w = torch.tensor([[3.0, 1.0, 2.0], [1.0, 2.0, -2.0], [0.0, 0.5, 0.1]])
    model = Planes(w, torch.tensor([5.0, 4.0, 0.0]))
    x = torch.tensor([0.5, 0.4, 0.3]).view(1, 1, 1, 3)
    z = AttentionAttack(eps=0.1, steps=1, step_size=0.1, weight=0)(
        model, x, torch.zeros(1).long(), rng=fresh()
    )
    true, other = (float((x.flatten() * w[k]).abs().sum()) for k in (0, 1))  # 1 is the runner-up
    falls = w[1].abs() / other - w[0].abs() / true
    assert (
        torch.allclose((z - x).flatten(), 0.1 * falls.sign(), atol=1e-6)
        and falls.sign().unique().numel() == 2
    )


def test_the_gradient_of_the_ratio_is_that_of_finite_differences() -> None:
    with global_seed(generator(0, "init")):
        model = nn.Sequential(
            nn.Flatten(), nn.Linear(16, 6), nn.Tanh(), nn.Linear(6, 3)
        ).double()  # it curves
    x, y = torch.rand(2, 1, 4, 4, generator=fresh()).double() + 0.1, torch.tensor([0, 2])
    z = x.clone().requires_grad_(True)
    (slope,) = torch.autograd.grad(log_ratio(z, model(z), y).sum(), z)
    direction = torch.randn(x.shape, generator=fresh(1)).double()
    ahead, behind = (ratio(model, x + h * direction, y) for h in (1e-6, -1e-6))
    expected = (ahead - behind) / 2e-6
    assert torch.allclose((slope * direction).flatten(1).sum(1), expected, rtol=1e-4)


@pytest.mark.parametrize("weight", [0.0, 1.0])
def test_the_ratio_of_attentions_falls(weight: float) -> None:
    model, x = small_network(), torch.rand(40, 1, 4, 4, generator=fresh())
    with torch.no_grad():
        y = model.eval()(x).argmax(1)
    z = AttentionAttack(eps=0.05, weight=weight)(model, x, y, rng=fresh())
    same = model(z).argmax(1) == y  # the runner-up may change with the prediction
    fell = ratio(model, z, y) < ratio(model, x, y)
    assert same.sum() > 10 and fell[same].float().mean() > 0.8
    assert ratio(model, z, y).mean() < ratio(model, x, y).mean() - 0.05


def test_with_a_large_weight_it_goes_where_pgd_goes() -> None:
    model, x, y = planes(4)
    found = AttentionAttack(eps=0.05, steps=5, weight=1e8)(model, x, y, rng=fresh())
    expected = PGD(eps=0.05, steps=5, random_start=False)(model, x, y, rng=fresh())
    assert ((found - expected).abs() < 1e-6).float().mean() > 0.95


def test_a_black_image_has_no_attention_and_a_finite_way() -> None:
    model = small_network()
    x, y = torch.zeros(3, 1, 4, 4), torch.arange(3)
    for weight in (0.0, 1.0):
        z = AttentionAttack(eps=0.1, weight=weight, steps=3)(model, x, y, rng=fresh())
        assert z.isfinite().all()
        assert bool((z != x).any()) == (weight > 0)


def test_with_early_stop_an_image_on_which_the_model_errs_is_left_alone() -> None:
    model, x, y = planes(4)
    wrong = (y + 1) % 4
    assert torch.equal(AttentionAttack(eps=0.1, early_stop=True)(model, x, wrong, rng=fresh()), x)


def test_a_model_without_a_gradient_is_refused() -> None:
    class Flat(Planes):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x).detach()

    with pytest.raises(NoGradientError):
        AttentionAttack(eps=0.1)(
            Flat(torch.zeros(2, 4), torch.zeros(2)),
            torch.rand(1, 1, 2, 2),
            torch.zeros(1).long(),
            rng=fresh(),
        )
