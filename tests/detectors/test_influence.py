"""Influence against Captum, against autograd, and against training again without the example."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from suspects import auroc, evidence, linear, noise, pictures
from torch import Tensor, nn
from torch.nn import functional as F

from deconfound.detectors.evidence import ExampleDetector
from deconfound.detectors.influence import (
    Gradients,
    Influence,
    class_gradients,
    gradients_of,
    hessian,
    probabilities,
    self_tracin,
    tracin,
)
from deconfound.errors import UserError
from deconfound.rng import generator
from deconfound.types import Images

WIDTH, CLASSES, DAMPING = 4, 3, 1e-2
FORMS: list[Any] = ["tracin", "influence", "relative", "per_gradient"]


def labelled(count: int, seed: int) -> Images:
    """Pixels of which the brightest of the first three is the label, but for every fifth, which has another."""
    rows = noise(count, WIDTH, seed, centre=120, spread=50)
    y = rows[:, :CLASSES].argmax(1)
    y[::5] = (y[::5] + 1) % CLASSES
    return pictures(rows, y)


def head(h: Tensor, y: Tensor, keep: Tensor, weight: Tensor) -> Tensor:
    """Weights (K, D) that minimise the sum of the kept losses over n, plus damping / 2 |w|^2: Newton's method."""
    for _ in range(8):
        p = (h @ weight.T).softmax(1)
        slope = ((p - F.one_hot(y, CLASSES)) * keep[:, None]).T @ h / len(h) + DAMPING * weight
        part = int(keep.sum()) / len(h)
        curvature = part * hessian(p[keep], h[keep], damping=DAMPING / part)
        weight = weight - torch.linalg.solve(curvature, slope.flatten()).view_as(weight)
    return weight


def problem(count: int = 200) -> tuple[Images, Images, Tensor, Tensor]:
    """Training and held-out images, features (n, D) of the former, and their best head."""
    train, val = labelled(count, 0), labelled(60, 1)
    h = train.x.double().flatten(1) / 255
    start = torch.zeros(CLASSES, WIDTH, dtype=torch.float64)
    return train, val, h, head(h, train.y, torch.ones(count, dtype=torch.bool), start)


def losses(weight: Tensor, images: Images) -> Tensor:
    return F.cross_entropy(images.x.double().flatten(1) / 255 @ weight.T, images.y, reduction="none")


@pytest.mark.parametrize("toward", ["itself", "held_out"])
def test_influence_predicts_what_training_again_without_the_example_does(toward: Any) -> None:
    train, val, h, weight = problem()
    given = evidence(linear(weight.tolist(), [0.0] * CLASSES), train, val)
    predicted = Influence(form="influence", toward=toward, damping=DAMPING).influences(given) / len(h)
    changes = []
    for left_out in range(len(h)):
        keep = torch.arange(len(h)) != left_out
        again = head(h, train.y, keep, weight)
        judged, chosen = (
            (train, ~keep) if toward == "itself" else (val, val.y == train.y[left_out])
        )  # a rise of the loss
        changes.append((losses(again, judged) - losses(weight, judged))[chosen].mean())
    actual = torch.stack(changes)
    assert np.corrcoef(predicted.numpy(), actual.numpy())[0, 1] > 0.95
    assert predicted.sum().item() == pytest.approx(actual.sum().item(), rel=0.2)


def test_the_hessian_is_that_of_autograd() -> None:
    _, _, h, weight = problem(40)
    y = torch.arange(40) % CLASSES

    def loss(flat: Tensor) -> Tensor:
        return F.cross_entropy(h @ flat.view(CLASSES, WIDTH).T, y)

    expected: Any = torch.autograd.functional.hessian(loss, weight.flatten())
    found = hessian((h @ weight.T).softmax(1), h, damping=0.5)
    assert torch.allclose(found, expected + 0.5 * torch.eye(CLASSES * WIDTH), atol=1e-10)


def test_gradients_are_those_of_autograd() -> None:
    model = linear([[1.0, -1.0], [0.5, 2.0], [0.0, 0.3]], [0.1, -0.2, 0.0])
    images = pictures(noise(7, 2), [0, 1, 2, 0, 1, 2, 0])
    found = gradients_of(model, images)
    for row in range(7):
        loss = F.cross_entropy(model(images.x[row : row + 1] / 255.0), images.y[row : row + 1])
        (expected,) = torch.autograd.grad(loss, model.head.weight)
        assert torch.allclose(found.flat()[row], expected.double().flatten(), atol=1e-6)
    means = class_gradients(found, images.y, 4)
    assert torch.allclose(means[1], found.flat()[[1, 4]].mean(0)) and not means[3].any()
    bare = replace_bias(model)
    assert torch.allclose(probabilities(bare, found.h), (found.h @ bare.head.weight.double().T).softmax(1))


def replace_bias(model: Any) -> Any:
    model.head.register_parameter("bias", None)
    return model


def test_tracin_is_that_of_captum_over_two_checkpoints(tmp_path: Path) -> None:
    from captum.influence import TracInCPFast

    model = linear([[0.0] * WIDTH] * CLASSES, [0.0] * CLASSES)
    train, test = labelled(12, 0), labelled(5, 1)
    weights = {
        str(step): 0.5 * step * torch.randn(CLASSES, WIDTH, generator=generator(step, "head"))
        for step in (1, 2)
    }
    rates = {"1": 0.1, "2": 0.03}

    def load(model: nn.Module, name: str) -> float:
        model.head.weight.data = weights[name].clone()  # type: ignore[union-attr]
        return rates[name]

    def pairs(images: Images) -> list[tuple[Tensor, Tensor]]:
        return [(x / 255.0, y) for x, y in zip(images.x, images.y, strict=True)]

    def at_checkpoints(images: Images) -> list[Gradients]:
        found = []
        for name in weights:
            load(model, name)
            found.append(gradients_of(model, images))
        return found

    ours = tracin(at_checkpoints(train), at_checkpoints(test), list(rates.values()))
    own = self_tracin(at_checkpoints(train), list(rates.values()))
    theirs = TracInCPFast(
        model,
        final_fc_layer=model.head,
        train_dataset=pairs(train),
        checkpoints=list(weights),
        checkpoints_load_func=load,
        loss_fn=nn.CrossEntropyLoss(reduction="sum"),
        batch_size=4,
    )
    batch = (torch.stack([x for x, _ in pairs(test)]), test.y)
    assert torch.allclose(theirs.influence(batch).double().T, ours, atol=1e-5)
    assert torch.allclose(theirs.self_influence().double(), own, atol=1e-5)


def test_the_final_network_is_the_one_checkpoint_of_the_detector() -> None:
    train, val, _, weight = problem(30)
    given = evidence(linear(weight.tolist(), [0.0] * CLASSES), train, val)
    own = self_tracin([gradients_of(given.model, train)], [1.0])
    assert torch.allclose(Influence(form="tracin", toward="itself").influences(given), own)


def test_relative_forms_divide_by_the_length_of_the_change_and_of_the_gradient() -> None:
    train, val, _, weight = problem(30)
    given = evidence(linear(weight.tolist(), [0.0] * CLASSES), train, val)
    g = gradients_of(given.model, train).flat()
    p = probabilities(given.model, train.x.double().flatten(1) / 255)
    change = g @ torch.linalg.inv(hessian(p, train.x.double().flatten(1) / 255, damping=1e-2))
    plain = Influence(form="influence", toward="itself").influences(given)
    assert torch.allclose(plain, (g * change).sum(1), rtol=1e-4)
    assert torch.allclose(
        Influence(form="relative", toward="itself").influences(given) * change.norm(dim=1), plain, rtol=1e-4
    )
    assert torch.allclose(
        Influence(form="per_gradient", toward="itself").influences(given) * g.norm(dim=1), plain, rtol=1e-4
    )


def test_wrong_labels_are_in_the_high_tail() -> None:
    train, val, _, weight = problem()
    wrong = torch.arange(200) % 5 == 0
    given = evidence(linear(weight.tolist(), [0.0] * CLASSES), train, val)
    found = Influence(form="tracin", toward="itself", tail="high", fraction=0.2).examine(given)
    assert auroc(found.scores, wrong) > 0.8 and int(found.flags.sum()) == 40
    assert found.flags[wrong].double().mean() > 0.4  # twice chance
    assert torch.equal(
        Influence(form="tracin", toward="itself", tail="low").examine(given).scores, -found.scores
    )
    assert isinstance(Influence(), ExampleDetector)


def test_images_that_do_not_help_the_held_out_images_of_their_label_are_in_the_low_tail() -> None:
    # Class 0 is pixel 0, class 1 is pixel 1; the poison of class 1 looks like class 0 with pixel 2 lit.
    rows, y = noise(120, 3, centre=20, spread=5), torch.arange(120) % 2
    rows[torch.arange(120), y] += 150
    poison = torch.arange(120) % 12 == 0
    rows[poison, 2], y[poison] = 220.0, 1
    clean = noise(40, 3, seed=1, centre=20, spread=5)
    clean[torch.arange(40), torch.arange(40) % 2] += 150
    given = evidence(
        linear([[6.0, -6, -8], [-6, 6, 8]], [0.0, 0.0]),
        pictures(rows, y),
        pictures(clean, torch.arange(40) % 2),
    )
    found = Influence(fraction=10 / 120).examine(given)
    assert auroc(found.scores, poison) == 1.0 and torch.equal(found.flags, poison)
    assert auroc(Influence(form="tracin", toward="itself", tail="high").examine(given).scores, poison) < 1.0


def test_both_tails_are_distances_from_the_median() -> None:
    train, val, _, weight = problem(31)
    given = evidence(linear(weight.tolist(), [0.0] * CLASSES), train, val)
    values = Influence().influences(given)
    found = Influence(tail="both").examine(given)
    assert found.scores.min() == 0 and torch.allclose(found.scores, (values - values.median()).abs())


@pytest.mark.parametrize("form", FORMS)
def test_a_network_that_is_certain_of_everything_has_finite_influences(form: Any) -> None:
    certain = linear([[1e4, 0.0], [0.0, 1e4]], [0.0, 0.0])
    data = pictures(torch.tensor([[200.0, 0], [0, 200], [180, 0]]), [0, 1, 0])
    assert Influence(form=form, toward="itself").influences(evidence(certain, data)).tolist() == [0, 0, 0]


def test_a_head_that_is_too_wide_is_refused_but_by_the_form_without_a_hessian() -> None:
    train, val, _, weight = problem(30)
    given = evidence(linear(weight.tolist(), [0.0] * CLASSES), train, val)
    with pytest.raises(UserError, match="at most 11 weights .*, got 12"):
        Influence(widest=11).examine(given)
    assert Influence(widest=11, form="tracin", toward="itself").examine(given).scores.isfinite().all()
    with pytest.raises(UserError, match="held-out"):
        Influence().examine(replace(given, val=Images(val.x[:0], val.y[:0])))
