"""Figures: one colour per defense, outlines for text, ids that do not collide on a page."""

import re
from pathlib import Path

import numpy as np
from synthetic_experiment import Experiment

from deconfound.report.document import order_of
from deconfound.report.figures import draw
from deconfound.report.html import inline
from deconfound.report.inputs import read
from deconfound.report.pictures import COLUMNS, enlarge, magnification, upright, varied
from deconfound.report.plotting import Palette
from deconfound.report.words import Order


def test_a_defense_keeps_its_colour_and_marker_when_others_come_and_go() -> None:
    palette = Palette.of(["trades", "standard", "cbd", "trades"], Order({}))
    assert palette.names == ["standard", "cbd", "trades"]
    drawn = [(palette.colour(name), palette.marker(name)) for name in palette.names]
    assert len(set(drawn)) == 3
    assert palette.colour("standard") == "#7b818a"


def test_text_is_outlines_and_no_figure_names_a_date_or_a_font(experiment: Experiment) -> None:
    arguments = experiment.arguments()
    figures = draw(
        read(arguments["tables"], arguments["runs"]),
        order_of(arguments["experiment"]),
        adversarial=arguments["adversarial"],
        poisoned=arguments["poisoned"],
        clean=arguments["clean"],
    )
    assert {figure.section for figure in figures} == {
        *("verdicts", "evasion", "properties", "backdoor", "curves", "classes", "examples", "histories")
    }
    assert len({figure.name for figure in figures}) == len(figures)
    for figure in figures:
        assert figure.svg.startswith("<svg") and figure.caption and figure.alt
        assert not re.search(r"<text|<metadata|font-family|20\d\d-\d\d", figure.svg)


def test_two_drawings_on_a_page_share_no_id() -> None:
    svg = (
        '<svg width="1pt" height="1pt" viewBox="0 0 10 10"><g id="a"/><g id="unused"/><use xlink:href="#a"/>'
        '<g clip-path="url(#a)"/></svg>'
    )
    made = inline(svg, "one", 'alt "words" <b>')
    assert 'id="one-a"' in made and 'xlink:href="#one-a"' in made and "url(#one-a)" in made
    assert "unused" not in made
    assert 'aria-label="alt &#34;words&#34; &lt;b&gt;"' in made
    assert "width=" not in made.replace("max-width", "")


def test_examples_are_the_first_of_each_class_before_any_second() -> None:
    y = np.array([0, 0, 0, 1, 0, 2, 1, 0])
    allowed = np.array([True, True, True, True, True, True, True, False])
    assert varied(y, allowed).tolist() == [0, 1, 2, 3, 5, 6]
    assert len(varied(np.arange(43), np.ones(43, dtype=bool))) == COLUMNS
    assert varied(np.zeros(0, dtype=np.int64), np.zeros(0, dtype=bool)).tolist() == []


def test_images_keep_their_values_and_small_ones_are_enlarged_without_blur() -> None:
    image = np.array([[[0, 255], [51, 102]]], dtype=np.uint8)
    assert upright(image)[..., 0].tolist() == [[0.0, 1.0], [0.2, 0.4]]
    assert upright(image).shape == (2, 2, 3)
    large = enlarge(upright(image))
    assert large.shape == (96, 96, 3)
    assert np.array_equal(large[::48, ::48, 0], image[0])
    assert (large[:48, :48] == 0).all()


def test_the_largest_change_reaches_the_end_of_the_scale() -> None:
    assert magnification([np.array([0.1, -0.25])]) == 2.0
    assert magnification([np.zeros(3)]) == 1.0
    assert magnification([]) == 1.0


def test_an_experiment_without_images_draws_none(tmp_path: Path) -> None:
    arguments = Experiment(tmp_path).arguments()
    assert draw(read(arguments["tables"], []), Order({})) == []
