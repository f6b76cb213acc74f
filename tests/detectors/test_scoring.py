"""Representations, quantiles and the cheaper network against direct computation."""

import pytest
import torch
from oracle_models import same, small_network, snapshot, tiny_images
from suspects import evidence, identity, noise, nothing, pictures
from torch import Tensor

from deconfound.detectors.scoring import beyond_val, cheaper, held_out, largest, representations
from deconfound.errors import UserError
from deconfound.models.small_cnn import SmallCNN
from deconfound.rng import generator, global_seed


def test_representations_are_the_features_in_order_and_leave_the_network_alone() -> None:
    model, x = small_network().train(), tiny_images(600).x  # more than one batch
    before = snapshot(model)
    found = representations(model, x)
    assert same(snapshot(model), before) and found.dtype == torch.float64
    with torch.no_grad():
        assert torch.allclose(found, model.eval().features(x.float() / 255).double(), atol=1e-6)
    assert representations(model, x[:0]).shape == (0, 8)


def test_the_largest_are_as_many_as_asked_and_the_first_of_equals() -> None:
    scores = torch.tensor([1.0, 3.0, 2.0, 3.0, 2.0])
    assert largest(scores, 3).tolist() == [False, True, True, True, False]
    assert not largest(scores, 0).any() and largest(scores, 9).all()


def test_what_exceeds_the_quantile_of_the_held_out_scores_is_flagged() -> None:
    def score(x: Tensor) -> Tensor:
        return x.flatten(1)[:, 0].float()

    val = pictures(torch.arange(101.0)[:, None], [0] * 101)  # scores 0 to 100: the 0.9 quantile is 90
    data = pictures(torch.tensor([[89.0], [90.0], [91.0]]), [0, 0, 0])
    found = beyond_val(score, evidence(identity(1, 2), data, val), 0.1)
    assert found.flags.tolist() == [False, False, True] and found.scores.tolist() == [89, 90, 91]


def test_without_held_out_images_there_is_no_threshold() -> None:
    with pytest.raises(UserError, match="held-out"):
        held_out(evidence(identity(3, 2), pictures(noise(4, 3), [0, 0, 1, 1]), nothing(3)))


def test_the_cheaper_network_gives_the_same_logits() -> None:
    with global_seed(generator(0, "init")):
        model = SmallCNN(widths=(4, 6), hidden=8)((3, 16, 16), 5).eval()
    x = torch.rand(7, 3, 16, 16, generator=generator(0, "x"))
    with torch.no_grad():
        assert torch.allclose(cheaper(model, x[:4])(x), model(x), atol=1e-4)
