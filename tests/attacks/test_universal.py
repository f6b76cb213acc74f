"""The universal perturbation: its size, what it is learnt from, and how it compares with noise."""

import pytest
import torch
from oracle_models import Linear, linear_problem, small_network
from torch import Tensor, nn

from deconfound.attacks.scores import cross_entropy
from deconfound.attacks.universal import Universal


def fresh(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


class Bumps(nn.Module):
    """Three classes with curved boundaries."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.randn(12, 12, generator=fresh(3)))
        self.out = nn.Parameter(torch.randn(12, 3, generator=fresh(4)))

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = torch.tanh((x.flatten(1) - 0.5) @ self.w) @ self.out
        return logits


def curved() -> tuple[Bumps, Tensor, Tensor]:
    model, x = Bumps(), torch.rand(90, 3, 2, 2, generator=fresh())
    with torch.no_grad():
        return model, x, model(x).argmax(1)


@pytest.mark.parametrize("eps", [0.02, 0.1, 0.6])
def test_one_perturbation_within_eps_serves_all_images(eps: float) -> None:
    model, x, y = curved()
    attack = Universal(eps=eps, images=20, steps=30)
    v = attack.perturbation(model, x, y)
    assert v.shape == (1, 3, 2, 2) and 0.5 * eps < v.abs().max() <= torch.tensor(eps)
    assert torch.equal(attack(model, x, y, rng=fresh()), (x + v).clamp(0, 1))


def test_it_is_learnt_from_the_first_images_and_applied_to_the_rest() -> None:
    model, x, y = curved()
    attack = Universal(eps=0.1, images=20)
    v = attack.perturbation(model, x, y)
    assert torch.equal(attack.perturbation(model, x[:20], y[:20]), v)
    others = torch.cat([x[:20], 1 - x[20:]])
    assert torch.equal(attack.perturbation(model, others, y), v)
    others = torch.cat([x[:19], 1 - x[19:]])
    assert not torch.equal(attack.perturbation(model, others, y), v)


def test_on_a_linear_model_and_one_class_it_is_the_exact_worst_case() -> None:
    model, x, y = linear_problem()
    mine = y == 1
    model.w.data[::2] *= -1
    v = Universal(eps=0.05).perturbation(model, x[mine], y[mine])
    assert torch.allclose(v.flatten(), -0.05 * model.w.detach().sign())


def test_it_fools_at_least_as_many_images_learnt_from_as_random_signs_do() -> None:
    model, x, y = curved()
    for eps in (0.05, 0.1, 0.3):
        attack = Universal(eps=eps, images=60)
        broken = (model(attack(model, x, y, rng=fresh())).argmax(1) != y)[:60].sum()
        signs = (torch.rand(200, 1, 3, 2, 2, generator=fresh(1)) - 0.5).sign() * eps
        noise = [int((model((x + sign).clamp(0, 1)).argmax(1) != y)[:60].sum()) for sign in signs]
        assert broken >= sorted(noise)[-3] and broken > 1.5 * sum(noise) / len(noise)


def test_an_image_lost_beyond_the_cap_pulls_no_more() -> None:
    class Steep(Linear):
        def forward(self, x: Tensor) -> Tensor:
            return 100 * super().forward(x)

    model = Steep(torch.tensor([1.0, 0.2]))
    x = torch.tensor([[0.1, 0.1], [0.45, 0.3]]).view(2, 1, 1, 2)
    y = torch.tensor([1, 0])  # the first is lost by far, the second can still be lost upwards
    capped = Universal(eps=0.1, cap=9).perturbation(model, x, y)
    free = Universal(eps=0.1, cap=1e6).perturbation(model, x, y)
    assert capped.flatten()[0] > 0 and (cross_entropy(model(x), y)[0] > 9)
    assert torch.equal(free, torch.zeros_like(free)) or free.flatten()[0] != capped.flatten()[0]


def test_the_default_step_is_a_fifteenth_of_eps() -> None:
    model, x, y = curved()
    one = Universal(eps=0.15, steps=1).perturbation(model, x, y)
    assert one.abs().unique().tolist() == pytest.approx([0.01])


def test_it_draws_nothing() -> None:
    model, x = small_network(), torch.rand(6, 1, 4, 4, generator=fresh())
    rng = fresh()
    Universal(eps=0.1)(model, x, torch.arange(6) % 3, rng=rng)
    assert torch.equal(rng.get_state(), fresh().get_state())
