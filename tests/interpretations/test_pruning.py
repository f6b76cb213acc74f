"""Curves of a network whose backdoor is one channel of three."""

from dataclasses import replace

import numpy as np
import planted
import pytest
import torch
from planted import BRIGHTNESS, DEAD, TRIGGER

from deconfound.interpretations.case import Case, Place, Readings, Truth
from deconfound.interpretations.pruning import PruneCurve, changes

THIRDS = (1 / 3, 2 / 3, 1.0)


def mean(found: Readings, condition: str, metric: str) -> float:
    return float(np.nanmean(found.each[Place("last_conv", condition, metric)]))


def test_the_channel_of_the_trigger_goes_first_where_the_trigger_is_known() -> None:
    found = PruneCurve(shares=THIRDS)(planted.case())
    assert found.pictures["order_change"].tolist() == [TRIGGER, BRIGHTNESS, DEAD]
    assert mean(found, "unpruned", "clean") == 1 and mean(found, "unpruned", "asr") == 1
    assert mean(found, "change_33p33", "clean") == 1 and mean(found, "change_33p33", "asr") == 0
    assert mean(found, "change_66p67", "clean") == 0.5  # without brightness everything is dark
    expected = np.array([[0, 1, 1], [1 / 3, 1, 0], [2 / 3, 0.5, 0], [1, 0.5, 0]])
    assert found.pictures["curve_change"] == pytest.approx(expected)


def test_channels_that_clean_images_leave_dormant_go_first_where_it_is_not() -> None:
    found = PruneCurve(shares=THIRDS)(planted.case())
    assert set(found.pictures["order_activation"][:2].tolist()) == {TRIGGER, DEAD}
    assert found.pictures["order_activation"][2] == BRIGHTNESS
    assert mean(found, "activation_66p67", "clean") == 1 and mean(found, "activation_66p67", "asr") == 0


def test_the_order_by_weight_is_that_of_the_lengths_of_the_kernels() -> None:
    found = PruneCurve(shares=THIRDS)(planted.case())
    assert found.pictures["order_weight"].tolist() == [DEAD, BRIGHTNESS, TRIGGER]  # 0.5, 1, 100
    assert mean(found, "weight_33p33", "asr") == 1 and mean(found, "weight_66p67", "clean") == 0.5


def test_success_is_told_of_victims_only() -> None:
    found = PruneCurve(shares=(0.5,))(planted.case())
    values = found.each[Place("last_conv", "unpruned", "asr")]
    assert np.isnan(values[1::2]).all() and (values[::2] == 1).all()
    assert (found.each[Place("last_conv", "unpruned", "clean")] == 1).all()


def test_nothing_taken_away_changes_nothing() -> None:
    found = PruneCurve(shares=(0.0,))(planted.case())
    for order in ("activation", "change", "weight", "random"):
        for metric in ("clean", "asr"):
            before, after = (
                found.each[Place("last_conv", condition, metric)] for condition in ("unpruned", f"{order}_0")
            )
            assert np.array_equal(before, after, equal_nan=True)


def test_it_is_said_where_the_attack_succeeds_half_as_often() -> None:
    found = PruneCurve(shares=THIRDS)(planted.case())
    assert found.once[Place("last_conv", "change", "half_asr_share")] == pytest.approx(1 / 3)
    assert found.once[Place("last_conv", "change", "half_asr_clean")] == 1
    assert found.once[Place("last_conv", "weight", "half_asr_share")] == 1
    harmless = PruneCurve(shares=THIRDS)(planted.case(model=planted.network(trigger=0.0)))
    assert mean(harmless, "unpruned", "asr") == 0
    assert not harmless.once and any("not asked when that halves" in note for note in harmless.notes)


def test_the_whole_network_and_its_weights_stay() -> None:
    whole = planted.case()
    before = {name: value.clone() for name, value in whole.model.state_dict().items()}
    PruneCurve()(whole)
    assert all(torch.equal(value, before[name]) for name, value in whole.model.state_dict().items())


def without_val(whole: Case) -> Case:
    return replace(whole, val=None)


def test_orders_that_cannot_be_found_are_left_out_and_noted() -> None:
    found = PruneCurve(shares=(0.5,))(without_val(planted.case(truth=Truth())))
    assert {place.condition for place in found.each} == {"unpruned", "weight_50", "random_50"}
    assert len(found.notes) == 2 and any("held-out" in note for note in found.notes)
    assert np.isnan(found.pictures["curve_random"][:, 2]).all()


def test_changes_are_those_of_the_whole_set_however_it_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = planted.case()
    x = whole.test.x[::2]
    found = changes(whole.model, "body.0", x, planted.stamped(x))
    monkeypatch.setattr("deconfound.interpretations.pruning.BATCH", 5)
    assert torch.allclose(changes(whole.model, "body.0", x, planted.stamped(x)), found)
    assert found[TRIGGER].item() == pytest.approx(20)
