"""The panel of robustness and interpretability on linear networks, where alignment is the distance to the boundary."""

from typing import Any

import numpy as np
import pytest
import torch
from oracle_models import small_network, tiny_images
from torch import Tensor
from torch.nn import functional as F
from truth_cases import case_of, images, linear, once_more, read

from deconfound.errors import ConfigError
from deconfound.interpretations.case import Case
from deconfound.interpretations.gradients import RobustInterpretability, linearised, slopes, variation
from deconfound.models.classifier import Classifier
from deconfound.types import Images

NAN = np.nan
SMALL: dict[str, Any] = {"masking": {"eps": 0.02, "steps": 3}, "painting_steps": 5, "radius": 0.5}


def two_sided(count: int = 12) -> tuple[Case, Tensor]:
    """Logits (-m, m) of a linear m without bias, images away from the edge of the box, and their distances to m = 0."""
    rng = torch.Generator().manual_seed(0)
    w = torch.randn(16, generator=rng) / 4
    x = torch.randint(110, 146, (count, 1, 4, 4), generator=rng, dtype=torch.uint8)
    model = linear(torch.stack([-w, w]))
    m = (x.double() / 255).flatten(1) @ w.double()
    return case_of(model, Images(x, (m > 0).long())), m.abs() / w.double().norm()


def test_in_a_linear_network_alignment_is_the_distance_to_the_boundary() -> None:
    """I33, of alpha, of the linearised robustness, and of the closest image that DeepFool finds."""
    case, distance = two_sided()
    attack = {"kind": "deepfool", "eps": 1, "overshoot": 0}
    found = RobustInterpretability(attack=attack, **SMALL)(case)
    np.testing.assert_allclose(read(found, "gradient.clean.alpha"), distance, rtol=0, atol=1e-6)
    np.testing.assert_allclose(read(found, "boundary.linearised.l2"), distance, rtol=0, atol=1e-6)
    np.testing.assert_allclose(read(found, "boundary.attacked.l2"), distance, rtol=1e-2, atol=1e-3)
    assert read(found, "boundary.linearised.rank_correlation") == pytest.approx(1.0)
    assert read(found, "boundary.alpha.rank_correlation") == pytest.approx(1.0)
    w = case.model.head.weight[1].detach()
    np.testing.assert_allclose(read(found, "gradient.clean.norm"), float(w.norm()), rtol=1e-5)
    cosine = read(found, "gradient.clean.cosine")
    expected = distance / (case.test.x.double() / 255).flatten(1).norm(dim=1)
    np.testing.assert_allclose(
        cosine, expected, rtol=1e-5
    )  # positive: the label's logit is what speaks for x


@pytest.mark.parametrize(("second", "near"), [(1, 2), (2, 1)])
def test_the_linearised_robustness_asks_every_class(second: int, near: int) -> None:
    """One class is the runner-up by logit, but another is nearer: its boundary is steep."""
    weight = torch.zeros(3, 16)
    weight[0, 0], weight[second, 0], weight[near, 1] = 1.0, 0.9, 10.0
    x = torch.zeros(1, 1, 4, 4)
    x[0, 0, 0, 0], x[0, 0, 0, 1] = 1.0, 0.05
    model = linear(weight)
    logits = model(x).detach()
    assert logits[0, [0, second, near]].tolist() == pytest.approx([1.0, 0.9, 0.5])
    found = linearised(model, x, logits, torch.tensor([0]))
    assert float(found) == pytest.approx(0.5 / 101**0.5, rel=1e-5)
    assert linearised(linear(torch.zeros(3, 16)), x, torch.zeros(1, 3), torch.tensor([0])).isnan().all()


def test_weights_of_probability_minus_label_give_the_gradient_of_the_cross_entropy() -> None:
    model, data = small_network().eval(), tiny_images(8)
    x = (data.x / 255).requires_grad_(True)
    (wanted,) = torch.autograd.grad(F.cross_entropy(model(x), data.y, reduction="sum"), x)
    logits = model(x).detach()
    found = slopes(model, x, logits.softmax(1) - F.one_hot(data.y, 3))
    torch.testing.assert_close(found, wanted)


def test_the_floor_is_the_gradient_with_another_image() -> None:
    test = images([{(0, 0): 255}, {(0, 1): 255}], [0, 1], ground=0)
    weight = torch.zeros(2, 16)
    weight[0, 0], weight[1, 1] = 3, 4
    found = RobustInterpretability(**SMALL)(case_of(linear(weight), test))
    np.testing.assert_allclose(read(found, "gradient.clean.alpha"), 1.0)
    np.testing.assert_array_equal(read(found, "gradient.other_image.alpha"), 0.0)
    alone = RobustInterpretability(**SMALL)(case_of(linear(weight), Images(test.x[:1], test.y[:1])))
    assert np.isnan(read(alone, "gradient.other_image.alpha")).all()


def test_the_mean_colour_is_taken_off_in_the_centred_alignment() -> None:
    case, _ = two_sided()
    case.model.mean.fill_(0.5)
    with torch.no_grad():
        y = case.model(case.x).argmax(1)
    case = case_of(case.model, Images(case.test.x, y))
    found = RobustInterpretability(**SMALL)(case)
    w = case.model.head.weight[1].detach().double()
    expected = ((case.x.double() - 0.5).flatten(1) @ w).abs() / w.norm()
    np.testing.assert_allclose(read(found, "gradient.clean.alpha_centred"), expected, rtol=1e-4)


def test_variation_is_free_of_scale_and_counts_neighbours() -> None:
    column = torch.zeros(1, 1, 3, 3)
    column[..., 1] = 2.0  # six steps of 2 across, over a sum of 6
    assert float(variation(column)) == pytest.approx(2.0) == float(variation(-50 * column))
    assert float(variation(torch.ones(1, 2, 3, 3))) == 0.0


def test_images_that_are_wrong_have_no_number_and_no_part_in_the_agreement() -> None:
    case, distance = two_sided()
    y = case.test.y.clone()
    y[3] = 1 - y[3]
    found = once_more(RobustInterpretability(**SMALL), case_of(case.model, Images(case.test.x, y)))
    for place in ("gradient.clean.alpha", "boundary.linearised.l2", "boundary.attacked.l2"):
        assert np.flatnonzero(np.isnan(read(found, place))).tolist() == [3]
    assert read(found, "boundary.linearised.rank_correlation") > 0.95
    assert read(found, "masking.margin.right")[3] == 0.0


def test_a_network_that_is_never_right_is_a_sentence() -> None:
    case, _ = two_sided()
    found = once_more(
        RobustInterpretability(**SMALL), case_of(case.model, Images(case.test.x, 1 - case.test.y))
    )
    assert "right on no test image" in found.notes[0]
    assert np.isnan(read(found, "gradient.clean.alpha")).all() and not found.pictures


def test_a_saturated_network_raises_the_alarm() -> None:
    """Logits so large that the cross-entropy rounds to a constant: no gradient, though the boundary is near."""
    case, distance = two_sided()
    with torch.no_grad():
        case.model.head.weight.mul_(1e5)
    masking = {"eps": float(distance.max()) * 2, "norm": "l2", "steps": 10, "random_start": False}
    found = RobustInterpretability(**(SMALL | {"masking": masking}))(case)
    assert read(found, "masking.clean.zero_gradient").mean() == 1.0
    assert read(found, "masking.cross_entropy.right").mean() == 1.0
    assert read(found, "masking.margin.right").mean() == 0.0
    assert read(found, "masking.alarm.gap").mean() == 1.0


def test_a_painting_is_taken_for_its_target_and_stays_within_its_radius() -> None:
    case, _ = two_sided()
    method = RobustInterpretability(**(SMALL | {"radius": 2.0, "painted": 3}))
    found = method(case)
    taken = read(found, "painted.model.target")
    assert taken[:3].tolist() == [1.0] * 3 and np.isnan(taken[3:]).all()
    assert (found.pictures["painted_targets"] != found.pictures["labels"]).all()
    moved = (found.pictures["paintings"].astype(float) - found.pictures["starts"]).reshape(3, -1) / 255
    assert (np.linalg.norm(moved, axis=1) < 2.0 + 16**0.5 / 255).all()


def test_an_independent_network_judges_only_where_it_is_asked() -> None:
    case, _ = two_sided()
    asked: list[str] = []

    def train(data: Images, purpose: str) -> Classifier:
        asked.append(purpose)
        return linear(case.model.head.weight.detach().flip(0))  # says the opposite of everything

    case = case_of(case.model, case.test, retrained=train)
    assert not [place for place in RobustInterpretability(**SMALL)(case).each if place.condition == "judge"]
    assert not asked
    found = RobustInterpretability(**(SMALL | {"radius": 2.0}), judged=True)(case)
    assert asked == ["judge of paintings"] and read(found, "painted.judge.accuracy") == 0.0
    assert np.nanmean(read(found, "painted.judge.target")) == 0.0
    nobody = once_more(RobustInterpretability(**SMALL, judged=True), case_of(case.model, case.test))
    assert any("no independent network" in note for note in nobody.notes)


@pytest.mark.parametrize("block", [{"kind": "pgd", "eps": 1}, {"kind": "deepfool", "eps": 1, "norm": "linf"}])
def test_only_an_attack_of_minimal_l2_norm_measures_a_distance(block: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="minimal l2 norm"):
        RobustInterpretability(attack=block)
    with pytest.raises(ConfigError):
        RobustInterpretability(attack={"kind": "ddn"})


def test_images_without_an_adversarial_one_are_counted_in_a_sentence() -> None:
    case, _ = two_sided(4)
    with torch.no_grad():
        case.model.head.weight.zero_()
        case.model.head.bias.copy_(torch.tensor([5.0, 0.0]))
    found = RobustInterpretability(**SMALL)(case_of(case.model, Images(case.test.x, torch.zeros(4).long())))
    assert any("No adversarial image was found for 4 of 4" in note for note in found.notes)
    assert np.isnan(read(found, "boundary.attacked.l2")).all()
    assert np.isnan(read(found, "gradient.clean.alpha")).all()  # a gradient of zero has no direction
