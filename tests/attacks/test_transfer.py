"""A transfer has a source and no images of its own."""

import pytest
import torch
from oracle_models import linear_problem

from deconfound.attacks.transfer import Transfer
from deconfound.runs import Run

HERE = Run("digits", "clean", "cnn", "trades", 3)


def test_the_source_is_the_same_run_under_another_defense() -> None:
    assert Transfer(attack="pgd").source(HERE) == Run("digits", "clean", "cnn", "standard", 3)
    assert Transfer(attack="pgd", model="resnet").source(HERE) == Run(
        "digits", "clean", "resnet", "standard", 3
    )


def test_a_transfer_refuses_to_craft_images() -> None:
    model, x, y = linear_problem()
    with pytest.raises(TypeError, match="stored set"):
        Transfer(attack="pgd")(model, x, y, rng=torch.Generator())
