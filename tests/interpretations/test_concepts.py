"""Concepts whose effect on a logit is planted, and random ones that have none."""

from dataclasses import replace
from typing import Any

import numpy as np
import planted
import pytest
import torch
from interpretation_cases import case as small_case
from oracle_models import small_network, tiny_images
from torch import Tensor

from deconfound.interpretations.case import Case, Place, Readings, Truth
from deconfound.interpretations.concepts import Concepts
from deconfound.interpretations.consistency import Consistency, Reader
from deconfound.interpretations.directions import Sets, answer, welch


def share_along(slopes: torch.Tensor, direction: torch.Tensor) -> torch.Tensor:
    """Share of images whose logit grows along a direction; slopes (n, D)."""
    return (slopes @ direction > 0).double().mean()


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def sets_of(concept: Tensor, *randoms: Tensor) -> Sets:
    return Sets(concept, torch.cat(randoms), list(randoms))


def share(found: Readings, concept: str, condition: str) -> Any:
    return found.each[Place(concept, condition, "share")]


def test_a_planted_concept_raises_every_logit_and_its_opposite_none() -> None:
    direction = torch.zeros(10, dtype=torch.float64)
    direction[3] = 1
    sets = sets_of(normal(30, 10) + 8 * direction, *(normal(30, 10, seed=seed) for seed in range(1, 21)))
    slopes = direction + 0.01 * normal(50, 10, seed=99)
    said = answer(slopes, sets)
    assert said.images.tolist() == [1.0] * 50 and said.shares.tolist() == [1.0] * 20
    assert said.p < 1e-6
    assert set(answer(-slopes, sets).images.tolist()) == {0.0} and answer(-slopes, sets).p < 1e-6


def test_shares_are_those_of_single_directions() -> None:
    sets = sets_of(normal(7, 4), *(normal(7, 4, seed=seed) for seed in range(1, 6)))
    slopes = normal(15, 4, seed=77)
    said = answer(slopes, sets)
    for number, other in enumerate(sets.randoms):
        expected = share_along(slopes, sets.concept.mean(0) - other.mean(0))
        assert said.shares[number] == expected
    assert said.images.mean() == pytest.approx(said.shares.mean())
    pairs = [share_along(slopes, sets.randoms[2].mean(0) - o.mean(0)) for o in sets.randoms]
    assert said.null[2].item() == pytest.approx(sum(float(pair) for pair in pairs) / 4)


def test_a_random_concept_is_rarely_called_significant() -> None:
    called, within = 0, 0
    for run in range(60):
        sets = [normal(25, 8, seed=1000 * run + number) for number in range(21)]
        said = answer(normal(40, 8, seed=500_000 + run) + 0.3, sets_of(*sets))
        called += said.p < 0.05
        low, high = said.null.quantile(0.025), said.null.quantile(0.975)
        within += bool(low <= said.shares.mean() <= high)
    assert called <= 6 and within >= 54


def test_the_test_is_that_of_scipy() -> None:
    from scipy.stats import ttest_ind

    a, b = normal(12) + 0.4, 2 * normal(31, seed=1)
    assert welch(a, b) == pytest.approx(ttest_ind(a.numpy(), b.numpy(), equal_var=False).pvalue)
    same = torch.ones(3, dtype=torch.float64)
    assert welch(same, same) == 1 and welch(same, 2 * same) == 0


def test_derivatives_that_vanish_say_nothing() -> None:
    sets = sets_of(normal(7, 4), *(normal(7, 4, seed=seed) for seed in range(1, 6)))
    assert answer(torch.zeros(3, 4, dtype=torch.float64), sets).p == 1


def test_a_trigger_raises_the_logit_of_its_target_where_the_network_listens_to_it() -> None:
    found = Concepts(size=8)(planted.case(count=60))
    assert np.nanmean(share(found, "trigger", "victims")) == 1
    assert found.once[Place("trigger", "victims", "p")] < 1e-6
    assert np.isnan(share(found, "trigger", "victims")[1::2]).all()
    assert np.isnan(share(found, "trigger", "target")[::2]).all()
    assert np.nanmean(share(found, "trigger", "target")) == 1
    deaf = Concepts(size=8)(planted.case(count=60, model=planted.network(trigger=-10.0)))
    assert np.nanmean(share(deaf, "trigger", "victims")) == 0


def test_a_class_whose_style_the_network_reads_answers_to_that_style_alone() -> None:
    # Brightness is the style here: bright ground goes with class 1.
    whole = planted.case(count=60)
    style = torch.arange(60) // 2 % 2
    moved = planted.images(60).x.clone()
    moved[:] = 20 + (80 * style).to(torch.uint8)[:, None, None, None]
    known = replace(whole, truth=Truth(moved=moved, moved_style=style))
    found = Concepts(size=10)(known)
    own, following = share(found, "style", "own_class"), share(found, "style", "next_class")
    # The logit of class 1 grows with brightness; that of class 0 does not depend on anything.
    assert (own[1::2] == 1).all() and (own[::2] == 0).all() and (following[1::2] == 0).all()
    assert found.pictures["style_shares"].shape == (2, 20)
    assert found.once[Place("style", "own_class", "significant")] == 0.5


def test_perturbations_of_a_class_lower_its_logit() -> None:
    attack = {"kind": "pgd", "eps": 0.2, "steps": 3}
    found = Concepts(size=10, attack=attack)(planted.case(count=60))
    assert (share(found, "adversarial", "own_class")[1::2] == 0).all()  # bright ones become darker


def test_edits_are_what_they_are_called() -> None:
    x = torch.full((2, 3, 8, 8), 0.5)
    found = Concepts(strength=0.2, period=4).edits(x, rng=torch.Generator().manual_seed(0))
    stripes, tint, noise = found["stripes"], found["tint"], found["noise"]
    assert stripes[0, 0, :, 0].tolist() == pytest.approx([0.7, 0.7, 0.3, 0.3] * 2)
    assert (stripes[..., :1] == stripes).all()  # horizontal
    assert tint[0, :, 0, 0].tolist() == pytest.approx([0.7, 0.3, 0.3])
    smooth = torch.nn.functional.avg_pool2d(noise - 0.5, 4)
    assert smooth.std() < 0.15 * (noise - 0.5).std()  # white noise: a quarter
    assert found["noise"].min() >= 0 and found["noise"].max() <= 1
    grey = Concepts().edits(torch.full((2, 1, 4, 4), 0.5), rng=torch.Generator().manual_seed(0))
    assert grey.keys() == {"stripes", "noise"}


def test_a_set_and_the_random_ones_share_no_image_and_have_one_size() -> None:
    plain = torch.arange(90.0)[:, None]
    sets = Concepts(size=25)._paired(plain + 1000, plain, rng=torch.Generator().manual_seed(0))
    assert sets is not None and len(sets.concept) == 25 and len(sets.randoms) == 20
    shown = set((sets.concept - 1000).flatten().tolist())
    assert all(len(one) == 25 and not shown & set(one.flatten().tolist()) for one in sets.randoms)
    assert any(not torch.equal(sets.randoms[0], one) for one in sets.randoms[1:])
    small = Concepts(size=25)._paired(plain[:9] + 1000, plain[:9], rng=torch.Generator().manual_seed(0))
    assert small is not None and len(small.concept) == len(small.randoms[0]) == 3
    assert Concepts()._paired(plain[:5], plain[:5], rng=torch.Generator().manual_seed(0)) is None


def test_consistency_is_the_distance_from_the_signs_that_are_typical() -> None:
    whole = small_case(fit=False)
    reader = Reader(whole, "body.6")
    assert whole.val is not None
    x = whole.val.x.float() / 255
    directions = normal(4, 6)
    check = Consistency(reader, x, directions, 3)
    signs, labels = check._signs(x)
    score = check.score(x)
    for row in range(len(x)):
        typical = signs[labels == labels[row]].mean(0)
        assert score[row].item() == pytest.approx((signs[row] - typical).abs().mean().item() / 2)
    assert score.min() >= 0 and score.max() <= 1


def grey(whole: Case) -> Case:
    model, test = small_network().eval(), tiny_images(30, seed=1)
    return replace(
        whole,
        model=model,
        test=test,
        train=tiny_images(),
        val=tiny_images(30, seed=2),
        classes=3,
        truth=Truth(),
    )


def test_what_cannot_be_asked_is_noted() -> None:
    found = Concepts(size=5)(grey(planted.case()))
    for part in ("last_conv is not read", "no colours", "no trigger", "another style", "input of the head"):
        assert any(part in note for note in found.notes), part
    rows = share(found, "stripes", "own_class")
    for label in range(3):  # one derivative per class
        assert len(set(rows[label::3].tolist())) == 1
    assert found.pictures["concepts"].tolist() == ["stripes", "noise"]
    assert found.pictures["class_shares"].shape == (2, 3)


def test_several_targets_leave_out_the_question_about_the_one() -> None:
    whole = planted.case(count=60)
    found = Concepts(size=8)(replace(whole, truth=replace(whole.truth, hoped=1 - whole.test.y)))
    assert Place("trigger", "victims", "share") in found.each
    assert Place("trigger", "target", "share") not in found.each
    assert any("more than one target" in note for note in found.notes)
