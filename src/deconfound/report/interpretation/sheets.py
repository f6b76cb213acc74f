"""What the sheets of pictures of all kinds share: their names, and the marks of maps that failed a check."""

from collections.abc import Mapping

from deconfound.report.charts import stem
from deconfound.report.interpretation.files import Array, Interpreted
from deconfound.report.interpretation.strips import by_start
from deconfound.report.interpretation.vocabulary import subject_key, subject_words
from deconfound.report.names import DAGGER
from deconfound.report.words import label, setting_label

Arrays = Mapping[str, Array]
Marks = Mapping[tuple[str, str], str]


def begin(one: Interpreted, name: str, *more: str) -> tuple[str, str]:
    """Name of the file of a sheet, and the start of its title."""
    title = f"{setting_label(one.setting)} · {label(one.defense)}"
    return stem(one.kind(name), one.setting, one.defense, name, *more), title


def method(one: Interpreted, subject: str, marks: Marks) -> tuple[str, str]:
    """Name of a map, with a dagger where it failed a check; and the sentence that says so."""
    why = marks.get((one.group, subject), "")
    return subject_words(subject) + f" {DAGGER}" * bool(why), f" {DAGGER} {why}." if why else ""


def methods(arrays: Arrays, start: str) -> list[str]:
    """Names of the maps among arrays such as `map.saliency.clean`."""
    return sorted({key.split(".")[0] for key in by_start(arrays, start)}, key=subject_key)
