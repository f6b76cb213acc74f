"""The meter counts images through a network, with and without a gradient."""

import copy

import torch
from oracle_models import small_network, tiny_images, workbench

from deconfound.defenses.standard import Standard
from deconfound.models.classifier import predict
from deconfound.models.meter import Meter, uncounted
from deconfound.recipe import Recipe


def test_images_with_and_without_a_gradient_are_told_apart() -> None:
    meter = Meter()
    model = meter.watch(small_network())
    x = torch.rand(5, 1, 4, 4)
    model(x)
    model.features(x[:2])
    with torch.no_grad():
        model(x[:3])
    predict(model, x)
    assert (meter.backward, meter.forward) == (7, 8)


def test_a_copy_of_a_watched_network_counts_too() -> None:
    meter = Meter()
    twin = copy.deepcopy(meter.watch(small_network()))
    twin(torch.rand(4, 1, 4, 4))
    assert meter.backward == 4


def test_what_is_only_watched_is_not_counted() -> None:
    meter = Meter()
    model = meter.watch(small_network())
    with uncounted():
        model(torch.rand(4, 1, 4, 4))
    model(torch.rand(3, 1, 4, 4))
    assert (meter.backward, meter.forward) == (3, 0)


def test_a_plain_training_costs_one() -> None:
    recipe = Recipe(epochs=3, batch_size=7)
    meter = Meter()
    bench, trainer = workbench(
        recipe, data=tiny_images(30), network=lambda purpose: meter.watch(small_network(purpose))
    )
    trainer.meter = meter
    Standard()(bench)
    assert (meter.backward, meter.forward) == (90, 0)
    assert meter.plain(30, 3) == 1
