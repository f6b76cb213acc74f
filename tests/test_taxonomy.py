"""Every box of the survey has a component that is registered and tested, and a place in the report."""

from pathlib import Path

import pytest

from deconfound.attacks import ATTACKS, EXPLANATION_ATTACKS
from deconfound.attributions import ATTRIBUTIONS
from deconfound.defenses import DEFENSES
from deconfound.detectors import DETECTORS
from deconfound.interpretations import INTERPRETATIONS
from deconfound.models import MODELS
from deconfound.poisons import POISONS
from deconfound.report.interpretation.kinds import LAYOUTS
from deconfound.report.interpretation.taxonomy import BOXES

TESTS = Path(__file__).parent
TABLES = (
    *(ATTACKS, EXPLANATION_ATTACKS, ATTRIBUTIONS, DEFENSES, DETECTORS, INTERPRETATIONS, MODELS, POISONS),
)
KINDS = {kind: address for table in TABLES for kind, address in table.items()}
SURVEY = {  # the boxes of the specification's table
    *("F0", "F1", "F2", "A1", "A2", "A3", "D1", "D2", "M0", "M1", "A4", "A5", "D3", "D4", "D5"),
    *("R1", "R2", "R3", "R4"),
}
TEXT = "\n".join(path.read_text(encoding="utf-8") for path in sorted(TESTS.rglob("test_*.py")))


def test_all_boxes_of_the_survey_are_there() -> None:
    assert set(BOXES) == SURVEY


@pytest.mark.parametrize("name", sorted(SURVEY))
def test_a_box_is_stood_for_by_kinds_that_exist_and_that_a_test_imports(name: str) -> None:
    box = BOXES[name]
    assert box.kinds and not [kind for kind in box.kinds if kind not in KINDS]
    untested = [kind for kind in box.kinds if KINDS[kind].partition(":")[0] not in TEXT and kind not in TEXT]
    assert not untested


@pytest.mark.parametrize("name", sorted(SURVEY))
def test_a_box_has_a_question_and_a_place_in_the_report(name: str) -> None:
    box = BOXES[name]
    assert box.question.endswith("?") and box.places


def test_every_interpretation_has_words_for_its_readings() -> None:
    assert set(INTERPRETATIONS) <= set(LAYOUTS)
    assert all(layout.title and layout.lead.endswith(".") for layout in LAYOUTS.values())
