"""MixMatch: guesses, mixing and the two halves of the loss, against the formulas written out."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from oracle_models import CLASSES, same, small_network, snapshot, tiny_images
from scipy import integrate, stats
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from deconfound.defenses import semi_supervised
from deconfound.defenses.semi_supervised import MixMatch, mixing_weight, places, sharpened
from deconfound.defenses.workbench import Pace
from deconfound.recipe import Recipe

IMAGES = tiny_images(12)
X, PLACES = IMAGES.x.float() / 255, torch.arange(12)
KEPT = PLACES % 3 != 0


def fresh(seed: int = 0) -> Generator:
    return torch.Generator().manual_seed(seed)


class Plain(nn.Module):
    """A linear model: the same in both modes."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(16, CLASSES, bias=False)
        self.linear.weight.data = torch.randn(CLASSES, 16, generator=fresh(7))

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.linear(x.flatten(1))
        return logits


def objective(kept: Tensor = KEPT, **changes: Any) -> MixMatch:
    settings: dict[str, Any] = {"guesses": 2, "temperature": 0.5, "alpha": 0.75, "weight": 15.0}
    made = MixMatch(changes.pop("data", IMAGES), kept, CLASSES, Recipe(), **(settings | changes))
    made.pace(Pace(1, 2, 0.5))
    return made


def test_sharpening_squares_at_one_half_and_leaves_at_one() -> None:
    p = torch.tensor([[0.25, 0.75], [0.5, 0.5], [0.0, 1.0]])
    assert torch.allclose(sharpened(p, 0.5), torch.tensor([[0.1, 0.9], [0.5, 0.5], [0.0, 1.0]]))
    assert torch.allclose(sharpened(p, 1.0), p)


@given(st.integers(0, 2**32), st.floats(0.1, 5))
def test_a_mixed_image_is_mostly_itself(seed: int, alpha: float) -> None:
    assert 0.5 <= mixing_weight(alpha, rng=fresh(seed)) <= 1


def test_the_mixing_weight_is_the_larger_part_of_a_beta_draw() -> None:
    rng = fresh()
    drawn = [mixing_weight(0.75, rng=rng) for _ in range(4000)]
    beta = stats.beta(0.75, 0.75)
    expected = integrate.quad(lambda share: max(share, 1 - share) * beta.pdf(share), 0, 1, points=[0.5])[0]
    assert np.mean(drawn) == pytest.approx(expected, abs=4 * np.std(drawn) / np.sqrt(4000))


def written_out(kept: Tensor, share: float, seed: int = 0) -> float:
    """The loss at half of the training, with a known mixing weight."""
    model = Plain()
    with torch.no_grad():
        guess = model(X[~kept]).softmax(1).square()
        guess = guess / guess.sum(1, keepdim=True)
        images = torch.cat([X[kept], X[~kept], X[~kept]])
        targets = torch.cat([F.one_hot(IMAGES.y[kept], CLASSES).float(), guess, guess])
        order = torch.randperm(len(images), generator=fresh(seed))
        images = share * images + (1 - share) * images[order]
        targets = share * targets + (1 - share) * targets[order]
        p = model(images).softmax(1)
    count = int(kept.sum())
    labelled = -(targets * p.log()).sum(1)[:count]
    guessed = ((p - targets) ** 2)[count:]
    total = labelled.mean().item() if count else 0.0
    return total + (0.5 * 15 * guessed.mean().item() if len(guessed) else 0.0)


@pytest.mark.parametrize("share", [1.0, 0.7])
@pytest.mark.parametrize(
    "kept", [KEPT, torch.ones(12).bool(), torch.zeros(12).bool()], ids=["some", "all", "none"]
)
def test_the_loss_is_its_two_halves_of_the_mixed_images(
    kept: Tensor, share: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(semi_supervised, "mixing_weight", lambda alpha, *, rng: share)
    found = objective(kept)(Plain(), X, PLACES, rng=fresh())
    found.backward()
    assert found.item() == pytest.approx(written_out(kept, share), rel=1e-5)


def test_the_weight_of_the_guesses_grows_over_the_training() -> None:
    losses = []
    for fraction in (0.0, 0.25, 0.5):
        made = objective()
        made.pace(Pace(0, 4, fraction))
        losses.append(made(Plain(), X, PLACES, rng=fresh()).item())
    assert losses[2] - losses[1] == pytest.approx(losses[1] - losses[0], rel=1e-4)
    assert losses[1] > losses[0] + 0.01
    assert losses[0] == objective(weight=0)(Plain(), X, PLACES, rng=fresh()).item()


def test_a_label_that_is_not_kept_is_never_looked_at() -> None:
    others = IMAGES._replace(y=torch.where(KEPT, IMAGES.y, (IMAGES.y + 1) % CLASSES))
    losses = [objective(data=data)(Plain(), X, PLACES, rng=fresh()).item() for data in (IMAGES, others)]
    assert losses[0] == losses[1]
    moved = IMAGES._replace(y=torch.where(KEPT, (IMAGES.y + 1) % CLASSES, IMAGES.y))
    assert objective(data=moved)(Plain(), X, PLACES, rng=fresh()).item() != losses[0]


def test_a_place_stands_for_its_image_in_any_order() -> None:
    order = torch.randperm(12, generator=fresh(3))
    made = objective(torch.ones(12).bool())
    made.alpha = 1e-3  # hardly any mixing
    losses = [made(Plain(), X[rows], PLACES[rows], rng=fresh()).item() for rows in (PLACES, order)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
    assert torch.equal(places(IMAGES).y, PLACES) and places(IMAGES).x is IMAGES.x


def test_guessing_leaves_the_network_as_it_was() -> None:
    model = small_network().train()
    before = snapshot(model)
    guess = objective()._guess(model, [X, X])
    assert same(snapshot(model), before)
    p = small_network().eval()(X).softmax(1).square().detach()
    assert torch.allclose(guess, p / p.sum(1, keepdim=True), atol=1e-6)


def test_the_views_of_a_guess_are_drawn_as_the_recipe_says() -> None:
    made = objective()
    made.recipe = Recipe(crop=1)
    seen: list[Tensor] = []
    guess = made._guess
    made._guess = lambda model, views: seen.extend(views) or guess(model, views)  # type: ignore[method-assign, func-returns-value]
    made(Plain(), X, PLACES, rng=fresh())
    first, second = seen
    assert torch.equal(first, X[~KEPT]) and second.shape == first.shape and not torch.equal(second, first)


def test_after_an_epoch_the_judge_decides_who_keeps_his_label() -> None:
    made = objective(judge=lambda model: ~KEPT)
    assert made.after_epoch(4, Plain()) is False
    assert torch.equal(made.kept, ~KEPT)
    still = objective()
    still.after_epoch(4, Plain())
    assert torch.equal(still.kept, KEPT)


def test_who_keeps_his_label_survives_a_kill() -> None:
    made, other = objective(), objective(~KEPT)
    other.restore({name: value.clone() for name, value in made.state().items()})
    assert torch.equal(other.kept, KEPT)
