"""From a name to an object: a table maps a kind to `package.module:Class`, resolved when asked.

A job imports only its own method, and a dotted name in a config loads a method from outside the project.
"""

import difflib
import importlib
from collections.abc import Iterable, Mapping
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import TypeAdapter, ValidationError

from deconfound.errors import ConfigError

Table = Mapping[str, str]


def nearest(name: object, known: Iterable[str]) -> str:
    """`; did you mean 'x'?` when something close is known, and the choices when they are few."""
    options = sorted(known)
    close = difflib.get_close_matches(str(name), options, n=5, cutoff=0.5)
    close.sort(key=lambda option: sorted(option) != sorted(str(name)))  # swapped letters before others
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
    except (ImportError, AttributeError, ValueError, TypeError, SyntaxError) as error:
        raise ConfigError(f"{at}: cannot load {module}:{name}: {error}") from error
    if not isinstance(found, type) or not _is_pydantic(found):
        raise ConfigError(f"{at}: expected a class made with @hyperparameters, got {module}:{name}")
    return found


def _is_pydantic(cls: type[Any]) -> bool:
    return hasattr(cls, "__pydantic_fields__")


def build(table: Table, block: Mapping[str, Any], *, at: str) -> Any:
    """Make the object that a block {kind: ..., parameter: value} describes; `at` is its dotted place."""
    parameters = {key: value for key, value in block.items() if key != "kind"}
    cls = resolve(table, block.get("kind"), at=f"{at}.kind")
    try:
        return TypeAdapter(cls).validate_python(parameters)
    except ValidationError as error:
        raise ConfigError("\n".join(explain(error, at=at, root=cls))) from None


def field_names(cls: Any) -> list[str]:
    """Names of the fields of a pydantic class; none for anything else."""
    return list(_fields(cls))


def keys_at(cls: Any, place: Iterable[str | int]) -> list[str]:
    """Names of the fields that are known at a place inside a pydantic class, such as ("studies", "a", "curves", 0)."""
    kind = cls
    for step in place:
        kind = _inside(kind, step)
    return field_names(kind)


def _fields(cls: Any) -> Mapping[str, Any]:
    found: Mapping[str, Any] = getattr(cls, "__pydantic_fields__", {})
    return found


def _inside(kind: Any, step: str | int) -> Any:
    """The type of a field, or of the values of a mapping or a list; of a union, the part that has fields."""
    found = _fields(kind)[str(step)].annotation if str(step) in _fields(kind) else kind
    while get_args(found) and not _fields(found):
        parts = [part for part in get_args(found) if part is not type(None)]
        if get_origin(found) is Annotated:
            found = parts[0]
        elif get_origin(found) in (Union, UnionType):
            found = next((part for part in parts if _fields(part)), parts[0])
        elif found is kind:
            return parts[-1] if get_origin(found) is not tuple else parts[0]
        else:
            return found
    return found


def explain(error: ValidationError, *, at: str, root: Any) -> list[str]:
    """One line per fault: dotted key, what was expected, what was found, the nearest valid name.

    root: the pydantic class that was validated.
    """
    lines = []
    for fault in error.errors(include_url=False):
        place = ".".join([at, *map(str, fault["loc"])] if at else list(map(str, fault["loc"])))
        if fault["type"] in ("extra_forbidden", "unexpected_keyword_argument"):
            known = keys_at(root, fault["loc"][:-1])
            lines.append(f"{place}: unknown key{nearest(fault['loc'][-1], known)}")
        elif fault["type"] in ("missing", "missing_argument", "missing_keyword_only_argument"):
            lines.append(f"{place}: required key is missing")
        else:
            message = fault["msg"].removeprefix("Value error, ")
            got = "" if "got " in message else f", got {fault['input']!r}"
            lines.append(f"{place}: {message[0].lower() + message[1:]}{got}")
    return lines
