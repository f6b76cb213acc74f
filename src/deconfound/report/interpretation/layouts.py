"""How readings of a kind are shown: words, rows and columns, and what stands beside a number."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from deconfound.report.inputs import Interpretation
from deconfound.report.interpretation.vocabulary import RULES, SUBJECTS, Form, split_rule
from deconfound.report.words import label

Across = Literal["metric", "condition", "reading", "model"]


@dataclass(frozen=True)
class Word:
    """A metric: its name, how it is written, and a sentence that says what it means and which way is better."""

    name: str
    form: Form = Form.PLAIN
    meaning: str = ""


def share(name: str, meaning: str = "") -> Word:
    """A metric in per cent."""
    return Word(name, Form.SHARE, meaning)


def score(name: str, meaning: str = "") -> Word:
    """A metric with two decimals."""
    return Word(name, Form.SCORE, meaning)


@dataclass(frozen=True, kw_only=True)
class Pick:
    """One number that stands for a model: of the readings whose subject, condition and metric match these patterns the
    highest or the lowest.
    """

    subject: str = ".*"
    condition: str = ".*"
    metric: str
    title: str
    note: str = ""
    take: Literal["highest", "lowest"] = "highest"

    def takes(self, row: Interpretation) -> bool:
        """Does the pick ask for this reading?"""
        pairs = ((self.subject, row.subject), (self.condition, row.condition), (self.metric, row.metric))
        return all(re.fullmatch(pattern, name) for pattern, name in pairs)

    def choose(self, rows: Sequence[Interpretation]) -> Interpretation:
        """The one that is shown."""
        return (max if self.take == "highest" else min)(rows, key=lambda row: row.value)


@dataclass(frozen=True, kw_only=True)
class Layout:
    """How readings of a kind are shown.

    lead: what is measured, how to read it, what it does not show. across: what stands in the columns: metrics,
    conditions, readings (a condition with its metric), or models, and then every reading has a row. subjects: what a
    row is about. words: metrics, or where they need it `condition.metric` or `subject.condition.metric`, and
    situations: conditions without their rule, both in the order of the tables. patterns: expressions of conditions,
    with their words, `{0}` for the first group. beside: situations that have no row of their own but stand below each
    number as its control, with their words; `*` in one stands for the situation of the number. headline: the numbers
    in which models are compared; each: for every subject, a row each.
    """

    title: str
    lead: str
    across: Across = "metric"
    subjects: str = "map"
    words: Mapping[str, Word] = field(default_factory=dict)
    situations: Mapping[str, str] = field(default_factory=dict)
    patterns: Mapping[str, str] = field(default_factory=dict)
    beside: Mapping[str, str] = field(default_factory=dict)
    headline: Sequence[Pick] = ()
    each: bool = False
    order: Sequence[str] = tuple(SUBJECTS)

    def word(self, metric: str, condition: str = "", subject: str = "") -> Word:
        """A metric, by its whole place before its name alone; an unknown one by its own name."""
        for name in (f"{subject}.{condition}.{metric}", f"{condition}.{metric}", metric):
            if name in self.words:
                return self.words[name]
        return Word(metric.replace("_", " "))

    def condition_words(self, condition: str) -> str:
        """A condition as prose, with the class that was asked for."""
        if condition in self.situations:
            return self.situations[condition]
        for pattern, words in self.patterns.items():
            if found := re.fullmatch(pattern, condition):
                return words.format(
                    *(
                        part.replace("p", ".") if part[:1].isdigit() else label(part)
                        for part in found.groups()
                    )
                )
        situation, rule = split_rule(condition)
        name = self.situations.get(situation) or (label(situation) if situation else "")
        return ", ".join(part for part in (name, RULES.get(rule, "")) if part)

    def metric_key(self, metric: str) -> tuple[int, str]:
        """Sort key of a metric."""
        return _place(tuple(self.words), metric), metric

    def reading_key(self, condition: str, metric: str, subject: str = "") -> tuple[Any, ...]:
        """Sort key of a reading among those of all subjects: as `words` lists them."""
        names = (f"{subject}.{condition}.{metric}", f"{condition}.{metric}", metric)
        place = min(_place(tuple(self.words), name) for name in names)
        return place, self.subject_key(subject), self.condition_key(condition), metric

    def condition_key(self, condition: str) -> tuple[Any, ...]:
        """Sort key of a condition; numbers in it count as numbers."""
        situation, rule = split_rule(condition)
        known = condition if condition in self.situations else situation
        counted = [
            (part.isdigit(), int(part) if part.isdigit() else part) for part in re.split(r"(\d+)", condition)
        ]
        return _place(tuple(self.situations), known), _place(("true", "hoped", "pred"), rule), counted

    def subject_key(self, subject: str) -> tuple[int, str]:
        """Sort key of a subject."""
        return _place(self.order, subject), subject

    def controls(self, condition: str, conditions: Sequence[str]) -> list[tuple[str, str]]:
        """The controls of a condition among others, each with its words: of the same rule, else of the first one. A
        control has no controls.
        """
        situation, rule = split_rule(condition)
        if any(re.fullmatch(pattern.replace("*", ".+"), situation) for pattern in self.beside):
            return []
        found = []
        for pattern, words in self.beside.items():
            wanted = pattern.replace("*", situation)
            mine = [name for name in conditions if wanted in (name, split_rule(name)[0])]
            mine.sort(key=lambda name: (split_rule(name)[1] != rule, self.condition_key(name)))
            found += [(mine[0], words)] if mine else []
        return found


def fallback(kind: str) -> Layout:
    """For a kind without words of its own."""
    return Layout(title=label(kind), lead="", subjects="subject")


def _place(names: Sequence[str], name: str) -> int:
    return names.index(name) if name in names else len(names)
