"""From a name to an object: a table maps a kind to `package.module:Class`, resolved when asked.

A job imports only its own method, and a dotted name in a config loads a method from outside the project.
"""

import difflib
import importlib
from collections.abc import Iterable, Mapping
from typing import Any

from pydantic import TypeAdapter, ValidationError

from deconfound.errors import ConfigError

Table = Mapping[str, str]


def nearest(name: object, known: Iterable[str]) -> str:
    """`; did you mean 'x'?` when something close is known, and the choices when they are few."""
    options = sorted(known)
    close = difflib.get_close_matches(str(name), options, n=1, cutoff=0.5)
    hint = f"; did you mean {close[0]!r}?" if close else ""
    return hint + (f" (known: {', '.join(options)})" if len(options) <= 30 else "")


def target(table: Table, kind: object, *, at: str) -> str:
    """`package.module:Class` of a kind; a kind that has a colon is its own address."""
    if isinstance(kind, str) and kind in table:
        return table[kind]
    if isinstance(kind, str) and ":" in kind:
        return kind
    raise ConfigError(f"{at}: expected a known kind or 'module:Class', got {kind!r}{nearest(kind, table)}")


def resolve(table: Table, kind: object, *, at: str) -> type[Any]:
    """Import the class of a kind."""
    module, _, name = target(table, kind, at=at).partition(":")
    try:
        found = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise ConfigError(f"{at}: cannot load {module}:{name}: {error}") from error
    assert isinstance(found, type)
    return found


def build(table: Table, block: Mapping[str, Any], *, at: str) -> Any:
    """Make the object that a block {kind: ..., parameter: value} describes; `at` is its dotted place."""
    parameters = {key: value for key, value in block.items() if key != "kind"}
    cls = resolve(table, block.get("kind"), at=f"{at}.kind")
    try:
        return TypeAdapter(cls).validate_python(parameters)
    except ValidationError as error:
        raise ConfigError("\n".join(explain(error, at=at, names=field_names(cls)))) from None


def field_names(cls: type[Any]) -> list[str]:
    """Names of the fields of a pydantic class."""
    fields = getattr(cls, "__pydantic_fields__", None) or getattr(cls, "model_fields", {})
    return list(fields)


def explain(error: ValidationError, *, at: str, names: Iterable[str] = ()) -> list[str]:
    """One line per fault: dotted key, what was expected, what was found, the nearest valid name."""
    lines = []
    for fault in error.errors(include_url=False):
        place = ".".join([at, *map(str, fault["loc"])] if at else list(map(str, fault["loc"])))
        if fault["type"] in ("extra_forbidden", "unexpected_keyword_argument"):
            key = fault["loc"][-1]
            lines.append(f"{place}: unknown key{nearest(key, names)}")
        elif fault["type"] in ("missing", "missing_argument", "missing_keyword_only_argument"):
            lines.append(f"{place}: required key is missing")
        else:
            message = fault["msg"].removeprefix("Value error, ")
            got = "" if "got " in message else f", got {fault['input']!r}"
            lines.append(f"{place}: {message[0].lower() + message[1:]}{got}")
    return lines
