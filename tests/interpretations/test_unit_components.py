"""Units whose part in a backdoor is known exactly."""

from dataclasses import replace
from typing import Any

import numpy as np
import planted
import pytest
import torch
from interpretation_cases import case as small_case
from oracle_models import small_network, tiny_images
from planted import BRIGHTNESS, DEAD, TRIGGER
from torch import Tensor

from deconfound.errors import ConfigError
from deconfound.interpretations.case import Place, Truth
from deconfound.interpretations.components import Components, concentration, conductance, top_share
from deconfound.interpretations.layers import located, outputs, victims_of
from deconfound.models.classifier import predict

QUICK: dict[str, Any] = {"portrait": {"steps": 1}, "shown": 1}


def test_the_channel_of_a_trigger_changes_most_by_exactly_what_it_must() -> None:
    whole = planted.case()
    found = Components(layers=("last_conv",), **QUICK)(whole)
    # Four pixels of 100 * 1 - 90 = 10 where there was nothing: length 20, for every victim.
    assert found.pictures["last_conv_change_units"].tolist() == [TRIGGER, BRIGHTNESS, DEAD]
    change, noise = found.pictures["last_conv_change"]
    assert change[0] == pytest.approx(20) and change[2] == 0
    assert noise[0] == 0 and noise[1] > 0  # noise of that size lights no pixel
    dark = planted.images(24, seed=1).x[::2].double() / 255
    brightness = (1 - dark[..., -2:, -2:]).flatten(1).norm(dim=1).mean().item()
    assert change[1] == pytest.approx(brightness, rel=1e-5)
    once = found.once
    assert once[Place("last_conv", "trigger", "change_mean")] == pytest.approx(
        (20 + brightness) / 3, rel=1e-5
    )
    expected = (20 + brightness) / 3 / brightness  # of three units: their mean over the middle one
    assert once[Place("last_conv", "trigger", "change_concentration")] == pytest.approx(expected, rel=1e-5)
    assert once[Place("last_conv", "clean", "silent")] == pytest.approx(
        2 / 3
    )  # the trigger's channel sleeps too


def test_the_relative_change_of_a_layer_is_told_of_victims_only() -> None:
    whole = planted.case()
    found = Components(layers=("last_conv",), **QUICK)(whole)
    values = found.each[Place("last_conv", "trigger", "relative_change")]
    assert np.isnan(values[1::2]).all() and np.isfinite(values[::2]).all()
    x = whole.test.x[0].double() / 255
    grown = (1 - x[..., -2:, -2:]).square().sum() + 4 * 10**2
    assert values[0] == pytest.approx((grown.sqrt() / x.norm()).item(), rel=1e-4)


def test_noise_stands_beside_the_trigger_and_the_attack_in_the_same_size() -> None:
    found = Components(attack={"kind": "pgd", "eps": 0.1, "steps": 2}, layers=("last_conv",), **QUICK)(
        planted.case()
    )
    conditions = {place.condition for place in found.each}
    assert conditions == {"trigger", "trigger_noise", "attack", "attack_noise"}
    # The attack moves every pixel by up to 0.1 towards one side: the brightness of all positions follows.
    moved, noisy = found.pictures["last_conv_sensitivity"]
    assert moved[0] == pytest.approx(0.1, abs=0.02) and noisy[0] < moved[0] + 0.02


def test_the_channel_that_sees_the_trigger_detects_its_place_and_only_when_it_is_there() -> None:
    found = Components(layers=("last_conv",), **QUICK)(planted.case())
    # Active exactly on the four pixels of the trigger; without it, no channel knows the corner.
    assert found.once[Place("last_conv", "trigger", "matched_iou_max")] == pytest.approx(1)
    assert found.once[Place("last_conv", "trigger_absent", "matched_iou_max")] < 0.3
    area = 4 / 64
    assert found.once[Place("last_conv", "trigger", "matched_iou_chance")] == pytest.approx(area / (2 - area))


def test_a_mask_that_is_too_large_for_the_published_threshold_is_said_to_be() -> None:
    found = Components(layers=("last_conv",), **QUICK)(planted.case())
    assert found.once[Place("last_conv", "object", "iou_max")] <= 0.005 / 0.5 + 1e-9
    assert any("object" in note and "can exceed an IoU of 0.04" in note for note in found.notes)
    again = Components(layers=("last_conv",), top=0.5, **QUICK)(planted.case())
    assert not any("can exceed" in note for note in again.notes)


def test_units_that_answer_to_one_class_are_counted() -> None:
    model = planted.network()
    model.body[0].bias.data[BRIGHTNESS] = -60 / 255  # dark pictures lie below
    found = Components(layers=("last_conv",), **QUICK)(planted.case(model=model))
    histogram = found.pictures["last_conv_selectivity"]
    assert histogram[-1] == 1 and histogram[0] == 2 and histogram.sum() == 3
    assert found.once[Place("last_conv", "clean", "selectivity_above_half")] == pytest.approx(1 / 3)
    assert found.once[Place("last_conv", "clean", "selectivity_mean")] == pytest.approx(1 / 3)


def test_conductances_add_up_to_what_the_logits_change_by() -> None:
    whole = small_case()
    start, end = whole.x[:6], whole.x[6:12].flip(3)
    target = torch.tensor([0, 1, 2, 0, 1, 2])
    rise = (predict(whole.model, end) - predict(whole.model, start)).gather(1, target[:, None]).mean()
    for name in ("body.6", "body"):
        flow = conductance(whole.model, name, start, end, target, steps=200)
        assert flow.sum().item() == pytest.approx(rise.item(), abs=0.02 * rise.abs().item() + 0.01)


def test_the_logit_of_the_target_rises_through_the_channel_of_the_trigger() -> None:
    found = Components(layers=("last_conv",), conductance=64, **QUICK)(planted.case())
    flow = found.pictures["last_conv_conductance"]  # in the order of the change
    dark = planted.images(24, seed=1).x[::2].double() / 255
    assert flow[0] == pytest.approx(10 * 4 * 10 / 64, rel=0.05) and flow[2] == 0
    assert flow[1] == pytest.approx((1 - dark[..., -2:, -2:]).sum((1, 2, 3)).mean().item() / 64, rel=0.05)
    assert found.once[Place("last_conv", "trigger", "conductance_rank")] == pytest.approx(1)
    assert found.once[Place("last_conv", "trigger", "conductance_top_share")] == pytest.approx(1)


def test_the_images_of_a_unit_are_those_that_excite_it_most() -> None:
    whole = planted.case()
    found = Components(layers=("last_conv",), shown=2, portrait={"steps": 1})(whole)
    assert found.pictures["last_conv_units"].tolist() == [TRIGGER, BRIGHTNESS]
    best = whole.test.x.double().mean((1, 2, 3)).topk(9).indices
    assert np.array_equal(found.pictures["last_conv_top_images"][1], whole.test.x[best].numpy())
    assert found.pictures["last_conv_maximised"].shape == (2, 1, 8, 8)
    assert any(
        "nothing" in note or "no picture wakes" in note for note in found.notes
    )  # of the trigger's unit


def test_without_a_trigger_the_most_selective_units_are_drawn() -> None:
    model = planted.network()
    model.body[0].bias.data[DEAD] = -30 / 255  # 0.5 x - 30 / 255: bright pictures only
    found = Components(layers=("last_conv",), shown=1, portrait={"steps": 1})(
        planted.case(model=model, truth=Truth())
    )
    assert found.pictures["last_conv_units"].tolist() == [DEAD]
    assert any("no trigger" in note for note in found.notes)
    assert any("nobody knows where the objects lie" in note for note in found.notes)


def test_a_network_without_maps_is_read_at_the_input_of_its_head() -> None:
    whole = planted.case(
        model=small_network().eval(), train=tiny_images(), test=tiny_images(9), truth=Truth(), classes=3
    )
    found = Components(**QUICK)(whole)
    assert {place.subject for place in found.once} == {"penultimate"}
    assert any(note.startswith("last_conv is not read") for note in found.notes)


def test_a_layer_can_be_named_and_one_that_is_not_there_is_noted() -> None:
    notes: list[str] = []
    model, probe = small_case().model, small_case().x[:1]
    found = located(model, probe, ["body.2", "body.99", "last_conv", "penultimate"], notes)
    assert found == {"body_2": "body.2", "last_conv": "body.6", "penultimate": "body"}
    assert len(notes) == 1 and "body.99" in notes[0]


def test_outputs_are_what_the_module_returns() -> None:
    whole = small_case()
    with torch.no_grad():
        assert torch.allclose(outputs(whole.model, "body", whole.test.x), whole.model.features(whole.x))


def test_victims_are_the_images_that_the_attacker_wants_elsewhere() -> None:
    whole = planted.case(count=6)
    assert victims_of(whole) is not None
    assert torch.equal(victims_of(whole), torch.tensor([True, False] * 3))  # type: ignore[arg-type]
    assert victims_of(replace(whole, truth=Truth())) is None


@pytest.mark.parametrize(
    ("values", "share", "peak"),
    [
        (torch.tensor([4.0, 3.0, 2.0, 1.0, 0.0]), 0.9, 1.5),
        (torch.tensor([1.0, 0.0, 0.0, 0.0]), 1.0, None),
        (torch.zeros(3), None, None),
        (torch.tensor([2.0]), 1.0, 1.0),
    ],
)
def test_concentration_is_the_top_three_over_the_middle(
    values: Tensor, share: float | None, peak: float | None
) -> None:
    for found, expected in ((top_share(values), share), (concentration(values), peak)):
        assert np.isnan(found) if expected is None else found == pytest.approx(expected)


def test_a_concentration_without_a_middle_is_noted() -> None:
    model = planted.network()
    model.body[0].weight.data[BRIGHTNESS] = 0  # one of three channels moves
    found = Components(layers=("last_conv",), **QUICK)(planted.case(model=model))
    assert Place("last_conv", "trigger", "change_concentration") not in found.once
    assert any("half of the units do not move" in note for note in found.notes)


def test_a_block_that_is_no_attack_is_refused() -> None:
    with pytest.raises(ConfigError):
        Components(attack={"kind": "pdg"})
