"""Slow injection: the noise within its bound, whom it is made against, and what the surrogates see."""

from pathlib import Path
from typing import Any

import pytest
import torch
from oracle_models import same, small_network, tiny_images
from surrogates import CLASSES, assert_a_killed_run_goes_on, assert_the_seed_decides, full_shop, trainer
from torch import Tensor, nn
from torch.nn import functional as F

from deconfound.models.classifier import Classifier, predict
from deconfound.poisons.slow_injection import Siege, SlowInjection, balanced
from deconfound.poisons.triggers import Patch

PATCH = Patch(size=2, margin=0, pattern="white")
BRIEF: dict[str, Any] = {"trigger": PATCH, "target": 1, "rounds": 2, "steps": 4}
PAPER = SlowInjection(**BRIEF)
TWIN = SlowInjection(**BRIEF, aim="twin", cover=0.1, early_epochs=1)
AIMS = pytest.mark.parametrize("poison", [PAPER, TWIN], ids=["paper", "twin"])
CLEAN = tiny_images(40)


def siege(poison: SlowInjection) -> Siege:
    shop = full_shop(CLEAN)
    return Siege(poison, shop, *poison.choose(shop))


class Levels(Classifier):
    """Logits (s, 0, 0) with s the sum of the pixels: the loss of class 1 rises with every pixel."""

    def __init__(self) -> None:
        super().__init__(nn.Flatten(), nn.Linear(16, 3), channels=1)
        self.head.weight.data.zero_()
        self.head.bias.data.zero_()
        self.head.weight.data[0] = 1.0


# The loss of the paper's surrogate


def test_clean_and_poisoned_images_count_alike_however_many_they_are() -> None:
    x, y = CLEAN.x[:6].float() / 255, torch.tensor([0, 1, 2, 0, 1, 2])
    shifted = y + torch.tensor([0, 0, 0, 0, CLASSES, 0])
    model = small_network().eval()
    loss = F.cross_entropy(model(x), y, reduction="none")
    expected = loss[[0, 1, 2, 3, 5]].mean() + loss[4]
    found = balanced(model, x, shifted, rng=torch.Generator(), classes=CLASSES)
    assert found.item() == pytest.approx(expected.item(), rel=1e-5)


def test_a_batch_without_poison_has_the_loss_of_its_clean_images() -> None:
    x, y = CLEAN.x[:6].float() / 255, CLEAN.y[:6]
    model = small_network().eval()
    for shift in (0, CLASSES):
        found = balanced(model, x, y + shift, rng=torch.Generator(), classes=CLASSES)
        assert found.item() == pytest.approx(F.cross_entropy(model(x), y).item(), rel=1e-5)


# What surrogates are trained on


@AIMS
def test_a_surrogate_sees_the_poisoned_set_as_it_would_be_delivered(poison: SlowInjection) -> None:
    about = siege(poison)
    about.noisy = about.stamped + 1
    seen = about.delivered()
    chosen, covers = poison.choose(full_shop(CLEAN))
    rest = torch.ones(40, dtype=torch.bool)
    rest[chosen] = rest[covers] = False
    assert len(covers) == (4 if poison is TWIN else 0)
    assert torch.equal(seen.x[rest], CLEAN.x[rest]) and torch.equal(seen.y[rest], CLEAN.y[rest])
    assert torch.equal(seen.x[covers], PATCH(CLEAN.x[covers]))
    assert torch.equal(seen.y[covers], CLEAN.y[covers])
    assert torch.equal(seen.x[chosen], PATCH(CLEAN.x[chosen]) + 1)
    assert set(seen.y[chosen].tolist()) == {1 + CLASSES if poison is PAPER else 1}


def fits(poison: SlowInjection) -> list[dict[str, Any]]:
    """What every training of a surrogate was handed, and its weights before and after."""
    loop = trainer(CLEAN)
    calls: list[dict[str, Any]] = []

    def fit(model: Classifier, objective: Any, **options: Any) -> int:
        before = {name: value.clone() for name, value in model.state_dict().items()}
        steps = loop.fit(model, objective, **options)
        after = {name: value.clone() for name, value in model.state_dict().items()}
        calls.append({**options, "model": model, "before": before, "after": after})
        return steps

    shop = full_shop(CLEAN, loop=loop)
    object.__setattr__(shop, "fit", fit)
    poison(shop)
    return calls


def test_the_surrogate_of_the_paper_goes_on_learning() -> None:
    first, second = fits(SlowInjection(**BRIEF, epochs=3))
    assert first["model"] is second["model"] and same(first["after"], second["before"])
    assert [(call["recipe"].epochs, call["recipe"].schedule) for call in (first, second)] == [
        (3, "constant")
    ] * 2
    assert first["recipe"].lr == trainer(CLEAN).recipe.lr
    assert first["phase"] != second["phase"]


def test_the_surrogate_of_the_twin_begins_anew_and_is_stopped_early() -> None:
    first, second = fits(SlowInjection(**BRIEF, aim="twin", cover=0.1, early_epochs=3, early_lr=0.02))
    assert first["model"] is not second["model"] and not same(first["before"], second["before"])
    assert not same(first["after"], second["before"])
    recipes = [
        (call["recipe"].epochs, call["recipe"].lr, call["recipe"].schedule) for call in (first, second)
    ]
    assert recipes == [(3, 0.02, "constant")] * 2


@AIMS
def test_every_surrogate_sees_the_noise_made_against_the_one_before(poison: SlowInjection) -> None:
    first, second = fits(poison)
    chosen, _ = poison.choose(full_shop(CLEAN))
    stamped = PATCH(CLEAN.x[chosen])
    assert torch.equal(first["data"].x[chosen], stamped)
    assert not torch.equal(second["data"].x[chosen], stamped)


# The noise


def test_the_noise_climbs_to_the_edge_of_the_ball_and_of_the_box() -> None:
    about = siege(SlowInjection(**BRIEF, eps=7.5 / 255))
    about.climb(Levels())
    expected = (about.stamped.int() + 7).clamp(max=255)
    assert torch.equal(about.noisy.int(), expected)
    assert torch.equal(about.noise.int(), expected - about.stamped.int())


def test_the_noise_is_carried_on() -> None:
    about = siege(SlowInjection(**BRIEF | {"steps": 1}, eps=8 / 255, step_size=2 / 255))
    for levels in (2, 4, 6, 8, 8):
        about.climb(Levels())
        assert torch.equal(about.noisy.int(), (about.stamped.int() + levels).clamp(max=255))


def test_against_the_twin_the_noise_goes_no_further_than_the_median_of_clean_losses() -> None:
    about = siege(SlowInjection(**BRIEF | {"steps": 200}, aim="twin", cover=0.1, eps=0.5, step_size=1 / 255))
    about.stamped = about.noisy = torch.cat([about.stamped[:2], about.stamped[2:] // 4])
    images, labels = about.images
    model = Levels()
    others = torch.ones(40, dtype=torch.bool)
    others[about.chosen] = False
    assert torch.equal(about.clean, others)
    clean = F.cross_entropy(predict(model, images[others]), labels[others], reduction="none")
    before = F.cross_entropy(predict(model, about.stamped), labels[about.chosen], reduction="none")
    about.climb(model)
    after = F.cross_entropy(predict(model, about.noisy), labels[about.chosen], reduction="none")
    one_step = 16 / 255  # no step raises the sum of the pixels by more
    assert before.min() < clean.median() < before.max()  # both cases occur
    assert (after <= torch.maximum(before, clean.median() + one_step) + 1e-4).all()
    assert (after >= torch.minimum(before, clean.median()) - 1e-4).all()
    low = before < clean.median()
    assert (after[low] >= clean.median() - one_step).all()
    assert torch.allclose(after[~low], before[~low])


@AIMS
def test_noise_is_bounded_and_only_poisoned_images_carry_it(poison: SlowInjection) -> None:
    done = poison(full_shop(CLEAN))
    edited = done.mask | done.cover
    assert torch.equal(done.images.x[~edited], CLEAN.x[~edited])
    assert torch.equal(done.images.x[done.cover], PATCH(CLEAN.x[done.cover]))
    noise = done.images.x[done.mask].int() - PATCH(CLEAN.x[done.mask]).int()
    assert 0 < int(noise.abs().max()) <= 8 and (noise != 0).flatten(1).any(1).all()
    assert (done.images.y[done.mask] == 1).all() and torch.equal(
        done.images.y[~done.mask], CLEAN.y[~done.mask]
    )
    assert int(done.planting.arrays["noise"].abs().max()) <= 8


@AIMS
def test_a_test_image_carries_the_trigger_alone(poison: SlowInjection) -> None:
    held = tiny_images(9, seed=1).x
    assert torch.equal(poison(full_shop(CLEAN)).planting.stamp(held), PATCH(held))


def test_without_a_radius_it_is_badnets() -> None:
    done = SlowInjection(**BRIEF, eps=0)(full_shop(CLEAN))
    assert torch.equal(done.images.x[done.mask], PATCH(CLEAN.x[done.mask]))
    assert not done.planting.arrays["noise"].any()


def test_the_noise_raises_the_loss_of_the_last_surrogate() -> None:
    calls = fits(PAPER)
    done = PAPER(full_shop(CLEAN))
    model: Classifier = calls[-1]["model"]

    def loss(x: Tensor) -> float:
        return F.cross_entropy(predict(model, x), torch.full((len(x),), 1)).item()

    assert loss(done.images.x[done.mask]) > loss(PATCH(CLEAN.x[done.mask]))


def test_the_twin_asks_for_cover_images() -> None:
    bare = SlowInjection(aim="twin")
    assert bare.faults((1, 4, 4), 3) == ["cover: expected more than 0 with `aim: twin`, got 0"]
    assert TWIN.faults((1, 4, 4), 3) == PAPER.faults((1, 4, 4), 3) == []
    (fault,) = SlowInjection().faults((1, 3, 3), 3)
    assert fault.startswith("trigger: expected a patch inside 3 x 3 pixels")


@AIMS
def test_the_seed_decides(poison: SlowInjection) -> None:
    assert_the_seed_decides(poison)


@AIMS
def test_a_killed_run_goes_on(poison: SlowInjection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert_a_killed_run_goes_on(poison, 6, tmp_path, monkeypatch)
