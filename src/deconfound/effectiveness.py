"""What a defense against a backdoor gains over its control, as numbers of each run.

DER (defense effectiveness rating) and RIR (robustness improvement rating) are those of BackdoorBench (Wu et al., 2022)
for single numbers. Its forms for arrays add the term of clean accuracy instead of subtracting it: not followed.
"""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from deconfound.results import Bools, Results, Row
from deconfound.runs import Run

Rows = Mapping[str, Row]  # the rows of one run by metric


def defense_effectiveness(asr: tuple[float, float], accuracy: tuple[float, float]) -> float:
    """DER in [0, 1] from (control, defense) pairs of shares: 0.5 nothing changed, 1 a perfect attack was undone at no
    cost; what would count against it besides a loss of accuracy, a rise of the attack, counts as nothing changed.
    """
    return (max(0.0, asr[0] - asr[1]) - max(0.0, accuracy[0] - accuracy[1]) + 1) / 2


def robustness_improvement(triggered: tuple[float, float], accuracy: tuple[float, float]) -> float:
    """RIR in [0, 1], the same with a rise of triggered accuracy in place of a fall of the attack."""
    return (max(0.0, triggered[1] - triggered[0]) - max(0.0, accuracy[0] - accuracy[1]) + 1) / 2


def worst_class_drop(control: Bools, defense: Bools, labels: NDArray[np.int64]) -> float:
    """Largest fall of accuracy in a class, from hits (N,) on the same examples of true labels (N,); below 0 where every
    class gained.
    """
    falls = control.astype(float) - defense.astype(float)
    return max(float(falls[labels == label].mean()) for label in np.unique(labels))


def with_effectiveness(results: Results, controls: Mapping[tuple[str, ...], str]) -> Results:
    """The same with `der`, `rir` (of poisoned runs) and `worst_class_drop` among the measures of every run that has
    its control beside it, trained on the same data with the same seed; `controls` maps a cell to the name of its
    control. `undefended_asr` is the ASR of that control, and of the control itself its own: whether there was
    anything to remove.
    """
    by_run: dict[Run, dict[str, Row]] = {}
    for row in results.rows:
        if not row.key.curve and row.key.attack in ("none", row.run.poison):
            by_run.setdefault(row.run, {})[row.key.metric] = row
    measures = dict(results.measures)
    for run, own in by_run.items():
        name = controls.get((run.dataset, run.poison, run.model, run.defense))
        other = by_run.get(run.with_(defense=name)) if name else None
        found = _gains(other, own) if name != run.defense and other is not None else {}
        if other is not None and "asr" in other:
            found["undefended_asr"] = float(other["asr"].hits.mean())
        if found:
            measures[run] = {**measures.get(run, {}), **found}
    return replace(results, measures=measures)


def _gains(control: Rows, own: Rows) -> dict[str, float]:
    found: dict[str, float] = {}
    accuracy = _pair("clean_accuracy", control, own)
    if accuracy is None:
        return found
    before, after = accuracy
    labels = own["clean_accuracy"].labels[: len(after)]
    found["worst_class_drop"] = worst_class_drop(before, after, labels)
    clean = float(before.mean()), float(after.mean())
    for name, metric, formula in (
        ("der", "asr", defense_effectiveness),
        ("rir", "triggered_accuracy", robustness_improvement),
    ):
        if (pair := _pair(metric, control, own)) is not None:
            found[name] = formula((float(pair[0].mean()), float(pair[1].mean())), clean)
    return found


def _pair(metric: str, control: Rows, own: Rows) -> tuple[Bools, Bools] | None:
    """Hits of both sides on the examples that both have (a shorter evaluation is a prefix of a longer one); None
    without any.
    """
    if metric not in control or metric not in own:
        return None
    before, after = control[metric].hits, own[metric].hits
    count = min(len(before), len(after))
    return (before[:count], after[:count]) if count else None
