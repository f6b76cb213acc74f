"""do(style) on images whose style is one pixel, and networks that read it, or do not."""

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from truth_cases import SIDE, case_of, images, linear, once_more, read

from deconfound.defenses.style import anchor_basis, content_directions, style_basis
from deconfound.interpretations.case import Case, Truth
from deconfound.interpretations.style import StyleDependence, partners, probe_right, row_space
from deconfound.models.classifier import Classifier
from deconfound.types import Images

NAN = np.nan
LABEL, STYLE = 0, 15  # pixels whose brightness is the label, and the style


def painted(labels: Tensor, styles: Tensor) -> Tensor:
    """Images (N, 1, 4, 4) uint8 on which one pixel says the label and another the style (0 or 1)."""
    named = [
        {divmod(LABEL, SIDE): 60 + 150 * int(y), divmod(STYLE, SIDE): 60 + 150 * int(s)}
        for y, s in zip(labels, styles, strict=True)
    ]
    return images(named, labels.tolist()).x


def reading(pixel: int) -> Classifier:
    """The class is whether a pixel is bright."""
    weight = torch.zeros(2, 16)
    weight[1, pixel], weight[0, pixel] = 10, -10
    shift = 10 * 135 / 255
    return linear(weight, torch.tensor([shift, -shift]))


def restyled(model: Classifier, count: int = 40, **known: Any) -> Case:
    """Style equals the label in three of four images, and nothing under do(style)."""
    y, where = torch.arange(count) % 2, torch.arange(count)
    style = torch.where(where % 8 < 6, y, 1 - y)
    free = (where // 2) % 2
    truth = Truth(style=style, moved=painted(y, free), moved_style=free)
    return case_of(model, Images(painted(y, style), y), truth, **known)


class Wide(nn.Module):
    """Features: four pixels and nothing else."""

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1)[:, [LABEL, 5, STYLE, 10]]


def wide(weight: Tensor) -> Classifier:
    """Logits (2) of the features label, blank, style, blank."""
    head = nn.Linear(4, 2, bias=False)
    with torch.no_grad():
        head.weight.copy_(weight)
    return Classifier(Wide(), head, channels=1).eval()


def test_a_network_that_reads_the_style_follows_it() -> None:
    case = restyled(reading(STYLE))
    found = once_more(StyleDependence(examples=32), case)
    truth, y = case.truth.first(32), case.test.y[:32]
    assert truth.style is not None and truth.moved_style is not None
    differs = (truth.style != truth.moved_style).numpy()
    np.testing.assert_array_equal(read(found, "model.do_style.changed"), np.where(differs, 1.0, NAN))
    apart = (truth.moved_style != y).numpy()
    np.testing.assert_array_equal(read(found, "prediction.do_style.follows_style"), np.where(apart, 1.0, NAN))
    np.testing.assert_array_equal(read(found, "prediction.do_style.follows_label"), np.where(apart, 0.0, NAN))
    assert np.nanmin(read(found, "model.do_style.output_kl")) > 1
    rise = read(found, "model.do_style.style_logit_change")
    np.testing.assert_allclose(rise[differs], 10 * 150 / 255, rtol=1e-5)
    assert (
        read(found, "prediction.do_style.style_by_chance") == 1.0
    )  # two classes: every error is the other one
    assert found.pictures["before"].shape == (6, 1, 4, 4)
    assert (found.pictures["predictions"][:, 0] != found.pictures["predictions"][:, 1]).all()


def test_a_network_that_reads_the_object_does_not_change_its_mind() -> None:
    found = StyleDependence()(restyled(reading(LABEL)))
    for place, value in (("changed", 0.0), ("output_kl", 0.0), ("right_after", 1.0)):
        values = read(found, f"model.do_style.{place}")
        assert set(values[np.isfinite(values)]) == {value}
    assert np.nanmean(read(found, "prediction.original.follows_label")) == 1.0
    assert np.nanmean(read(found, "prediction.original.follows_style")) == 0.0


def test_images_that_do_style_leaves_alone_say_nothing() -> None:
    case = restyled(reading(STYLE))
    same = Truth(style=case.truth.style, moved=case.test.x, moved_style=case.truth.style)
    found = once_more(StyleDependence(), case_of(case.model, case.test, same))
    assert np.isnan(read(found, "model.do_style.changed")).all()
    assert any("do(style) changes no test image" in note for note in found.notes)


def test_the_split_of_the_head_sees_style_move_outside_and_the_label_inside() -> None:
    """The head reads the label's feature and a blank one, so that the style's lies in what the head leaves out."""
    model = wide(torch.tensor([[-1.0, 0.0, 0.0, 0.0], [1.0, 1.0, 0.0, 0.0]]))
    found = once_more(StyleDependence(), restyled(model))
    share = read(found, "head.do_style.style_share")
    np.testing.assert_allclose(share[np.isfinite(share)], 1.0)
    np.testing.assert_allclose(read(found, "head.other_label.style_share"), 0.0, atol=1e-12)
    assert np.isnan(
        read(found, "head.same_label.style_share")
    ).all()  # twins to the pixel: no change to split
    np.testing.assert_allclose(read(found, "head.do_style.above_other_label"), 1.0)
    assert read(found, "head.chance.style_share") == 0.5
    assert read(found, "head.weights.style_share") < 1e-12


def test_a_head_that_reads_the_style_has_it_in_its_content() -> None:
    model = wide(torch.tensor([[-1.0, 0.0, 0.0, 0.0], [0.0, 0.0, 1.0, 0.0]]))
    found = StyleDependence()(restyled(model))
    assert np.nanmax(read(found, "head.do_style.style_share")) < 1e-12


def test_the_basis_of_a_defense_is_held_against_the_truth_as_well() -> None:
    model = wide(torch.tensor([[-1.0, 0.3, 0.0, 0.0], [1.0, 0.0, 0.0, 0.0]]))
    wrong = torch.zeros(4, 4)
    wrong[0, 0] = wrong[3, 3] = 1  # takes the label for style
    found = once_more(StyleDependence(), restyled(model, parts={"basis": wrong}))
    assert np.nanmin(read(found, "defense.other_label.style_share")) > 0.4
    assert read(found, "defense.do_style.above_other_label") < -0.3
    assert read(found, "head.do_style.above_other_label") > 0.9
    assert read(found, "defense.weights.style_share") > 0.9


def test_the_exact_basis_of_causaladv_leaves_the_corrected_class_directions_as_content() -> None:
    rng = torch.Generator().manual_seed(0)
    weight, spread = torch.randn(3, 7, generator=rng), torch.randn(20, 7, generator=rng)
    covariance = spread.T @ spread / 20
    basis = style_basis("exact", anchor_basis(7, rng=rng), weight, covariance)
    style, content = row_space(basis)
    directions = content_directions(weight, covariance).double()
    assert style.shape == (7, 4) and content.shape == (7, 3)
    torch.testing.assert_close(
        content @ content.T, directions @ directions.T, atol=1e-4, rtol=0, check_dtype=False
    )


def test_a_split_without_room_for_one_part_says_so() -> None:
    found = once_more(StyleDependence(), restyled(reading(STYLE), parts={"basis": torch.eye(16)}))
    assert any("defense has no content" in note for note in found.notes)
    assert read(found, "defense.chance.style_share") == 1.0
    assert not [place for place in found.each if place.subject == "defense_content"]


def test_probes_find_the_label_in_content_and_the_style_in_style() -> None:
    model = wide(torch.tensor([[-1.0, 0.0, 0.0, 0.0], [1.0, 1.0, 0.0, 0.0]]))
    found = StyleDependence()(restyled(model, 80))
    rates = {place: float(np.mean(values)) for place, values in found.each.items() if place.metric == "right"}
    assert rates["features", "probe_label", "right"] == rates["features", "probe_style", "right"] == 1.0
    assert rates["head_content", "probe_label", "right"] == 1.0
    assert rates["head_style", "probe_style", "right"] == 1.0
    assert rates["head_content", "probe_style", "right"] < 0.75 > rates["head_style", "probe_label", "right"]
    assert read(found, "features.probe_style.chance") == 0.5


def test_a_probe_is_judged_on_images_that_it_did_not_learn_from() -> None:
    """Labels at random, with as many features as images: known by heart, and worth nothing elsewhere."""
    rng = torch.Generator().manual_seed(0)
    features, target = torch.randn(120, 120, generator=rng), torch.randint(2, (120,), generator=rng)
    right = probe_right(features, target, c=1e3, rng=rng)
    assert right.shape == (120,) and 0.3 < right.mean() < 0.7
    assert np.isnan(probe_right(features, torch.zeros(120).long(), c=1, rng=rng)).all()
    assert np.isnan(probe_right(features[:1], target[:1], c=1, rng=rng)).all()


def test_partners_share_the_style_and_never_are_the_image_itself() -> None:
    rng = torch.Generator().manual_seed(1)
    style, y = torch.randint(3, (50,), generator=rng), torch.randint(4, (50,), generator=rng)
    style[7] = 9  # alone
    for same in (False, True):
        partner = partners(style, y, same_label=same, rng=rng)
        has = partner >= 0
        places = torch.arange(50)
        assert partner[7] == -1 and int(has.sum()) > 40
        assert torch.equal(style[partner[has]], style[has])
        assert torch.equal(y[partner[has]] == y[has], torch.full((int(has.sum()),), same))
        assert not (partner == places).any()


def test_without_do_style_the_images_themselves_are_read_and_without_style_nothing() -> None:
    case = restyled(reading(STYLE))
    found = once_more(StyleDependence(), case_of(case.model, case.test, Truth(style=case.truth.style)))
    assert any("no images under do(style)" in note for note in found.notes)
    assert np.nanmean(read(found, "prediction.original.follows_style")) == 1.0
    assert not [place for place in found.each if place.condition == "do_style"]
    nothing = once_more(StyleDependence(), case_of(case.model, case.test))
    assert not nothing.each and len(nothing.notes) == 1
    unnumbered = once_more(StyleDependence(), case_of(case.model, case.test, Truth(moved=case.truth.moved)))
    assert any("have no numbers" in note for note in unnumbered.notes)
    assert np.nanmean(read(unnumbered, "model.do_style.changed")) == 1.0
