"""What a perturbation does to linear networks, of which every contribution is known, and to one that is not linear."""

from pathlib import Path

import numpy as np
import pytest
import torch
from oracle_models import small_network, tiny_images
from torch.nn import functional as F
from truth_cases import case_of, images, linear, looking_at, masks, once_more, read

from deconfound.data.digits import Digits
from deconfound.interpretations.case import Truth
from deconfound.interpretations.patterns import Patterns, along, high_frequency
from deconfound.models.small_cnn import SmallCNN
from deconfound.rng import generator, global_seed

FGSM = {"kind": "fgsm", "eps": 0.1}


def test_contributions_of_a_linear_network_are_weight_times_perturbation() -> None:
    rng = torch.Generator().manual_seed(0)
    weight, x, z = torch.randn(3, 16, generator=rng), *torch.rand(2, 5, 1, 4, 4, generator=rng)
    target = torch.tensor([0, 1, 2, 0, 1])
    found = along(linear(weight), x, z, F.one_hot(target, 3).float(), steps=1)
    torch.testing.assert_close(found, (weight[target].view(5, 1, 4, 4) * (z - x)).double())
    assert along(linear(weight), x[:0], z[:0], torch.zeros(0, 3), steps=1).shape == (0, 1, 4, 4)


@pytest.mark.parametrize(("steps", "tolerance"), [(50, 0.02), (200, 0.005)])
def test_contributions_add_up_to_the_change_of_a_logit(steps: int, tolerance: float) -> None:
    """I34 with the tolerances of I1; a network on digits, far from linear."""
    with global_seed(generator(0, "patterns")):
        model = SmallCNN(widths=(6, 8), hidden=12)((1, 8, 8), 10)
        model.train()
        for _ in range(10):
            model(torch.rand(32, 1, 8, 8))
    model.eval()
    x = Digits(test=100).fetch(Path()).test.images.x[:20].float() / 255
    z = (x + 0.3 * torch.rand(x.shape, generator=generator(0, "noise"))).clamp(0, 1)
    target = torch.arange(20) % 10
    change = (model(z) - model(x)).detach().double().gather(1, target[:, None]).squeeze(1)
    found = along(model, x, z, F.one_hot(target, 10).float(), steps=steps).sum((1, 2, 3))
    assert float(((found - change) / change).abs().median()) < tolerance


def test_suppression_and_promotion_are_told_apart() -> None:
    """Class 0 reads one pixel and class 1 another: FGSM darkens the first and lightens the second."""
    test = images([{(0, 0): 153, (0, 1): 102}] * 2, [0, 0], ground=102)
    model = looking_at([(0, 0)], [(0, 1)], size=10.0)
    with torch.no_grad():
        model.head.weight[1, 1] = 5
    case = case_of(model, test, Truth(mask=masks(*[[(0, 0), (3, 3)]] * 2)))
    found = once_more(Patterns(attack={"kind": "fgsm", "eps": 0.3}, baseline="zero"), case)

    def value(metric: str) -> float:
        return float(read(found, f"perturbation.success.{metric}")[0])

    # logits 6 and 2 become 3 and 3.5: the one pixel loses 0.3, the other gains as much
    assert value("suppression") == pytest.approx(3.0, rel=1e-5)
    assert value("promotion") == pytest.approx(1.5, rel=1e-5)
    assert value("suppression_share") == pytest.approx(2 / 3, rel=1e-5)
    assert value("promotion_to_label") == pytest.approx(
        1.5 / 2, rel=1e-5
    )  # 6 stands 2 above the mean of 6 and 2
    assert value("suppressing_pixels") == 0.5
    assert value("completeness_error") < 1e-5
    assert value("object_share") == pytest.approx(2 / 3, rel=1e-5)
    assert value("object_ratio") == pytest.approx(2 / 3 * 8, rel=1e-5)
    assert read(found, "natural.clean.object_share").tolist() == pytest.approx([1.0, 1.0])
    np.testing.assert_allclose(found.pictures["suppression"][0][0, :2], [3.0, 0.0], atol=1e-5)
    np.testing.assert_allclose(found.pictures["promotion"][0][0, :2], [0.0, 1.5], atol=1e-5)
    assert found.pictures["labels"].tolist() == [0, 0] and found.pictures["wrong"].tolist() == [1, 1]


def test_a_step_along_the_gradient_has_a_cosine_of_one_and_noise_has_less() -> None:
    rng = torch.Generator().manual_seed(0)
    model = linear(torch.randn(2, 16, generator=rng))
    test = images([{(row, 1): 120 + row} for row in range(4)] * 5, [0] * 20, ground=128)
    y = model(test.x / 255).argmax(1)
    case = case_of(model, test._replace(y=y))
    attack = {"kind": "fgsm", "eps": 0.05, "norm": "l2"}
    found = Patterns(attack=attack)(case)
    cosine = np.nanmean(read(found, "perturbation.failure.gradient_cosine"))
    assert cosine == pytest.approx(1.0, abs=1e-5)
    assert abs(np.nanmean(read(found, "perturbation.noise.gradient_cosine"))) < 0.5


def test_the_gradient_of_a_network_that_looks_at_its_evidence_has_no_energy_outside() -> None:
    test = images([{(0, 0): 200}, {(2, 2): 200}], [0, 1], ground=10)
    found = Patterns(attack=FGSM, region=0.2, baseline="zero")(case_of(looking_at([(0, 0)], [(2, 2)]), test))
    np.testing.assert_allclose(
        read(found, "gradient.clean.energy_outside"), 0.5
    )  # the rival's pixel is no evidence
    model = looking_at([(0, 0)], [])
    found = Patterns(attack=FGSM, region=0.2, baseline="zero")(case_of(model, test._replace(y=test.y * 0)))
    np.testing.assert_array_equal(read(found, "gradient.clean.energy_outside"), 0.0)
    assert read(found, "gradient.by_chance.energy_outside") == 1 - 3 / 16


def test_frequencies_are_shares_of_the_highest_one() -> None:
    place = torch.arange(8.0)
    waves = [torch.cos(2 * torch.pi * k * place / 8).expand(1, 8, 8) for k in (0, 1, 2, 3, 4)]
    rough = high_frequency(torch.stack(waves), 0.5)
    torch.testing.assert_close(rough, torch.tensor([0.0, 0.0, 0.0, 1.0, 1.0], dtype=torch.float64))
    assert high_frequency(torch.zeros(1, 1, 8, 8), 0.5).isnan().all()
    noise = torch.randn(400, 2, 8, 8, generator=torch.Generator().manual_seed(0))
    found = Patterns(attack=FGSM, high=0.5)(case_of(small_network(), tiny_images(6), classes=3))
    by_chance = read(found, "gradient.by_chance.high_frequency")
    assert by_chance == pytest.approx(float(high_frequency(noise[..., :4, :4], 0.5).mean()), abs=0.02)


@pytest.mark.parametrize("eps", [0, 1])
def test_an_attack_that_turns_nobody_or_everybody_is_read_all_the_same(eps: float) -> None:
    test = images([{(0, 0): 153}, {(0, 1): 153}], [0, 1], ground=102)
    case = case_of(looking_at([(0, 0)], [(0, 1)]), test)
    found = once_more(Patterns(attack={"kind": "fgsm", "eps": eps}), case)
    none, some = ("success", "failure") if eps == 0 else ("failure", "success")
    assert np.isnan(read(found, f"perturbation.{none}.suppression")).all()
    assert np.isfinite(read(found, f"perturbation.{some}.suppression")).all()
    assert any("turned no image" in note for note in found.notes) == (eps == 0)
    assert not any(place.metric.startswith("object") for place in found.each)


def test_the_wrong_class_is_the_likeliest_one_of_the_perturbed_image() -> None:
    """Before, class 1 comes second; the steep class 2 overtakes it under the attack."""
    model = looking_at([(0, 0)], [(0, 1)], [(0, 2)])
    with torch.no_grad():
        model.head.weight[2, 2] = 20
    test = images([{(0, 0): 204, (0, 1): 153, (0, 2): 25}], [0], ground=0)
    case = case_of(model, test, classes=3)
    found = Patterns(attack={"kind": "fgsm", "eps": 0.4})(case)
    assert found.pictures["wrong"].tolist() == [2]
