"""Leave-one-out effects of linear functions are known."""

import numpy as np
import pytest
import torch
from suspects import evidence, identity, linear, noise, pictures

from deconfound.detectors.ml_loo import LeaveOneOut, blocks, dispersion, effects, of_class, without
from deconfound.rng import generator

X = torch.rand(4, 1, 3, 5, generator=generator(0, "x"))
W = torch.randn(15, 2, generator=generator(0, "w"))


def test_blocks_cover_every_pixel_once() -> None:
    masks = blocks(X, 2)
    assert masks.shape == (6, 1, 3, 5) and torch.equal(
        masks.int().sum(0), torch.ones(1, 3, 5, dtype=torch.int32)
    )
    assert masks[0, 0].nonzero().tolist() == [[0, 0], [0, 1], [1, 0], [1, 1]]
    assert masks[5, 0].nonzero().tolist() == [[2, 4]]
    assert len(blocks(X, 1)) == 15 and len(blocks(X, 9)) == 1


def test_the_effect_of_a_pixel_on_a_linear_function_is_weight_times_pixel() -> None:
    found = effects(lambda z: z.flatten(1) @ W, X, blocks(X, 1), without(X, "zero"))
    expected = X.flatten(1)[:, :, None] * W[None]
    assert torch.allclose(found, expected, atol=1e-6)


def test_against_another_reference_the_effect_is_weight_times_difference() -> None:
    found = effects(lambda z: z.flatten(1) @ W, X, blocks(X, 1), without(X, "mean"))
    difference = X.flatten(1) - X.flatten(1).mean(1, keepdim=True)
    assert torch.allclose(found, difference[:, :, None] * W[None], atol=1e-6)


def test_leaving_out_what_is_there_already_has_exactly_no_effect() -> None:
    x, rng = X.clone(), generator(0, "draws")
    x[:, :, :2, :2] = 0.0

    def noisy(z: torch.Tensor) -> torch.Tensor:  # a function that never gives the same answer twice
        return z.flatten(1) @ W + 1e-3 * torch.randn(len(z), 2, generator=rng)

    found = effects(noisy, x, blocks(x, 2), without(x, "zero"))
    assert torch.equal(found[:, 0], torch.zeros(4, 2)) and (found[:, 1:] != 0).all()


def test_masks_are_looked_at_in_groups_that_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    every = effects(lambda z: z.flatten(1) @ W, X, blocks(X, 1), without(X, "half"))
    monkeypatch.setattr("deconfound.detectors.ml_loo.PASSES", 9)
    assert torch.allclose(effects(lambda z: z.flatten(1) @ W, X, blocks(X, 1), without(X, "half")), every)


def test_references_are_black_grey_and_the_mean_colour_of_the_picture() -> None:
    x = torch.rand(2, 3, 4, 4, generator=generator(0, "x"))
    assert without(x, "zero").tolist() == torch.zeros(2, 3, 1, 1).tolist()
    assert without(x, "half").tolist() == torch.full((2, 3, 1, 1), 0.5).tolist()
    assert torch.allclose(without(x, "mean")[1, 2, 0, 0], x[1, 2].mean())


def test_dispersions_are_those_of_numpy() -> None:
    found = torch.randn(3, 11, 2, generator=generator(0, "effects"))
    values = found.numpy()
    low, high = np.quantile(values, [0.25, 0.75], axis=1)
    assert np.allclose(dispersion(found, "iqr"), high - low, atol=1e-6)
    assert np.allclose(dispersion(found, "std"), values.std(1), atol=1e-6)
    middle = np.median(values, axis=1, keepdims=True)
    assert np.allclose(dispersion(found, "mad"), np.median(np.abs(values - middle), axis=1), atol=1e-6)


def test_the_class_is_that_of_the_whole_picture() -> None:
    found = torch.arange(12.0).view(2, 3, 2)
    assert of_class(found, torch.tensor([[0.2, 0.8], [0.6, 0.4]])).squeeze(2).tolist() == [
        [1, 3, 5],
        [6, 8, 10],
    ]


def test_the_score_is_the_dispersion_of_effects_on_the_probability() -> None:
    model = linear([[2.0, 0.0], [0.0, 0.0]], [0.0, 0.0])
    given = evidence(model, pictures(torch.tensor([[255.0, 255.0]]), [0]))
    p = [1 / (1 + np.exp(-logit)) for logit in (2.0, 0.0)]  # leaving out pixel 0 by black; pixel 1 has no say
    score = LeaveOneOut(block=1, reference="zero", spread="std").suspicion(given)
    assert score(given.data.x).item() == pytest.approx((p[0] - p[1]) / 2)


def test_a_network_that_reads_nothing_has_no_dispersion() -> None:
    data = pictures(noise(12, 4), [0] * 12)
    assert LeaveOneOut(block=1).suspicion(evidence(identity(4, 3), data))(data.x).tolist() == [0.0] * 12
