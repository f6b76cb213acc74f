"""NAMID's statistics of a network: every number by hand from known estimators, and nothing where nobody is fooled."""

import copy
import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from oracle_models import same, small_network, snapshot, tiny_images
from torch import Tensor, nn
from torch.nn import functional as F

from deconfound.attacks.pgd import PGD
from deconfound.defenses.namid import NAMID, Learnt
from deconfound.defenses.wmim import WMIM
from deconfound.estimators import Estimators, EstimatorSpec
from deconfound.models.classifier import Classifier
from deconfound.profiles import Selection
from deconfound.properties import mutual_information
from deconfound.properties.mutual_information import MutualInformation, separated
from deconfound.properties.subject import Subject
from deconfound.rng import generator, global_seed
from deconfound.types import Images

BOUNDS: list[Any] = ["released", "donsker_varadhan"]
ATTACK, UNSEEN = PGD(eps=0.2, steps=3), PGD(eps=0.2, steps=2, score="margin")
TINY = EstimatorSpec(hidden=8, widths=(2, 3), epochs=1, batch_size=16, lr=1e-3)


def clear(images: Images) -> Images:
    """The same, and the brightest of the first three pixels of the first row names the class."""
    x = images.x.clone()
    x[:, 0, 0, :3] //= 3
    x[torch.arange(len(x)), 0, 0, images.y] += 80
    return Images(x, images.y)


TRAIN, TEST = clear(tiny_images(30)), clear(tiny_images(24, seed=1))
FOOLED = torch.arange(24) % 3 != 2  # 16 of the test images
READ = {
    *("natural_gap", "adversarial_gap", "natural_auc", "adversarial_auc", "logp_auc"),
    *("natural_profile", "adversarial_profile"),
}
DERIVED = {
    *("natural_auc_gain", "adversarial_auc_gain", "shuffled_natural_auc", "shuffled_adversarial_auc"),
    *("contrastive_natural_gain", "contrastive_adversarial_gain"),
}
ORDER = {"mi_clean_minus_adversarial", "mi_adversarial_minus_mixed"}
FROZEN = {f"{name}_frozen" for name in READ - {"logp_auc"}}


def spec(**changes: Any) -> MutualInformation:
    return MutualInformation(**{"attack": ATTACK, "unseen": UNSEEN, "estimator": TINY} | changes)


def estimators(seed: int) -> Estimators:
    """Weights and statistics as drawn, no two alike, in evaluation mode."""
    with global_seed(torch.Generator().manual_seed(seed)):
        made = Estimators(TINY, (1, 4, 4), 3)
        for tensor in made.state_dict().values():
            if tensor.is_floating_point():
                tensor += 0.3 * torch.rand_like(tensor)
    return made.eval()


def drawn(images: Images, fooled: Tensor, seed: int) -> Tensor:
    """Images with a little noise, on which the two pixels that decide are exchanged where they shall fool."""
    x, rows = images.x / 255, torch.arange(len(images.y))[fooled]
    x = (x + 0.05 * torch.rand(x.shape, generator=torch.Generator().manual_seed(seed))).clamp(0, 1)
    y, other = images.y[rows], (images.y[rows] + 1) % 3
    x[rows, 0, 0, y], x[rows, 0, 0, other] = 0.3 * x[rows, 0, 0, y], x[rows, 0, 0, y]
    return x


def subject(model: Classifier | None = None, **options: Any) -> Subject:
    """A network that reads the brightest of three pixels, and perturbed images that are known already."""
    head = nn.Linear(16, 3, bias=False)
    head.weight.data = 5 * torch.eye(3, 16)
    made = Subject(
        model or Classifier(nn.Flatten(), head, channels=1).eval(),
        options.get("defense"),
        options.get("parts", {}),
        TRAIN,
        TEST,
        3,
        lambda purpose: generator(options.get("seed", 0), purpose),
    )
    if model is None:
        fooled = options.get("fooled", FOOLED)
        made.crafted[f"test {ATTACK!r}"] = drawn(TEST, fooled, 0)
        made.crafted[f"test {UNSEEN!r}"] = drawn(TEST, fooled, 1)
        made.crafted[f"train {ATTACK!r}"] = drawn(TRAIN, torch.arange(30) % 2 == 0, 2)
    return made


SEEDS = {"contrastive": 1, "max_only": 2}


@pytest.fixture
def known(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """Estimators as drawn instead of trained ones; what their training was handed."""
    asked: list[tuple[Any, ...]] = []

    def handed(spec: EstimatorSpec, *args: Any, rng: torch.Generator) -> Estimators:
        asked.append((spec, *args, rng))
        return estimators(SEEDS[spec.training])

    monkeypatch.setattr(mutual_information, "train_estimators", handed)
    return asked


def bank() -> tuple[Tensor, Tensor]:
    """Training images and their noise."""
    x = TRAIN.x / 255
    return x, drawn(TRAIN, torch.arange(30) % 2 == 0, 2) - x


class ByHand:
    """Estimates of the test images against the bank, one image at a time."""

    def __init__(self, made: Estimators, attack: PGD, bound: Any, *, shift: int = 0) -> None:
        about = subject()
        x, x_adv = about.x, about.crafted[f"test {attack!r}"]
        with torch.no_grad():
            clean, moved = about.model(x), about.model(x_adv)
            banks = made.banks(*bank())

        def each(pair: Any, logits: Tensor, pattern: Tensor, negatives: Tensor) -> Any:
            with torch.no_grad():
                return np.array(
                    [
                        float(pair.estimate(z[None], p[None], bound=bound, bank=negatives))
                        for z, p in zip(logits, pattern.roll(shift, 0), strict=True)
                    ]
                )

        self.natural = [each(made.natural, z, x, banks.natural) for z in (clean, moved)]
        self.noisy = [each(made.adversarial, z, x_adv - x, banks.adversarial) for z in (clean, moved)]
        self.on_moved = each(made.natural, moved, x_adv, banks.natural)
        chosen = FOOLED.numpy()
        logp = [
            z.log_softmax(1).gather(1, TEST.y[:, None]).squeeze(1).numpy()[chosen] for z in (clean, moved)
        ]
        (n, n_adv), (a, a_adv) = ([v[chosen] for v in pair] for pair in (self.natural, self.noisy))
        self.numbers = {
            "natural_gap": (n - n_adv).mean(),
            "adversarial_gap": (a_adv - a).mean(),
            "natural_auc": auc(n, n_adv),
            "adversarial_auc": auc(a_adv, a),
            "logp_auc": auc(logp[0], logp[1]),
            "natural_profile": 1 - n @ n_adv / np.linalg.norm(n) / np.linalg.norm(n_adv),
            "adversarial_profile": 1 - a @ a_adv / np.linalg.norm(a) / np.linalg.norm(a_adv),
        }


def auc(higher: Any, lower: Any) -> float:
    """Over all pairs, ties counting half."""
    return float(np.mean([(h > v) + (h == v) / 2 for h in higher for v in lower]))


# AUROC


@pytest.mark.parametrize(
    ("higher", "lower", "expected"),
    [
        ((3, 4), (1, 2), 1),
        ((1, 2), (3, 4, 5), 0),
        ((1, 1), (1, 1, 1), 0.5),
        ((1, 3), (2, 4), 0.25),
        ((2, 3), (1, 2), 0.875),
        ((5,), (1, 5, 9, 2), 0.625),
    ],
)
def test_the_separation_of_a_case_made_by_hand(higher: Any, lower: Any, expected: float) -> None:
    assert separated(torch.tensor(higher), torch.tensor(lower)) == expected


values = st.lists(st.integers(-5, 5), min_size=1, max_size=8)


@given(values, values)
def test_the_separation_is_the_share_of_pairs_in_order_and_its_mirror_is_the_rest(
    a: list[int], b: list[int]
) -> None:
    one, other = torch.tensor(a), torch.tensor(b)
    assert separated(one, other) == pytest.approx(auc(a, b))
    assert separated(one, other) + separated(other, one) == pytest.approx(1)


# Numbers


@pytest.mark.parametrize("bound", BOUNDS)
def test_every_number_is_that_of_the_images_one_by_one(bound: Any, known: list[Any]) -> None:
    found = spec(estimator=replace(TINY, bound=bound))(subject())
    assert found.values == {} and set(found.numbers) == READ | DERIVED | ORDER
    ours, shuffled = (ByHand(estimators(1), ATTACK, bound, shift=k) for k in (0, 1))
    unseen, theirs = ByHand(estimators(1), UNSEEN, bound), ByHand(estimators(2), UNSEEN, bound)
    order = ByHand(estimators(2), ATTACK, bound)
    expected = dict(ours.numbers)
    for side in ("natural", "adversarial"):
        expected[f"shuffled_{side}_auc"] = shuffled.numbers[f"{side}_auc"]
        expected[f"{side}_auc_gain"] = ours.numbers[f"{side}_auc"] - ours.numbers["logp_auc"]
        expected[f"contrastive_{side}_gain"] = unseen.numbers[f"{side}_auc"] - theirs.numbers[f"{side}_auc"]
    own, mixed = (values.mean() for values in order.natural)
    expected["mi_clean_minus_adversarial"] = own - order.on_moved.mean()
    expected["mi_adversarial_minus_mixed"] = order.on_moved.mean() - mixed
    assert dict(found.numbers) == pytest.approx(expected, abs=1e-4)
    assert min(abs(value) for value in expected.values()) > 2e-3  # a wrong one would not look right


def test_the_bound_is_that_of_the_training_of_the_estimators(known: list[Any]) -> None:
    numbers = [spec(estimator=replace(TINY, bound=bound))(subject()).numbers for bound in BOUNDS]
    for name in ("natural_gap", "natural_profile", "mi_clean_minus_adversarial"):
        assert abs(numbers[0][name] - numbers[1][name]) > 1e-4
    same_outputs = [found["mi_adversarial_minus_mixed"] for found in numbers]  # and so the same negatives
    assert same_outputs[0] == pytest.approx(same_outputs[1], abs=1e-5)


def test_estimators_are_trained_on_the_network_with_its_own_attacked_training_set_twice(
    known: list[Any],
) -> None:
    about = subject()
    spec(estimator=replace(TINY, batch_size=400))(about)
    assert [entry[0].training for entry in known] == ["contrastive", "max_only"]
    for made, model, x, x_adv, y, rng in known:
        assert made.batch_size == 30 and model is about.model  # no more than there are images
        assert torch.equal(x, TRAIN.x) and torch.equal(y, TRAIN.y)
        assert torch.equal(x_adv, about.crafted[f"train {ATTACK!r}"])
        expected = generator(0, f"property estimators {made.training}")
        assert torch.equal(rng.get_state(), expected.get_state())


@pytest.mark.parametrize(("fewest", "said"), [(16, True), (17, False)])
def test_below_the_fewest_fooled_images_nothing_is_said_of_them(
    fewest: int, said: bool, known: list[Any]
) -> None:
    numbers = spec(fewest=fewest)(subject()).numbers
    assert set(numbers) == READ | DERIVED | ORDER
    assert all(math.isfinite(numbers[name]) == said for name in READ | DERIVED)
    assert all(math.isfinite(numbers[name]) for name in ORDER)


@pytest.mark.parametrize("defense", [NAMID, WMIM])
@pytest.mark.parametrize("bound", BOUNDS)
def test_the_estimators_of_the_defense_are_read_beside_with_its_bound(
    defense: Callable[..., Any], bound: Any, known: list[Any]
) -> None:
    parts = Learnt(estimators(7), *bank()).tensors()
    found = spec()(subject(defense=defense(estimator=TINY, bound=bound), parts=parts)).numbers
    assert set(found) == READ | DERIVED | ORDER | FROZEN
    expected = ByHand(estimators(7), ATTACK, bound).numbers
    assert {name: found[name] for name in FROZEN} == pytest.approx(
        {f"{name}_frozen": value for name, value in expected.items() if name != "logp_auc"}, abs=1e-4
    )
    assert abs(found["natural_gap_frozen"] - found["natural_gap"]) > 1e-3
    without = spec()(subject()).numbers
    assert {name: found[name] for name in without} == dict(without)


# Where the attack does nothing


def test_an_attack_that_does_nothing_fools_nobody_and_nothing_is_said() -> None:
    still = PGD(eps=0, steps=1)
    about = subject()
    numbers = spec(attack=still, unseen=still)(about).numbers
    assert torch.equal(about.adversarial(still), about.x)
    assert all(math.isnan(numbers[name]) for name in READ | DERIVED)
    assert numbers["mi_clean_minus_adversarial"] == numbers["mi_adversarial_minus_mixed"] == 0


def test_of_images_that_did_not_move_profiles_and_gaps_are_zero_and_nothing_is_separated(
    monkeypatch: pytest.MonkeyPatch, known: list[Any]
) -> None:
    everyone = torch.ones(24, dtype=torch.bool)
    monkeypatch.setattr(mutual_information, "select", lambda *args: Selection(*[everyone] * 4))
    still = PGD(eps=0, steps=1)
    numbers = spec(attack=still, unseen=still)(subject()).numbers
    for side in ("natural", "adversarial"):
        assert numbers[f"{side}_gap"] == 0 and numbers[f"{side}_profile"] == pytest.approx(0, abs=1e-6)
        assert numbers[f"{side}_auc"] == numbers[f"shuffled_{side}_auc"] == 0.5
        assert numbers[f"{side}_auc_gain"] == numbers[f"contrastive_{side}_gain"] == 0


# With everything real


def test_a_measurement_is_the_same_again_and_leaves_network_and_images_alone() -> None:
    with global_seed(torch.Generator().manual_seed(0)):
        model = small_network()
        optimizer = torch.optim.Adam(model.parameters(), 0.05)
        for _ in range(30):
            optimizer.zero_grad()
            F.cross_entropy(model(TRAIN.x / 255), TRAIN.y).backward()
            optimizer.step()
    found = []
    for mode, seed, elsewhere in ((True, 0, 1), (False, 0, 2), (False, 1, 1)):
        about = subject(copy.deepcopy(model).train(mode), seed=seed)
        before, state = snapshot(about.model), torch.manual_seed(elsewhere).get_state()
        found.append(spec(fewest=2)(about).numbers)
        assert same(snapshot(about.model), before) and torch.equal(torch.get_rng_state(), state)
        assert torch.equal(TEST.x, clear(tiny_images(24, seed=1)).x)
    assert all(map(math.isfinite, found[0].values())) and found[0] == found[1] != found[2]
    assert all(0 <= value <= 1 for name, value in found[0].items() if name.endswith("_auc"))
    assert all(0 <= value <= 2 for name, value in found[0].items() if name.endswith("_profile"))
