"""Attacks on maps beside noise of their size, and attention by hand, on networks whose maps are known."""

from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from oracle_models import same, small_network, snapshot, tiny_images
from torch import Generator, Tensor, nn

from deconfound.attacks.fragile import Fragile
from deconfound.errors import ConfigError
from deconfound.fields import hyperparameters
from deconfound.interpretations.case import Case, Place
from deconfound.interpretations.explaining import AttackedExplanation, attention_ratios
from deconfound.models.classifier import Classifier
from deconfound.registry import build
from deconfound.rng import generator
from deconfound.threat import ThreatModel
from deconfound.types import Images

TABLE = {"explanation_attack": "deconfound.interpretations.explaining:AttackedExplanation"}
FRAGILE = {"kind": "fragile", "eps": 0.1, "steps": 6, "top": 0.2}
SALIENCY = {"gradient": {"kind": "saliency"}}


@hyperparameters
class Mute:
    """Adds 0.1 to the first pixel of every second image, and cannot tell what stays on top."""

    @property
    def threat(self) -> ThreatModel:
        return ThreatModel(norm="linf", eps=0.1)

    def __call__(self, model: nn.Module, x: Tensor, *, rng: Generator) -> Tensor:
        z = x.clone()
        z[::2, 0, 0, 0] += 0.1
        return z


@hyperparameters
class Halve:
    """Halves the first row of pixels."""

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, *, rng: Generator) -> Tensor:
        z = x.clone()
        z[:, :, 0] /= 2
        return z


def linear() -> Classifier:
    model = Classifier(nn.Flatten(), nn.Linear(16, 3), channels=1)
    with torch.no_grad():
        model.head.weight.copy_(torch.randn(3, 16, generator=generator(0)))
        model.head.bias.zero_()
    return model.eval()


def labelled(model: Classifier, count: int = 12, *, wrong: int = 0) -> Images:
    """Tiny images with the labels that the model gives them, but for the first few."""
    x = tiny_images(count).x
    y = model(x.float() / 255).argmax(1)
    y[:wrong] = (y[:wrong] + 1) % 3
    return Images(x, y)


def case(model: Classifier, test: Images | None = None, **more: Any) -> Case:
    test = tiny_images(12) if test is None else test
    common: dict[str, Any] = {"train": test, "test": test, "rng": partial(generator, 0), "classes": 3}
    return Case(model=model, defense=None, parts={}, **(common | more))


def made(**changes: Any) -> AttackedExplanation:
    settings = {"explanation_attack": FRAGILE, "attributions": SALIENCY, **changes}
    return build(TABLE, {"kind": "explanation_attack", **settings}, at="x")


def test_the_map_of_a_linear_network_cannot_be_attacked_and_a_note_says_so() -> None:
    found = made()(case(linear()))
    assert found.each[Place("aimed_at", "attacked", "top_k")].tolist() == [1] * 12
    assert found.each[Place("gradient", "attacked", "spearman")] == pytest.approx(np.ones(12))
    assert np.isnan(found.each[Place("gradient", "noise", "top_k")]).all()
    assert np.isnan(found.each[Place("aimed_at", "attacked", "top_k_below_noise")]).all()
    assert found.notes[0] == "The attack found nothing for 12 of 12 images; they have no noise."


def test_an_attack_goes_below_noise_of_its_size_and_keeps_the_prediction() -> None:
    model = small_network()
    found = made()(case(model, tiny_images(30)))
    attacked, noise, below = (
        found.each[Place("aimed_at", *at)]
        for at in (("attacked", "top_k"), ("noise", "top_k"), ("attacked", "top_k_below_noise"))
    )
    assert np.nanmean(below) > 0.1 and (attacked <= 1).all()
    assert np.array_equal(below, noise - attacked, equal_nan=True)
    assert np.isnan(noise).any() and (attacked[np.isnan(noise)] == 1).all()
    assert found.each[Place("prediction", "attacked", "kept")].tolist() == [1] * 30
    x = case(model, tiny_images(30)).x
    attack = Fragile(eps=0.1, steps=6, top=0.2)
    z = attack(model, x, rng=generator(0))
    assert attacked == pytest.approx(attack.intersection(model, x, z).numpy())
    assert np.array_equal(found.pictures["gallery.attacked"], z[:4].numpy())


def test_noise_moves_every_pixel_by_what_the_attack_moved_its_farthest_and_only_where_it_moved() -> None:
    found = made(explanation_attack={"kind": f"{__name__}:Mute"}, gallery=12)(case(small_network()))
    clean, noisy = found.pictures["gallery.clean"], found.pictures["gallery.noisy"]
    assert np.abs(noisy - clean).max((1, 2, 3)) == pytest.approx([0.1, 0] * 6, abs=1e-6)
    kept = found.each[Place("prediction", "noise", "kept")]
    assert np.isfinite(kept).tolist() == [True, False] * 6
    assert any("does not tell" in note for note in found.notes)
    assert not any(place.subject == "aimed_at" for place in found.each)


def test_other_maps_are_compared_for_the_class_predicted_on_the_clean_image() -> None:
    model = linear()
    everything = made(attributions={"product": {"kind": "input_x_gradient"}}, measures=["cosine"])
    spec = build(
        TABLE,
        {
            "kind": "explanation_attack",
            "explanation_attack": {"kind": f"{__name__}:Mute"},
            "attributions": everything.attributions,
            "measures": ["cosine"],
        },
        at="x",
    )
    found = spec(case(model))
    about = case(model)
    predicted = about.logits(about.x).argmax(1)
    moved = Mute()(model, about.x, rng=generator(0))
    rows = model.head.weight.detach()[predicted]
    a, b = (z.flatten(1) * rows for z in (about.x, moved))
    wanted = torch.cosine_similarity(a.double(), b.double()).numpy()
    assert found.each[Place("product", "attacked", "cosine")] == pytest.approx(wanted, abs=1e-6)
    assert found.pictures["map.product.clean"] == pytest.approx(a[:4].view(4, 4, 4).numpy(), abs=1e-6)


# Attention


def test_attention_of_a_linear_network_is_the_sum_of_absolute_contributions() -> None:
    model = linear()
    test = labelled(model, wrong=2)
    found = made(attacks={"halve": {"kind": f"{__name__}:Halve"}}, examples=10)(case(model, test))
    x, y, weight = test.x[:10].float() / 255, test.y[:10], model.head.weight.detach()

    def ratio(z: Tensor) -> Tensor:
        logits = model(z).detach()
        other = logits.scatter(1, y[:, None], -torch.inf).argmax(1)
        true, wrong = ((z.flatten(1) * weight[labels]).abs().sum(1) for labels in (y, other))
        return (true / wrong).log()

    z = Halve()(model, x, y, rng=generator(0))
    clean, halved, change = (
        found.each[Place("attention", *at)]
        for at in (("clean", "log_ratio"), ("halve", "log_ratio"), ("halve", "log_ratio_change"))
    )
    assert np.isnan(clean[:2]).all() and np.isnan(change[:2]).all()
    assert clean[2:] == pytest.approx(ratio(x)[2:].numpy(), abs=1e-5)
    assert halved[2:] == pytest.approx(ratio(z)[2:].numpy(), abs=1e-5)
    assert change[2:] == pytest.approx((ratio(z) - ratio(x))[2:].numpy(), abs=1e-5)
    fooled = (model(z).argmax(1) != y).double().numpy()
    assert found.each[Place("attention", "halve", "fooled")][2:].tolist() == fooled[2:].tolist()


def test_the_attention_attack_lowers_the_ratio_on_average() -> None:
    model = small_network()
    attacks = {"aoa": {"kind": "attention", "eps": 0.1, "steps": 8, "weight": 0.0}}
    found = made(attacks=attacks)(case(model, labelled(model.eval(), 30)))
    assert found.each[Place("attention", "aoa", "log_ratio_change")].mean() < -0.01


def test_attention_is_the_same_in_parts_and_for_no_image(monkeypatch: pytest.MonkeyPatch) -> None:
    model = small_network()
    about = case(model)
    whole = attention_ratios(about, about.x, about.y)
    monkeypatch.setattr("deconfound.interpretations.explaining.PART", 5)
    assert torch.allclose(attention_ratios(about, about.x, about.y), whole, atol=1e-5)
    assert attention_ratios(about, about.x[:0], about.y[:0]).shape == (0,)


def test_where_the_model_is_never_right_there_is_no_attention_and_a_note_says_so() -> None:
    model = linear()
    found = made(attacks={"halve": {"kind": f"{__name__}:Halve"}})(case(model, labelled(model, wrong=12)))
    for place, values in found.each.items():
        assert values.shape == (12,)
        assert place.subject != "attention" or np.isnan(values).all()
    assert any("none of the 12 images right" in note for note in found.notes)
    assert any("names no attacks" in note for note in made()(case(model)).notes)


# Common promises


def test_a_method_that_refuses_the_network_is_named_and_the_others_stay() -> None:
    found = made(attributions=SALIENCY | {"cam": {"kind": "grad_cam"}})(case(small_network()))
    assert any("There are no readings of cam: layer:" in note for note in found.notes)
    assert Place("gradient", "attacked", "top_k") in found.each


def test_pictures_are_small_and_of_the_first_images() -> None:
    found = made(gallery=3)(case(small_network()))
    test = tiny_images(12)
    assert found.pictures["gallery.label"].tolist() == test.y[:3].tolist()
    assert found.pictures["gallery.clean"] == pytest.approx(test.x[:3].numpy() / 255)
    shapes = {name: array.shape for name, array in found.pictures.items() if name.startswith("map.")}
    assert shapes == {f"map.gradient.{state}": (3, 4, 4) for state in ("clean", "attacked", "noisy")}
    assert made(gallery=0)(case(small_network())).pictures == {}


def test_the_model_is_left_alone_and_the_same_seed_gives_the_same_bytes() -> None:
    model = small_network().train()
    model.body[2].eval()
    before = snapshot(model)
    attacks = {
        "aoa": {"kind": "attention", "eps": 0.1, "steps": 2},
        "pgd": {"kind": "pgd", "eps": 0.1, "steps": 2},
    }
    spec = made(attacks=attacks, attributions={"lime": {"kind": "lime", "samples": 9, "grid": 2}}, examples=7)
    first = spec(case(model))
    assert same(snapshot(model), before)
    torch.manual_seed(3)
    again = spec(case(model))
    assert {k: v.tobytes() for k, v in first.each.items()} == {k: v.tobytes() for k, v in again.each.items()}
    assert same(first.pictures, again.pictures) and all(v.shape == (7,) for v in first.each.values())


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"explanation_attack": {"kind": "pgd", "eps": 0.1}}, "explanation_attack.kind"),
        ({"explanation_attack": {"kind": "fragile"}}, "explanation_attack.eps: required"),
        ({"attributions": {"attention": {"kind": "saliency"}}}, "that is free, got 'attention'"),
        ({"attacks": {"clean": {"kind": "pgd", "eps": 0.1}}}, "that is free, got 'clean'"),
        ({"attacks": {"moved": {"kind": "transfer", "attack": "pgd"}}}, "crafts images"),
        ({"measures": ["top"]}, "measure of shift, got 'top'"),
    ],
)
def test_faults_of_a_block_are_found_before_it_is_used(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        made(**changes)
