"""DER, RIR and the worst class's drop: hand-computed, and on evaluations written by hand."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deconfound.claims import judge
from deconfound.effectiveness import (
    defense_effectiveness,
    robustness_improvement,
    with_effectiveness,
    worst_class_drop,
)
from deconfound.ledger import Ledger
from deconfound.results import Results, load
from deconfound.runs import Run
from experiments import entry, evaluation, hits

share = st.floats(0, 1)
CONTROLS = {("d", "bad", "m", "a"): "b", ("d", "bad", "m", "b"): "b", ("d", "clean", "m", "a"): "b"}


@given(share, share)
def test_a_defense_that_changes_nothing_has_one_half(asr: float, accuracy: float) -> None:
    assert defense_effectiveness((asr, asr), (accuracy, accuracy)) == 0.5
    assert robustness_improvement((asr, asr), (accuracy, accuracy)) == 0.5


@given(share, share)
def test_a_perfect_defense_misses_one_by_half_of_what_the_attack_lacked(asr: float, accuracy: float) -> None:
    found = defense_effectiveness((asr, 0.0), (accuracy, accuracy))
    assert found == pytest.approx(1.0 - 0.5 * (1 - asr))


@given(share, share, share, share, st.floats(0.01, 1))
def test_lost_accuracy_lowers_both_and_gained_accuracy_raises_neither(
    before: float, after: float, clean: float, rest: float, loss: float
) -> None:
    for formula in (defense_effectiveness, robustness_improvement):
        kept = formula((before, after), (clean, clean))
        assert formula((before, after), (clean, clean - loss)) == pytest.approx(kept - loss / 2)
        assert formula((before, after), (clean, clean + rest)) == kept
        assert 0 <= formula((before, after), (clean, rest)) <= 1


def test_the_numbers_of_an_example_worked_by_hand() -> None:
    # ASR 0.9 -> 0.1, CA 0.8 -> 0.7: (0.8 - 0.1 + 1) / 2
    assert defense_effectiveness((0.9, 0.1), (0.8, 0.7)) == pytest.approx(0.85)
    # R-Acc 0.05 -> 0.65: (0.6 - 0.1 + 1) / 2
    assert robustness_improvement((0.05, 0.65), (0.8, 0.7)) == pytest.approx(0.75)
    # an attack that rises, true classes that fall: as if nothing had changed
    assert (
        defense_effectiveness((0.2, 0.6), (0.8, 0.8)) == robustness_improvement((0.6, 0.2), (0.8, 0.8)) == 0.5
    )


def test_the_worst_class_is_the_one_that_falls_furthest() -> None:
    labels = np.array([0, 0, 1, 1, 1, 1])
    # class 0: 2/2 -> 1/2, class 1: 4/4 -> 1/4
    assert worst_class_drop(hits("111111"), hits("101000"), labels) == 0.75
    assert worst_class_drop(hits("000000"), hits("101000"), labels) == -0.25  # every class gained
    assert worst_class_drop(hits("110000"), hits("110000"), labels) == 0.0


def poisoned(
    folder: Path, name: str, seed: int, clean: str, asr: str, right: str, poison: str = "bad"
) -> Path:
    entries = [entry("clean_accuracy", "none", clean), entry("clean_accuracy", "other_style", "0000")]
    if poison != "clean":
        entries += [
            entry("asr", poison, asr, "triggered"),
            entry("triggered_accuracy", poison, right, "triggered"),
        ]
    entries.append(entry("robust_accuracy", "pgd", "1111", norm="linf", eps=0.1, curve="eps"))
    return evaluation(folder, f"d/{poison}/m/{name}/{seed}", entries, test=[0, 0, 1, 1], measures={"x": 1.0})


def made(folder: Path) -> Results:
    """Two seeds; the control b of seed 0 has ASR 4/4, of seed 1 2/4."""
    return load(
        [
            poisoned(folder, "a", 0, "1110", "0000", "1100"),
            poisoned(folder, "b", 0, "1111", "1111", "0000"),
            poisoned(folder, "a", 1, "1111", "1000", "0111"),
            poisoned(folder, "b", 1, "1111", "1100", "0011"),
            poisoned(folder, "a", 0, "1100", "", "", poison="clean"),
            poisoned(folder, "b", 0, "1110", "", "", poison="clean"),
            poisoned(folder, "a", 2, "1111", "0000", "1111"),  # its control was not run
        ]
    )


def test_every_run_is_compared_with_its_control_of_the_same_seed(tmp_path: Path) -> None:
    found = with_effectiveness(made(tmp_path), CONTROLS).measures
    # seed 0: (1 - 0 - (1 - 0.75) + 1) / 2 and (0.5 - 0.25 + 1) / 2; class 1 falls from 2/2 to 1/2
    assert found[Run("d", "bad", "m", "a", 0)] == {
        "x": 1.0,
        "der": 0.875,
        "rir": 0.625,
        "worst_class_drop": 0.5,
        "undefended_asr": 1.0,
    }
    # seed 1: (0.5 - 0.25 + 1) / 2 and (0.75 - 0.5 + 1) / 2
    assert found[Run("d", "bad", "m", "a", 1)] == {
        "x": 1.0,
        "der": 0.625,
        "rir": 0.625,
        "worst_class_drop": 0.0,
        "undefended_asr": 0.5,
    }


def test_a_control_a_lone_run_and_clean_data_have_only_what_can_be_said_of_them(tmp_path: Path) -> None:
    results = made(tmp_path)
    found = with_effectiveness(results, CONTROLS).measures
    for seed, asr in ((0, 1.0), (1, 0.5)):  # of a control its own
        assert found[Run("d", "bad", "m", "b", seed)] == {"x": 1.0, "undefended_asr": asr}
    assert found[Run("d", "bad", "m", "a", 2)] == {"x": 1.0}
    assert found[Run("d", "clean", "m", "a", 0)] == {"x": 1.0, "worst_class_drop": 0.5}
    assert with_effectiveness(results, {}) == results


def test_a_shorter_evaluation_is_compared_on_the_examples_that_both_have(tmp_path: Path) -> None:
    short = [entry("clean_accuracy", "none", "10"), entry("asr", "bad", "01", "triggered")]
    whole = [entry("clean_accuracy", "none", "1100"), entry("asr", "bad", "1100", "triggered")]
    paths = [
        evaluation(tmp_path, "d/bad/m/a/0", short, test=[0, 1]),
        evaluation(tmp_path, "d/bad/m/b/0", whole, test=[0, 1, 0, 1]),
    ]
    found = with_effectiveness(load(paths), CONTROLS).measures[Run("d", "bad", "m", "a", 0)]
    assert found == {"der": (0.5 - 0.5 + 1) / 2, "worst_class_drop": 1.0, "undefended_asr": 0.5}


def test_a_ledger_can_claim_an_effectiveness(tmp_path: Path) -> None:
    claim = {
        "id": "one",
        "statement": "A helps.",
        "metric": "der",
        "treatment": {"defense": "a", "poison": "any"},
        "direction": "above",
        "margin": 0.7,
    }
    ledger = Ledger.model_validate({"paper": "P", "title": "T", "source": "S", "claims": [claim]})
    (row,) = judge([ledger], with_effectiveness(made(tmp_path), CONTROLS)).to_dict("records")
    assert (row["effect"], row["seeds"], row["verdict"]) == (0.75, 2, "inconclusive")
