"""Mass on the object and on the trigger, where a network looks at one pixel and everything is known."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from oracle_models import small_network, tiny_images
from torch import Tensor
from truth_cases import case_of, images, linear, looking_at, masks, once_more, read

from deconfound.errors import ConfigError
from deconfound.interpretations.case import Case, Truth
from deconfound.interpretations.mass import ObjectMass, TriggerMass
from deconfound.interpretations.regions import leading
from deconfound.models.classifier import Classifier
from deconfound.types import Images

SALIENCY = {"saliency": {"kind": "saliency"}}
CORNER = [(0, 0), (0, 1)]  # where the object lies: two pixels of sixteen
NAN = np.nan


def on_object(**known: Any) -> Case:
    """Class 0 is a bright pixel (0, 0), class 1 a bright one (0, 1); both lie on the object."""
    model = looking_at([(0, 0)], [(0, 1)])
    test = images([{(0, 0): 200}, {(0, 1): 200}, {(0, 0): 220}, {(0, 1): 180}], [0, 1, 0, 1])
    truth = Truth(mask=masks(*[CORNER] * 4), **known)
    return case_of(model, test, truth)


def test_a_network_that_looks_at_the_object_has_all_its_mass_there() -> None:
    found = once_more(ObjectMass(attributions=SALIENCY), on_object())
    assert read(found, "saliency.clean_true.share").tolist() == [1.0] * 4
    assert read(found, "saliency.clean_pred.ratio").tolist() == [8.0] * 4  # 1 over 2 / 16
    assert read(found, "saliency.clean_true.pointing").tolist() == [1.0] * 4
    assert (
        read(found, "saliency.clean_true.iou").tolist() == [1.0] * 4
    )  # a tie of zeros goes to the first pixel
    assert read(found, "model.object_erased.changed").tolist() == [
        0.0,
        1.0,
        0.0,
        1.0,
    ]  # black on both: class 0
    assert read(found, "model.ground_erased.changed").tolist() == [0.0] * 4
    np.testing.assert_allclose(
        read(found, "model.object_erased.label_logit_change")[0], -8 * 200 / 255, rtol=1e-6
    )
    assert read(found, "saliency.erasure.agrees") == 1.0


def test_a_network_that_looks_at_the_ground_has_no_mass_on_the_object() -> None:
    case = on_object()
    case = case_of(looking_at([(3, 3)], [(2, 3)]), case.test, case.truth)
    found = ObjectMass(attributions=SALIENCY)(case)
    assert read(found, "saliency.clean_true.share").tolist() == [0.0] * 4
    assert read(found, "saliency.clean_true.pointing").tolist() == [0.0] * 4
    assert read(found, "model.object_erased.label_logit_change").tolist() == [0.0] * 4


def test_a_uniform_map_has_a_ratio_of_one() -> None:
    case = on_object()
    found = ObjectMass(attributions=SALIENCY)(case_of(linear(torch.ones(2, 16)), case.test, case.truth))
    np.testing.assert_allclose(read(found, "saliency.clean_true.ratio"), 1.0)
    np.testing.assert_allclose(read(found, "saliency.clean_true.share"), 2 / 16)
    assert not [place for place in found.once if place.metric == "agrees"]  # neither takes a side


def test_the_floor_holds_a_map_against_the_object_of_another_image() -> None:
    test = images([{}, {}], [0, 0])
    truth = Truth(mask=masks([(0, 0)], [(2, 2)]))
    found = ObjectMass(attributions=SALIENCY)(case_of(looking_at([(0, 0)], []), test, truth))
    assert read(found, "saliency.clean_true.share").tolist() == [1.0, 0.0]
    assert read(found, "saliency.floor_true.share").tolist() == [0.0, 1.0]


def test_success_and_failure_of_the_attack_part_the_images_that_were_right() -> None:
    test = images(
        [{(0, 0): 200}, {(0, 0): 60}, {(0, 1): 200}], [0, 0, 0]
    )  # the last one is wrong from the start
    case = case_of(looking_at([(0, 0)], [(0, 1)]), test, Truth(mask=masks(*[CORNER] * 3)))
    attack = {"kind": "pgd", "eps": 0.1, "steps": 5}
    found = once_more(ObjectMass(attributions=SALIENCY, attack=attack), case)
    np.testing.assert_array_equal(read(found, "saliency.success_true.share"), [NAN, 1.0, NAN])
    np.testing.assert_array_equal(read(found, "saliency.failure_true.share"), [1.0, NAN, NAN])
    np.testing.assert_array_equal(read(found, "saliency.noise_true.share"), [1.0, 1.0, NAN])
    assert found.pictures["success.places"].tolist() == [1]
    assert found.pictures["success.maps.saliency"].shape == (1, 4, 4)


def test_the_two_rules_ask_about_two_classes() -> None:
    model = looking_at([(0, 0)], [(3, 3)])
    test = images([{(3, 3): 255}], [0])
    found = ObjectMass(attributions=SALIENCY)(case_of(model, test, Truth(mask=masks([(0, 0)]))))
    assert read(found, "saliency.clean_true.share").tolist() == [1.0]
    assert read(found, "saliency.clean_pred.share").tolist() == [0.0]


def test_images_that_a_change_of_style_leaves_alone_say_nothing_of_it() -> None:
    case = on_object()
    moved = case.test.x.clone()
    moved[1, 0, 3, 3] = 250
    found = ObjectMass(attributions=SALIENCY)(on_object(moved=moved))
    np.testing.assert_array_equal(read(found, "saliency.moved_true.share"), [NAN, 1.0, NAN, NAN])
    assert not any("do(style)" in note for note in found.notes)


def test_a_map_that_praises_the_object_of_a_network_that_looks_elsewhere_is_flagged() -> None:
    """The gradient of the label's logit is strongest on the object, which never decides: the ground does."""
    weight = torch.zeros(2, 16)
    weight[:, 0] = 9  # the object's pixel moves both logits alike
    weight[0, 15] = weight[1, 14] = 3
    test = images([{(3, 3): 200}, {(3, 2): 200}] * 2, [0, 1] * 2)
    found = ObjectMass(attributions=SALIENCY)(
        case_of(linear(weight), test, Truth(mask=masks(*[[(0, 0)]] * 4)))
    )
    assert read(found, "saliency.clean_true.share").tolist() == [0.75] * 4
    assert read(found, "model.object_erased.changed").tolist() == [0.0] * 4
    assert read(found, "model.ground_erased.changed").tolist() == [0.0, 1.0] * 2
    assert read(found, "saliency.erasure.agrees") == 0.0
    assert any(note.startswith("saliency and the intervention disagree") for note in found.notes)


def test_a_method_that_the_network_does_not_fit_is_a_note_and_the_others_are_read() -> None:
    found = ObjectMass(attributions={"grad_cam": {"kind": "grad_cam"}} | SALIENCY)(on_object())
    assert any(note.startswith("There are no readings of grad_cam: layer:") for note in found.notes)
    assert {place.subject for place in found.each} == {"saliency", "model"}


def test_without_a_mask_or_a_trigger_there_is_a_sentence_and_no_number() -> None:
    case = case_of(small_network(), tiny_images(9), classes=3)
    for kind, word in ((ObjectMass(), "mask"), (TriggerMass(), "poison")):
        found = once_more(kind, case)
        assert not found.each and not found.once and word in found.notes[0]


def test_an_object_outside_the_picture_says_nothing() -> None:
    test = images([{(0, 0): 200}, {(0, 0): 200}], [0, 0])
    truth = Truth(mask=masks([(0, 0)], []))
    found = ObjectMass(attributions=SALIENCY)(case_of(looking_at([(0, 0)], []), test, truth))
    np.testing.assert_array_equal(read(found, "saliency.clean_true.share"), [1.0, NAN])
    np.testing.assert_array_equal(read(found, "model.object_erased.changed"), [0.0, NAN])
    empty = ObjectMass()(case_of(looking_at([(0, 0)], []), test, Truth(mask=masks([], []))))
    assert not empty.each and len(empty.notes) == 1


def test_a_rule_that_comes_down_to_another_one_is_read_once() -> None:
    found = ObjectMass(attributions=SALIENCY, targets=("pred_clean", "pred"))(on_object())
    conditions = {place.condition for place in found.each if place.subject == "saliency"}
    assert conditions == {"clean_pred", "floor_pred"}
    assert read(found, "saliency.erasure.agrees") == 1.0


@pytest.mark.parametrize("name", ["Grad CAM", "a.b"])
def test_a_name_that_could_not_be_asked_for_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="lower-case letters"):
        ObjectMass(attributions={name: {"kind": "saliency"}})


def test_unknown_blocks_are_refused_before_anything_runs() -> None:
    with pytest.raises(ConfigError, match="did you mean 'saliency'"):
        TriggerMass(attributions={"s": {"kind": "salience"}})
    with pytest.raises(ConfigError, match="attack"):
        ObjectMass(attack={"kind": "no such attack"})


# Triggers


def backdoored(stamp: Tensor, **known: Any) -> Case:
    """Three classes by a bright pixel of the first row; the pixel (3, 3) says class 2 louder than any of them."""
    weight = torch.zeros(3, 16)
    weight[0, 0] = weight[1, 1] = weight[2, 2] = 8
    weight[2, 15] = 20
    test = images([{(0, label): 220} for label in (0, 1, 2, 0)], [0, 1, 2, 0], ground=0)
    stamped = torch.where(stamp, torch.tensor(255, dtype=torch.uint8), test.x)
    truth = Truth(stamped=stamped, hoped=torch.full((4,), 2), **known)
    return case_of(linear(weight), test, truth, classes=3)


PIXEL = masks([(3, 3)])[:, None]


def test_a_trigger_that_is_all_the_evidence_has_all_the_mass() -> None:
    found = once_more(
        TriggerMass(attributions={"ixg": {"kind": "input_x_gradient"}}, fill="zero"), backdoored(PIXEL)
    )
    victims = [1.0, 1.0, NAN, 1.0]
    np.testing.assert_array_equal(read(found, "ixg.stamped_hoped.share"), victims)
    np.testing.assert_array_equal(read(found, "ixg.stamped_hoped.ratio"), np.array(victims) * 16)
    np.testing.assert_array_equal(read(found, "ixg.stamped_pred.iou"), victims)
    np.testing.assert_array_equal(read(found, "ixg.clean_pred.share"), np.array(victims) - 1)
    assert np.isnan(
        read(found, "ixg.clean_hoped.share")
    ).all()  # nothing speaks for the class: a map of zeros
    np.testing.assert_array_equal(read(found, "ixg.stamped_hoped.recovered"), victims)
    np.testing.assert_array_equal(read(found, "ixg.stamped_hoped.uncovered"), np.array(victims) - 1)
    np.testing.assert_array_equal(read(found, "trigger.stamped.hoped"), victims)
    np.testing.assert_array_equal(read(found, "trigger.deleted.gain"), victims)
    np.testing.assert_array_equal(read(found, "trigger.deleted.asr_drop"), victims)
    np.testing.assert_allclose(read(found, "trigger.inserted.hoped_logit"), np.array(victims) * 20, rtol=1e-6)
    np.testing.assert_array_equal(read(found, "trigger.inserted.label_logit"), np.array(victims) - 1)
    assert read(found, "trigger.stamped.area") == 1 / 16
    assert found.pictures["stamped.masks"].sum() == 3 and not found.notes


def test_a_network_without_the_backdoor_is_not_moved_by_the_trigger() -> None:
    case = backdoored(PIXEL)
    with torch.no_grad():
        case.model.head.weight[2, 15] = 0
    found = TriggerMass(attributions=SALIENCY)(case)
    for place in ("saliency.stamped_pred.share", "trigger.deleted.gain", "trigger.inserted.hoped_logit"):
        np.testing.assert_array_equal(read(found, place), [0.0, 0.0, NAN, 0.0])
    np.testing.assert_array_equal(read(found, "trigger.stamped.right"), [1.0, 1.0, NAN, 1.0])


def test_a_trigger_that_no_map_marks_is_neither_covered_nor_taken_back() -> None:
    """The map of the label's evidence misses the trigger: giving back what it marks changes nothing."""
    case = backdoored(PIXEL)
    with torch.no_grad():
        case.model.head.weight[2, 15] = 0
        case.model.head.bias[2] = 30  # whatever is shown, the answer is 2
    found = TriggerMass(attributions=SALIENCY)(case)
    np.testing.assert_array_equal(read(found, "saliency.stamped_hoped.uncovered"), [1.0, 1.0, NAN, 1.0])
    np.testing.assert_array_equal(read(found, "saliency.stamped_hoped.recovered"), [0.0, 0.0, NAN, 0.0])


def test_of_a_trigger_all_over_the_image_the_strongest_part_stands_for_it() -> None:
    case = backdoored(PIXEL)
    spread = case.test.x + 3
    spread[:, 0, 3, 3] = 255
    case = case_of(case.model, case.test, Truth(stamped=spread, hoped=torch.full((4,), 2)), classes=3)
    found = TriggerMass(attributions=SALIENCY, strongest=1 / 16)(case)
    np.testing.assert_array_equal(found.pictures["stamped.masks"][0], masks([(3, 3)])[0])
    assert (
        read(found, "trigger.stamped.changed_share") == 1.0 and read(found, "trigger.stamped.area") == 1 / 16
    )
    assert "changes 100% of the pixels" in found.notes[0]
    whole = TriggerMass(attributions=SALIENCY, widest=1)(case)
    assert read(whole, "trigger.stamped.area") == 1.0 and not whole.notes


def test_a_trigger_that_changes_nothing_is_said() -> None:
    case = backdoored(PIXEL)
    case = case_of(case.model, case.test, Truth(stamped=case.test.x, hoped=torch.full((4,), 2)), classes=3)
    found = TriggerMass(attributions=SALIENCY)(case)
    assert not found.each and "changes no victim's image" in found.notes[0]


IXG = {"ixg": {"kind": "input_x_gradient"}}
VICTIMS = [1.0, 1.0, NAN, 1.0]


def test_a_twin_among_the_parts_is_asked_what_the_network_is_asked() -> None:
    case = backdoored(PIXEL)
    parts = {f"biased/{name}": value.clone() for name, value in case.model.state_dict().items()}
    with torch.no_grad():
        case.model.head.weight[2, 15] = 0  # the network itself has no backdoor
    found = once_more(TriggerMass(attributions=IXG), replace(case, parts=parts | {"basis": torch.ones(2)}))
    np.testing.assert_array_equal(read(found, "ixg.biased_stamped_hoped.share"), VICTIMS)
    np.testing.assert_array_equal(read(found, "ixg.biased_stamped_hoped.ratio"), np.array(VICTIMS) * 16)
    np.testing.assert_array_equal(read(found, "trigger.biased_stamped.hoped"), VICTIMS)
    rise = read(found, "trigger.biased_inserted.hoped_logit")
    np.testing.assert_allclose(rise, np.array(VICTIMS) * 20, rtol=1e-6)
    np.testing.assert_array_equal(read(found, "trigger.inserted.hoped_logit"), np.array(VICTIMS) - 1)
    assert not any(name.startswith("biased") for name in found.pictures)
    alone = TriggerMass(attributions=IXG)(case)
    assert not any(place.condition.startswith(("biased", "reference")) for place in alone.each)


def test_the_reference_is_trained_without_the_poisoned_images_and_asked_the_same() -> None:
    poisoned, asked = torch.tensor([False, True, False, True]), []

    def retrained(given: Images, purpose: str) -> Classifier:
        asked.append(given)
        other = backdoored(PIXEL).model
        with torch.no_grad():
            other.head.weight[2, 15] = 4
        return other

    case = replace(backdoored(PIXEL, poisoned=poisoned), retrained=retrained)
    found = once_more(TriggerMass(attributions=IXG, reference=True), case)
    for given in asked:
        assert torch.equal(given.x, case.train.x[[0, 2]]) and given.y.tolist() == [0, 2]
    rise = read(found, "trigger.reference_inserted.hoped_logit")
    np.testing.assert_allclose(rise, np.array(VICTIMS) * 4, rtol=1e-6)
    np.testing.assert_array_equal(read(found, "trigger.reference_stamped.hoped"), np.array(VICTIMS) - 1)
    assert len(asked) == 2 and not TriggerMass(attributions=IXG)(case).once.keys() - found.once.keys()
    assert len(asked) == 2  # nothing is trained unless asked for
    lost = TriggerMass(attributions=IXG, reference=True)(backdoored(PIXEL))
    assert "No network could be trained" in lost.notes[0]


def test_leading_takes_so_many_of_each_image_and_ties_go_to_the_first() -> None:
    values = torch.tensor([[[1.0, 3.0], [3.0, 2.0]], [[5.0, 5.0], [5.0, 5.0]]])
    assert leading(values, torch.tensor([2, 1])).int().tolist() == [[[0, 1], [1, 0]], [[1, 0], [0, 0]]]
    assert not leading(values, torch.tensor([0, 0])).any()
