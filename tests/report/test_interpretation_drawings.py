"""Pictures and charts of interpretations: colours, shared scales, outlines, operating curves, controls of a number."""

import numpy as np
import pytest

from deconfound.report.interpretation.graphs import roc
from deconfound.report.interpretation.kinds import layout_of
from deconfound.report.interpretation.layouts import Layout
from deconfound.report.interpretation.strips import Strip, coloured, scale_of
from deconfound.report.interpretation.vocabulary import Form, shown, split_rule
from deconfound.report.pictures import outline


def test_red_raises_blue_lowers_and_zero_is_almost_white() -> None:
    low, zero, high = coloured(np.array([[-2.0, 0.0, 2.0]]), 2.0)[0]
    assert low[2] > low[0] and high[0] > high[2] and zero.min() > 0.95
    assert np.allclose(coloured(np.array([[9.0]]), 2.0), coloured(np.array([[2.0]]), 2.0))
    assert coloured(np.zeros((1, 1)), 0.0).min() > 0.95


def test_the_maps_of_an_image_share_one_scale_and_images_do_not() -> None:
    first = Strip("before", np.array([[[1.0, -3.0]], [[0.5, 0.0]]]), signed=True)
    second = Strip("after", np.array([[[2.0, 0.0]], [[0.0, -0.7]]]), signed=True)
    image = Strip("image", np.full((2, 1, 1, 2), 200, np.uint8))
    assert scale_of([image, first, second]).tolist() == [3.0, 0.7]


def test_the_outline_of_one_pixel_has_four_sides_and_of_two_neighbours_six() -> None:
    mask = np.zeros((4, 4), bool)
    mask[1, 2] = True
    points = outline(mask, 10.0, 20.0).get_path().vertices
    assert len(points) == 2 * 4
    assert points.min(0).tolist() == [10.5, 20.25] and points.max(0).tolist() == [10.75, 20.5]
    mask[1, 3] = True
    assert len(outline(mask, 0, 0).get_path().vertices) == 2 * 6
    assert len(outline(np.zeros((2, 2), bool), 0, 0).get_path().vertices) == 1


def test_operating_curves_of_separated_of_equal_and_of_reversed_scores() -> None:
    false, true = roc(np.array([0.0, 1.0]), np.array([2.0, 3.0]))
    assert list(zip(false, true, strict=True))[:3] == [(0, 0), (0, 0.5), (0, 1)]
    false, true = roc(np.array([1.0, 2.0]), np.array([1.0, 2.0]))
    assert np.array_equal(false, true)
    false, true = roc(np.array([2.0]), np.array([1.0]))
    assert list(zip(false, true, strict=True)) == [(0, 0), (1, 0), (1, 1)]


@pytest.mark.parametrize(
    ("condition", "wanted"),
    [
        ("success_true", ["noise_true", "floor"]),
        ("success_pred", ["noise_pred", "floor"]),
        ("failure", ["noise_true", "floor"]),
        ("noise_true", []),
        ("floor", []),
    ],
)
def test_a_shift_has_the_noise_of_its_rule_and_the_floor_for_controls(
    condition: str, wanted: list[str]
) -> None:
    known = ["failure", "floor", "noise_pred", "noise_true", "success_pred", "success_true"]
    controls = layout_of("attribution_shift").controls(condition, known)
    assert [name for name, _ in controls] == wanted


def test_a_star_stands_for_the_situation_of_the_number() -> None:
    layout = Layout(title="", lead="", beside={"*_noise": "noise"})
    known = ["attack", "attack_noise", "trigger", "trigger_noise", "clean"]
    assert layout.controls("trigger", known) == [("trigger_noise", "noise")]
    assert layout.controls("clean", known) == layout.controls("attack_noise", known) == []


def test_conditions_are_said_with_the_class_that_was_asked_for() -> None:
    assert split_rule("success_pred_clean") == ("success", "pred_clean")
    assert split_rule("true") == ("", "true") and split_rule("floor") == ("floor", "")
    shift, prune = layout_of("attribution_shift"), layout_of("prune_curve")
    assert shift.condition_words("success_true") == "attack succeeded, asked for the true class"
    assert prune.condition_words("change_12p5") == "moved most by the trigger first, 12.5 %"
    assert layout_of("adversarial_detection").condition_words("pgd_on_cw_l2") == (
        "learnt from PGD, tested on CW L2"
    )


@pytest.mark.parametrize(
    ("value", "form", "text"),
    [
        (0.123, Form.SHARE, "12.3"),
        (-0.5, Form.SCORE, "−0.50"),
        (-0.001, Form.SCORE, "0.00"),
        (1234.5, Form.PLAIN, "1.23e+03"),
        (float("nan"), Form.PLAIN, "–"),
        (1.0, Form.PASSED, "passed"),
        (1.0, Form.FAILED, "failed"),
        (0.5, Form.PASSED, "passed in 50.0 % of seeds"),
    ],
)
def test_numbers_are_written_by_their_form(value: float, form: Form, text: str) -> None:
    assert shown(value, form) == text
