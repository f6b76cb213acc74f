"""What CausalAdv says of a network, on networks and features whose answer is known."""

from typing import Any

import numpy as np
import pytest
import torch
from oracle_models import CLASSES, SIDE, same, small_network, snapshot, tiny_images
from torch import Tensor, nn
from torch.nn import functional as F

from deconfound.attacks.pgd import PGD
from deconfound.defenses.style import content_directions, unit
from deconfound.models.classifier import Classifier
from deconfound.properties.alignment import Alignment, mean_correlation, split_quality
from deconfound.properties.subject import Subject
from deconfound.rng import generator, global_seed
from deconfound.types import Images

D = SIDE * SIDE
ATTACK = PGD(eps=0.15, steps=4)
STILL = Alignment(attack=PGD(eps=0.0), epochs=2, batch_size=8)


def fresh(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def subject(model: Classifier | None = None, **changes: Any) -> Subject:
    known: dict[str, Any] = {"train": tiny_images(60), "test": tiny_images(21, seed=3), "parts": {}} | changes
    model = small_network().eval() if model is None else model
    return Subject(
        model=model, defense=None, classes=CLASSES, rng=lambda purpose: generator(0, purpose), **known
    )


def transparent(weight: Tensor) -> Classifier:
    """A network whose features are the pixels."""
    model = Classifier(nn.Flatten(), nn.Linear(D, len(weight), bias=False), channels=1)
    model.head.weight.data = weight.clone()
    return model.eval()


# Columns of +-1 that are orthogonal to each other and to the constant: covariances are exact
DESIGN = torch.tensor(
    [[1.0, 1, 1, 1, -1, -1, -1, -1], [1, 1, -1, -1, 1, 1, -1, -1], [1, -1, 1, -1, 1, -1, 1, -1]]
).T


# Nothing moves


def test_where_the_attack_does_not_move_an_image_nothing_moves() -> None:
    found = STILL(subject())
    assert not found.values["style_kl"].any() and not found.values["output_kl"].any()
    assert found.values["style_kl"].shape == found.values["output_kl"].shape == (21,)
    assert found.numbers["style_gap"] == found.numbers["style_shift"] == 0
    assert found.numbers["style_accuracy_clean"] == found.numbers["style_accuracy_adversarial"]


def test_where_it_does_everything_is_as_recomputed_from_the_attacked_images() -> None:
    measure, one = Alignment(attack=ATTACK, epochs=30, batch_size=8), subject()
    found, model = measure(one), one.model
    x, y, x_adv = one.x, one.y, one.adversarial(ATTACK)
    probe = measure.probe(one, unit(one.features(one.train.x)))
    with torch.no_grad():
        p, q = model(x).softmax(1), model(x_adv).softmax(1)
        assert np.allclose(found.values["output_kl"], (p * (p / q).log()).sum(1), atol=1e-5)
        r, moved = unit(model.features(x)), unit(model.features(x_adv))
        p, q = probe(r).softmax(1), probe(moved).softmax(1)
        assert np.allclose(found.values["style_kl"], (p * (p / q).log()).sum(1), atol=1e-4)
        right = [float((said.argmax(1) == y).double().mean()) for said in (p, q)]
    assert found.numbers["style_accuracy_clean"] == pytest.approx(right[0])
    assert found.numbers["style_accuracy_adversarial"] == pytest.approx(right[1])
    assert found.numbers["style_gap"] == pytest.approx(right[0] - right[1])
    style, content = (r - moved) @ probe.basis.T, (r - moved) @ model.head.weight.detach().T
    shift = style.norm(dim=1).mean() / content.norm(dim=1).mean()
    assert found.numbers["style_shift"] == pytest.approx(shift.item(), rel=1e-4) and shift > 0.01
    assert found.values["output_kl"].min() > 0 and found.values["style_kl"].max() > 1e-3
    assert right[0] > 0.5  # chance is a third: the probe has learnt something


# The probe


def test_the_probe_reads_exact_style_of_the_training_set_and_is_frozen() -> None:
    one = subject()
    train = unit(one.features(one.train.x))
    probe = STILL.probe(one, train)
    covariance = torch.cov(train.T, correction=0)
    weight = one.model.head.weight.detach()
    assert torch.allclose(probe.covariance, covariance, atol=1e-6)
    product = (weight @ covariance @ probe.basis.T).norm() / (
        (weight @ covariance).norm() * probe.basis.norm()
    )
    assert product < 1e-5
    assert not any(p.requires_grad for p in probe.predictor.parameters()) and not probe.predictor.training
    assert torch.equal(probe(train), probe.predictor(train @ probe.basis.T))


def test_the_probe_learns_labels_that_style_carries_and_not_those_that_it_does_not() -> None:
    """The label is which of three pixels is bright, of which content, another pixel, knows nothing; then labels by
    chance.
    """
    weight = torch.zeros(CLASSES, D)
    weight[:, 0] = torch.tensor([1.0, -1.0, 0.5])
    y = torch.arange(90) % CLASSES
    x = torch.randint(100, 110, (90, 1, SIDE, SIDE), generator=fresh(1), dtype=torch.uint8)
    x.view(90, D)[torch.arange(90), 5 + y] = 250
    x.view(90, D)[:, 0] = torch.randint(200, (90,), generator=fresh(3), dtype=torch.uint8)
    told = Images(x, y)
    guessed = Images(x, y[torch.randperm(90, generator=fresh(2))])
    measure = Alignment(attack=PGD(eps=0.0), epochs=30, batch_size=16)
    accuracies = [
        measure(subject(transparent(weight), train=part, test=Images(x, y))).numbers["style_accuracy_clean"]
        for part in (told, guessed)
    ]
    assert accuracies[0] > 0.9 > 0.6 > accuracies[1]


def test_a_last_batch_of_one_image_is_left_out_and_not_an_error() -> None:
    found = STILL(subject(train=tiny_images(17)))  # 8 + 8 + 1
    assert np.isfinite(list(found.numbers.values())).all()
    with pytest.raises(ValueError, match="batch_size"):
        Alignment(attack=ATTACK, batch_size=1)


# Style and content


def test_residual_and_correlation_of_a_known_covariance_are_those_of_the_formula() -> None:
    sizes = torch.tensor([1.0, 2.0, 0.5])
    features, covariance = DESIGN * sizes, (sizes**2).diag()
    weight = torch.tensor([[1.0, 0.0, 0.0], [3.0, 4.0, 0.0]])
    basis = F.normalize(torch.tensor([[0.0, 0.0, 1.0], [1.0, 1.0, 0.0], [1.0, 0.0, 2.0]]), dim=1)
    assert torch.allclose(torch.cov(features.T, correction=0), covariance)
    found = split_quality(weight, covariance, basis, features)

    cross = sum(float(sum(w[i] * sizes[i] ** 2 * b[i] for i in range(3))) ** 2 for w in weight for b in basis)
    corrected = sum(float(w[i] * sizes[i] ** 2) ** 2 for w in weight for i in range(3))
    assert found["basis_residual"] == pytest.approx((cross / (corrected * 3)) ** 0.5)
    s0, s1, s2 = (float(s) ** 2 for s in sizes)
    own, mixed = s0**0.5, (9 * s0 + 16 * s1) ** 0.5  # deviations of both contents
    styles = [(0, 0, 1), (1, 1, 0), (1, 0, 2)]
    correlations = []
    for b in styles:
        deviation = (b[0] ** 2 * s0 + b[1] ** 2 * s1 + b[2] ** 2 * s2) ** 0.5
        correlations += [
            abs(b[0] * s0) / (own * deviation),
            abs(3 * b[0] * s0 + 4 * b[1] * s1) / (mixed * deviation),
        ]
    assert found["content_style_correlation"] == pytest.approx(sum(correlations) / 6, abs=1e-6)
    share = 1 - (features[:, :2].square().sum(1) / features.square().sum(1)).mean()  # directions span e0, e1
    assert found["style_share"] == pytest.approx(share.item(), abs=1e-6)


def test_a_basis_off_the_class_directions_has_neither_residual_nor_correlation() -> None:
    sizes = torch.tensor([1.0, 2.0, 0.5])
    weight = torch.tensor([[1.0, 1.0, 0.0]])
    directions = content_directions(weight, (sizes**2).diag())
    basis = torch.eye(3) - directions @ directions.T
    found = split_quality(weight, (sizes**2).diag(), F.normalize(basis, dim=1), DESIGN * sizes)
    assert found["basis_residual"] < 1e-6 and found["content_style_correlation"] < 1e-6
    features = DESIGN * sizes  # the direction is M w = (1, 4, 0), not w
    inside = (features[:, 0] + 4 * features[:, 1]) ** 2 / 17
    share = 1 - (inside / features.square().sum(1)).mean()
    assert found["style_share"] == pytest.approx(share.item(), abs=1e-6)


def test_correlation_is_that_of_numpy_and_counts_constant_columns_as_zero() -> None:
    a, b = torch.randn(40, 3, generator=fresh()), torch.randn(40, 2, generator=fresh(1))
    both = np.corrcoef(torch.cat([a, b], 1).T.numpy())[:3, 3:]
    assert mean_correlation(a, b) == pytest.approx(np.abs(both).mean(), abs=1e-6)
    constant = torch.cat([b, torch.full((40, 2), 0.3)], 1)
    assert mean_correlation(a, constant) == pytest.approx(np.abs(both).mean() / 2, abs=1e-6)
    assert mean_correlation(5 * a + 7, -0.1 * b) == pytest.approx(mean_correlation(a, b))
    assert mean_correlation(a[:, :1], a[:, :1]) == pytest.approx(1)
    assert mean_correlation(torch.ones(9, 2), torch.ones(9, 3)) == 0


def test_the_style_share_of_a_network_whose_features_are_the_image_has_a_closed_form() -> None:
    """One bright pixel per training image: covariance I / D - 1 / D^2, of which differences of pixels are eigenvectors,
    so that the class directions are the weights themselves.
    """
    train = Images((torch.eye(D).view(D, 1, SIDE, SIDE) * 255).to(torch.uint8), torch.arange(D) % CLASSES)
    weight = torch.zeros(CLASSES, D)
    for k in range(CLASSES):
        weight[k, 2 * k], weight[k, 2 * k + 1] = 1.0 + k, -1.0 - k
    one = subject(transparent(weight), train=train)
    found = STILL(one)
    x = one.x.flatten(1)
    inside = sum((x[:, 2 * k] - x[:, 2 * k + 1]) ** 2 / 2 for k in range(CLASSES))
    expected = 1 - (inside / x.square().sum(1)).mean()  # type: ignore[operator, union-attr]
    assert found.numbers["style_share"] == pytest.approx(expected.item(), abs=1e-5)
    assert found.numbers["basis_residual"] < 1e-5
    assert 0.5 < expected < 0.999


def test_residual_and_correlation_read_the_basis_of_the_defense_and_the_rest_does_not() -> None:
    basis = torch.eye(8)
    mine, theirs = STILL(subject()).numbers, STILL(subject(parts={"basis": basis})).numbers
    read = {"basis_residual", "content_style_correlation"}
    assert {name for name in mine if mine[name] != theirs[name]} == read
    one = subject()
    r = unit(one.features(one.x))
    expected = mean_correlation(r @ one.model.head.weight.detach().T, r)
    assert theirs["content_style_correlation"] == pytest.approx(expected)
    assert mine["basis_residual"] < 1e-5 < theirs["basis_residual"]


# What a measure leaves alone


@pytest.mark.parametrize("training", [True, False])
def test_model_and_images_are_as_they_were(training: bool) -> None:
    model = small_network().train(training)
    model.body[2].eval()  # type: ignore[union-attr, index]
    one = subject(model)
    before = snapshot(model), one.train.x.clone(), one.test.x.clone()
    Alignment(attack=ATTACK, epochs=1)(one)
    assert same((snapshot(model), one.train.x, one.test.x), before)


def test_the_seed_of_the_run_alone_decides_and_a_network_in_training_mode_is_measured_as_it_predicts() -> (
    None
):
    measure = Alignment(attack=ATTACK, epochs=3, batch_size=8)
    runs = []
    for elsewhere, training in ((1, False), (2, True)):
        torch.manual_seed(elsewhere)
        found = measure(subject(small_network().train(training)))
        runs.append((dict(found.values), dict(found.numbers)))
    assert same(*runs)
    other = subject()
    object.__setattr__(other, "rng", lambda purpose: generator(1, purpose))
    assert measure(other).numbers["style_shift"] != runs[0][1]["style_shift"]


def test_a_measure_leaves_the_global_generator_alone() -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    STILL(subject())
    assert torch.equal(torch.get_rng_state(), before)


# The subject


def test_adversarial_images_are_crafted_once_and_for_every_measure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("deconfound.properties.subject.BATCH", 8)
    one, calls = subject(), []
    call = PGD.__call__

    def counted(self: PGD, model: nn.Module, x: Tensor, y: Tensor, *, rng: torch.Generator) -> Tensor:
        calls.append(len(x))
        return call(self, model, x, y, rng=rng)

    monkeypatch.setattr(PGD, "__call__", counted)
    first = one.adversarial(ATTACK)
    assert one.adversarial(PGD(eps=0.15, steps=4)) is first and calls == [8, 8, 5]
    assert (first - one.x).abs().max() <= 0.15 + 1e-6 and not torch.equal(first, one.x)
    assert one.adversarial(ATTACK, "train").shape == one.train.x.shape
    assert not torch.equal(one.adversarial(PGD(eps=0.1, steps=4)), first)
    assert torch.equal(subject().adversarial(ATTACK), first)


def test_features_and_logits_are_those_in_evaluation_mode_of_bytes_and_of_pixels() -> None:
    model = small_network().train()
    one = subject(model)
    for x in (one.test.x, one.x):
        features, logits = one.features(x), one.logits(x)
        assert model.training and not features.requires_grad and not logits.requires_grad
        model.eval()
        assert torch.equal(features, model.features(one.x)) and torch.equal(logits, model(one.x))
        model.train()


def test_nothing_is_measured_of_a_network_without_room_for_style_but_nothing_fails() -> None:
    """Three features and three classes: the basis is zero, and style says nothing."""
    with global_seed(fresh()):
        body = nn.Sequential(nn.Flatten(), nn.Linear(D, 3), nn.ReLU())
        model = Classifier(body, nn.Linear(3, CLASSES), channels=1).eval()
    found = Alignment(attack=ATTACK, epochs=1)(subject(model))
    assert not found.values["style_kl"].any() and found.numbers["style_shift"] == 0
    assert found.numbers["style_share"] == pytest.approx(0, abs=1e-5)
