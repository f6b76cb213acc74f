"""Readers of a built report: the page as text, rows and links, and the tables of its document."""

import re
from collections.abc import Iterator
from html.parser import HTMLParser
from typing import Any

from synthetic_experiment import Experiment

from deconfound.report.document import assemble


class Page(HTMLParser):
    """Text, table rows, elements and addresses of a page; text of scripts, styles and drawings left out."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.words: list[str] = []
        self.rows: list[list[str]] = []
        self.loads: list[str] = []
        self.links: list[str] = []
        self.ids: list[str] = []
        self.tags: set[str] = set()
        self._skip = 0
        self._cell = False
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        known = {name: value or "" for name, value in attrs}
        self.tags.add(tag)
        self._skip += tag in ("script", "style", "svg")
        if "id" in known:
            self.ids.append(known["id"])
        if tag == "a":
            self.links.append(known["href"])
        else:
            self.loads += [known[n] for n in ("src", "href", "xlink:href", "data", "poster") if n in known]
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")
            self._cell = True

    def handle_endtag(self, tag: str) -> None:
        self._skip -= tag in ("script", "style", "svg")
        self._cell = self._cell and tag not in ("td", "th")

    def handle_data(self, data: str) -> None:
        if not self._skip:
            self.words.append(data)
            if self._cell:
                self.rows[-1][-1] += data


def squeezed(text: str) -> str:
    """Text without white space and zero-width spaces, ligatures taken apart."""
    plain = text.replace("ﬁ", "fi").replace("ﬂ", "fl").replace("ﬀ", "ff").replace("ﬃ", "ffi")
    return re.sub(r"[\s\u200b]+", "", plain)


def tables_of(value: Any) -> Iterator[dict[str, Any]]:
    """Every table anywhere in a document."""
    if isinstance(value, dict):
        if value.get("kind") == "table":
            yield value
        for part in value.values():
            yield from tables_of(part)
    elif isinstance(value, list):
        for part in value:
            yield from tables_of(part)


def words_of(cell: dict[str, Any]) -> str:
    """All text of a cell, squeezed, in the order in which it is drawn."""
    return squeezed("".join(cell.get(part, "") for part in ("text", "mark", "note", "rank")))


def section(document: dict[str, Any], name: str) -> dict[str, Any]:
    found: dict[str, Any] = next(part for part in document["sections"] if part["id"] == name)
    return found


def table(document: dict[str, Any], name: str, caption: str) -> dict[str, Any]:
    blocks = section(document, name)["blocks"]
    found: dict[str, Any] = next(
        b for b in blocks if b["kind"] == "table" and b["caption"].startswith(caption)
    )
    return found


def cells(found: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """(row with its note, column, cell) of every number of a table."""
    for row in found["rows"]:
        for column, cell in zip(found["columns"][1:], row[1:], strict=True):
            yield f"{row[0]['text']} {row[0].get('note', '')}", column["text"], cell


def notes(found: dict[str, Any]) -> dict[str, str]:
    return {note["mark"]: note["text"] for note in found["notes"]}


def report_of(made: Experiment) -> dict[str, Any]:
    """The document of an experiment, without its figures."""
    arguments = made.arguments()
    return assemble(arguments["tables"], arguments["runs"], arguments["experiment"])
