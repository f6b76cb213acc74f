"""The page about estimates of mutual information: words, numbers, drawings, and the same bytes each time."""

import copy
from pathlib import Path
from typing import Any

import pytest
from pages import Page, squeezed

from deconfound.calibration import interactions
from deconfound.report.calibration import bounded, estimates, nats, page, residuals, verdict

TRUTHS = (0.0, 1.0, 4.0)


def row(truth: float, estimate: float | None, *, usable: bool) -> dict[str, Any]:
    if estimate is None:
        return {"truth": truth, "usable": False} | dict.fromkeys(
            ("estimate", "low", "high", "bias", "sd", "seeds")
        )
    found = {"estimate": estimate, "low": estimate - 0.02, "high": estimate + 0.02, "bias": estimate - truth}
    return found | {"truth": truth, "sd": 0.25, "seeds": [estimate, estimate], "usable": usable}


def bound(name: str, values: tuple[float | None, ...], usable: int, shape: str) -> dict[str, Any]:
    levels = [
        row(truth, v, usable=i < usable) for i, (truth, v) in enumerate(zip(TRUTHS, values, strict=True))
    ]
    reach = TRUTHS[usable - 1] if usable else None
    return {"name": name, "levels": levels, "usable_to": reach, "slope": 0.31, "shape": shape}


@pytest.fixture
def found() -> dict[str, Any]:
    """A calibration with a bound of every kind."""
    spec = {"dimension": 2, "levels": list(TRUTHS), "batch_size": 64, "steps": 600, "hidden": 32, "lr": 0.01}
    spec |= {"seeds": 4, "batches": 100, "seed": 0, "tolerance": 0.1}
    bounds = [
        bound("info_nce", (0.0, 0.97, 3.87), 2, "saturates"),
        bound("donsker_varadhan", (0.01, 0.96, 3.95), 3, "follows"),
        bound("jensen_shannon", (0.0, 0.7, -12.5), 1, "unstable"),
        bound("row_donsker_varadhan", (0.2, 1.51, None), 0, "diverges"),
        bound("namid_released", (0.0, 1.04, 74321.5), 2, "diverges"),
    ]
    return {"spec": spec, "capacity": 4.158883, "bounds": bounds, "decomposition": interactions()}


def read(found: dict[str, Any], out: Path) -> Page:
    page(found, out)
    return Page((out / "calibration.html").read_text(encoding="utf-8"))


def test_the_page_shows_every_number_of_every_bound(found: dict[str, Any], tmp_path: Path) -> None:
    rows = {squeezed(cells[0]): cells for cells in read(found, tmp_path).rows if cells}
    first = [squeezed(cell) for cell in rows["InfoNCE"]]
    assert first == [
        "InfoNCE",
        "0.00−0.02to0.02bias0.00sd0.25",
        "0.970.95to0.99bias−0.03sd0.25",
        "3.873.85to3.89bias−0.13sd0.25",
    ]
    assert squeezed(rows["row-wise"][3]) == "notfinite"
    assert squeezed(rows["NAMID,released"][3]).startswith("74322")  # rounds half to even: 74321.5


def test_every_bound_has_a_verdict_and_zero_nats_are_no_reach(found: dict[str, Any], tmp_path: Path) -> None:
    reach = [verdict(item)["usable"] for item in found["bounds"]]
    none = "not usable at any level above zero"
    assert reach == ["usable up to 1 nat", "usable up to 4 nats", none, none, "usable up to 1 nat"]
    text = squeezed(" ".join(read(found, tmp_path).words))
    for words in (*reach, "saturates", "follows the truth", "unstable", "diverges"):
        assert squeezed(words) in text


def test_levels_within_the_tolerance_are_marked_and_no_others(found: dict[str, Any], tmp_path: Path) -> None:
    page(found, tmp_path)
    text = (tmp_path / "calibration.html").read_text(encoding="utf-8")
    assert text.count('<td class="within">') == 2 + 3 + 1 + 0 + 2


def test_the_words_about_namid_follow_the_measurement(found: dict[str, Any], tmp_path: Path) -> None:
    diverging = squeezed(" ".join(read(found, tmp_path).words))
    assert (
        squeezed("a score, not nats") in diverging
        and squeezed("at 4 true nats it reports 74322") in diverging
    )
    assert squeezed("= −0.0157 instead of zero") in diverging  # -log(64 / 63)
    assert squeezed("multiplying all scores by ten") in diverging
    tame = copy.deepcopy(found)
    tame["bounds"][-1] = bound("namid_released", (0.0, 1.0, 4.0), 3, "follows")
    followed = squeezed(" ".join(read(tame, tmp_path).words))
    assert squeezed("multiplying all scores by ten") not in followed
    tame["bounds"].pop()
    assert squeezed("a score, not nats") not in squeezed(" ".join(read(tame, tmp_path).words))


def test_the_page_is_the_same_each_time_and_stands_alone(found: dict[str, Any], tmp_path: Path) -> None:
    first = read(found, tmp_path / "a")
    assert [place for place in first.loads if not place.startswith("#")] == ["data:,"]
    assert first.links == ["../robustness.html"]
    read(found, tmp_path / "b")
    assert (tmp_path / "a/calibration.html").read_bytes() == (tmp_path / "b/calibration.html").read_bytes()
    assert len(first.ids) == len(set(first.ids)) and "script" not in first.tags
    other = copy.deepcopy(found)
    other["bounds"][0]["levels"][1]["estimate"] = 0.5
    read(other, tmp_path / "b")
    assert (tmp_path / "a/calibration.html").read_bytes() != (tmp_path / "b/calibration.html").read_bytes()


def test_the_decomposition_stands_as_a_row_per_family(found: dict[str, Any], tmp_path: Path) -> None:
    rows = [
        cells
        for cells in read(found, tmp_path).rows
        if cells and cells[0].startswith(("synergy", "coupling"))
    ]
    assert [cells[1:] for cells in rows] == [
        ["0.00", "+0.14", "+0.28", "+0.42", "+0.55", "+0.69"],
        ["0.00", "−0.02", "−0.08", "−0.19", "−0.37", "−0.69"],
    ]


def test_values_beyond_the_figure_are_drawn_at_its_edge(found: dict[str, Any]) -> None:
    assert bounded(3.0, 10) == 3.0 and bounded(1e9, 10) == 10.3 and bounded(-1e9, 10) == -0.5
    drawn = estimates(found)
    assert drawn.svg == estimates(found).svg and "drawn at the upper edge" in drawn.caption
    wild = copy.deepcopy(found)
    wild["bounds"][-1]["levels"][-1] |= {"estimate": 1e12, "low": 1e11, "high": 1e13}
    assert estimates(wild).svg == drawn.svg  # already at the edge
    assert residuals(found["decomposition"]).svg != drawn.svg


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, "–"), (0.0, "0.00"), (-0.001, "0.00"), (-1.234, "−1.23"), (99.994, "99.99"), (1234.4, "1234")],
)
def test_a_number_of_nats_is_written_with_two_decimals_until_it_is_large(
    value: float | None, text: str
) -> None:
    assert nats(value) == text
    assert nats(1.0, sign=True) == "+1.00"
