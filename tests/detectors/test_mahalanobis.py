"""Distances to classes: Euclidean where they should be, and blind to linear maps."""

import pytest
import torch
from lessons import evidence, images
from suspects import evidence as about
from suspects import identity, noise, pictures
from torch import Tensor

from deconfound.detectors.mahalanobis import Gaussians, Mahalanobis, gaussians_of
from deconfound.rng import generator


def cloud(count: int = 300, width: int = 5) -> tuple[Tensor, Tensor]:
    rng = generator(0, "cloud")
    y = torch.arange(count) % 3
    return torch.randn(count, width, generator=rng).double() + 3 * y[:, None], y


def test_with_a_unit_covariance_it_is_the_squared_euclidean_distance_to_the_nearest_mean() -> None:
    means = torch.tensor([[0.0, 0.0], [10.0, 0.0]], dtype=torch.float64)
    found = Gaussians(means, torch.eye(2, dtype=torch.float64))
    assert found.distances(torch.tensor([[3.0, 4.0], [9.0, 0.0]])).tolist() == [25, 1]


def test_distances_are_those_of_the_fitted_covariance() -> None:
    h, y = cloud()
    deviations = torch.cat([h[y == label] - h[y == label].mean(0) for label in range(3)])
    precision = torch.linalg.inv(deviations.T @ deviations / len(h))
    per_class = torch.stack(
        [((h - h[y == label].mean(0)) @ precision * (h - h[y == label].mean(0))).sum(1) for label in range(3)]
    )
    assert torch.allclose(gaussians_of(h, y, ridge=0.0).distances(h), per_class.amin(0), rtol=1e-8)


@pytest.mark.parametrize("seed", range(3))
def test_an_invertible_linear_map_of_the_features_changes_nothing(seed: int) -> None:
    h, y = cloud()
    mapping = torch.randn(5, 5, generator=generator(seed, "map")).double()
    plain = gaussians_of(h, y, ridge=0.0).distances(h)
    mapped = gaussians_of(h @ mapping + 7, y, ridge=0.0).distances(h @ mapping + 7)
    assert torch.allclose(plain, mapped, rtol=1e-4)


def test_dead_units_and_absent_classes_do_no_harm() -> None:
    h, y = cloud()
    dead = torch.cat([h, torch.zeros(300, 4, dtype=torch.float64), h[:, :1]], 1)
    labels = torch.tensor([0, 4, 9])[y]
    found = gaussians_of(dead, labels, ridge=1e-6).distances(dead)
    assert found.isfinite().all()
    assert torch.allclose(found, gaussians_of(h, y, ridge=1e-6).distances(h), rtol=1e-3)


def test_the_fit_takes_the_labels_as_delivered_and_no_more_examples_than_asked() -> None:
    data = pictures(
        torch.cat([noise(20, 3, centre=50), noise(20, 3, seed=1, centre=200)]), [0] * 20 + [1] * 20
    )
    given = about(identity(3, 2), data)
    names, (found,) = Mahalanobis(ridge=0.0).fit(given)
    assert names == ("body",) and found.means.shape == (2, 3)
    means = (found.factor @ found.means.T).T
    expected = (
        torch.stack([data.x[:20].double().flatten(1).mean(0), data.x[20:].double().flatten(1).mean(0)]) / 255
    )
    assert torch.allclose(means, expected, rtol=1e-5)
    assert not torch.equal(Mahalanobis(examples=30).fit(given)[1][0].means, found.means)


def test_a_step_of_the_input_brings_it_nearer_to_a_class() -> None:
    given, fresh = evidence(), images(20, 2)
    detector = Mahalanobis(magnitude=0.01)
    (name,), (gaussians,) = detector.fit(given)
    x = fresh.x / 255.0
    step = detector._step(given, name, gaussians, x)
    assert step.abs().amax() <= 0.01 + 1e-9 and step.abs().sum() > 0
    assert (gaussians.distances((x + step).flatten(1)) < gaussians.distances(x.flatten(1))).all()
    plain = Mahalanobis().suspicion(given)(fresh.x)
    assert not torch.allclose(detector.suspicion(given)(fresh.x), plain)
    tiny = Mahalanobis(magnitude=1e-9).suspicion(given)(fresh.x)
    assert torch.allclose(tiny, plain, atol=1e-3)
