"""INT: the change of maps by hand, the bound that the paper is about, and nothing of it at weight zero."""

from typing import Any

import pytest
import torch
from oracle_models import same, small_network, snapshot, tiny_images, workbench
from pydantic import ValidationError
from torch import Tensor
from torch.nn import functional as F

from deconfound.attacks.ascent import Ascent
from deconfound.attacks.scores import likeliest_wrong, margin
from deconfound.defenses.interpretability_aware import InterpretabilityAware, change
from deconfound.defenses.standard import Standard
from deconfound.models.classifier import eval_mode
from deconfound.recipe import Recipe
from deconfound.threat import ThreatModel

CLIMB = Ascent(threat=ThreatModel(eps=0.1), step_size=0.05, steps=2)
RECIPE = Recipe(epochs=2, batch_size=8)
IMAGES = tiny_images(12)
X, Y = IMAGES.x.float() / 255, IMAGES.y


def fresh(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_the_change_of_two_maps_is_as_computed_by_hand() -> None:
    weights = torch.tensor([[[1.0, -2.0], [0.5, 3.0]]])
    found = change(weights, torch.tensor([[4.0, 1.0]]), torch.tensor([[2.0, 2.0]]))
    assert found.tolist() == [(2 + 2 + 1 + 3) / 2]
    assert change(weights[:, :1], torch.tensor([[4.0, 1.0]]), torch.tensor([[2.0, 2.0]])).tolist() == [2.0]


def test_it_is_never_less_than_half_of_what_the_margin_loses() -> None:
    model = small_network().eval()
    spec = InterpretabilityAware(ascent=CLIMB)
    with torch.no_grad():
        features, logits = model.both(X)
        y = logits.argmax(1)
        weights = spec.of_classes(model.head.weight, logits, y)
        z = (X + 0.5 * torch.randn(X.shape, generator=fresh(2))).clamp(0, 1)
        moved, after = model.both(z)
        rival = likeliest_wrong(logits, y, 1)
        lost = margin(after.gather(1, torch.cat([y[:, None], rival], 1)), torch.zeros_like(y)) - margin(
            logits, y
        )
        assert (change(weights, features, moved) >= lost / 2 - 1e-6).all() and lost.max() > 0


@pytest.mark.parametrize("classes", ["pair", "label"])
def test_the_loss_is_cross_entropy_plus_the_weighted_change_at_the_worst_image(classes: Any) -> None:
    spec = InterpretabilityAware(weight=2, classes=classes, ascent=CLIMB)
    model, twin = (small_network(dropout=0.0).train() for _ in range(2))
    loss = spec.objective(model, X, Y, rng=fresh())

    def maps(logits: Tensor, z: Tensor) -> Tensor:
        chosen = torch.cat([Y[:, None], likeliest_wrong(logits, Y, 1)], 1)[:, : 2 if classes == "pair" else 1]
        return twin.head.weight[chosen] * z[:, None]

    with eval_mode(twin):
        features, logits = twin.both(X)
        still = logits.detach()
        clean = maps(still, features)
        x_adv = CLIMB(lambda z: (maps(still, twin.features(z)) - clean).abs().sum((1, 2)) / 2, X, rng=fresh())
    features, logits = twin.both(X)
    worst = (maps(logits, features) - maps(logits, twin.features(x_adv))).abs().sum((1, 2)) / 2
    expected = F.cross_entropy(logits, Y) + 2 * worst.mean()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-6)
    assert same(snapshot(model), snapshot(twin))
    pairs = [
        torch.autograd.grad(one, list(net.parameters())) for one, net in ((loss, model), (expected, twin))
    ]
    for mine, theirs in zip(*pairs, strict=True):
        assert torch.allclose(mine, theirs, atol=1e-6)


def test_the_change_alone_moves_every_layer() -> None:
    model = small_network(dropout=0.0).train()
    loss = InterpretabilityAware(weight=1, ascent=CLIMB).objective(model, X, Y, rng=fresh())
    (loss - F.cross_entropy(small_network(dropout=0.0).train()(X), Y)).backward()  # type: ignore[no-untyped-call]
    assert all(w.grad is not None for w in model.parameters())
    assert model.head.weight.grad is not None and model.head.weight.grad.abs().sum() > 0


def test_without_weight_it_is_standard_training_to_the_bit_and_with_it_not() -> None:
    def trained(defense: InterpretabilityAware | Standard) -> dict[str, Tensor]:
        return dict(defense(workbench(RECIPE)[0]).model.state_dict())

    standard, pair = trained(Standard()), trained(InterpretabilityAware(ascent=CLIMB, weight=0.5))
    assert same(trained(InterpretabilityAware(ascent=CLIMB, weight=0)), standard)
    assert not same(pair, standard)
    assert not same(trained(InterpretabilityAware(ascent=CLIMB, weight=0.5, classes="label")), pair)


def test_a_start_at_the_image_is_refused() -> None:
    still = Ascent(threat=ThreatModel(eps=0.1), step_size=0.05, steps=2, start="image")
    with pytest.raises(ValidationError, match=r"ascent\.start: expected uniform or gaussian"):
        InterpretabilityAware(ascent=still)


@pytest.mark.parametrize("scale", [0.0, 1.0, 1e4], ids=["uniform", "ordinary", "saturated"])
def test_loss_and_gradient_are_finite(scale: float) -> None:
    model = small_network(dropout=0.0).train()
    with torch.no_grad():
        model.head.weight.mul_(scale)
    loss = InterpretabilityAware(ascent=CLIMB).objective(model, X, Y, rng=fresh())
    loss.backward()  # type: ignore[no-untyped-call]
    assert loss.isfinite() and all(w.grad is None or w.grad.isfinite().all() for w in model.parameters())
