"""Reading an experiment: the only reader of YAML.

Everything is checked before the first job. A fault is one line: file, dotted key, expected, got, nearest valid name.
"""

import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from deconfound.checks import check
from deconfound.errors import ConfigError
from deconfound.experiment import TABLES, Block, Experiment, make
from deconfound.registry import explain


def read(path: Path, overrides: Mapping[str, Any] | None = None) -> Experiment:
    """The experiment in a YAML file, with `overrides` laid over its keys, checked to the last value.

    Raises ConfigError: one line per fault, each beginning with the file's name.
    """
    if (
        os.getcwd() not in sys.path
    ):  # where a method of one's own may lie; `python -m` puts it there by itself
        sys.path.insert(0, os.getcwd())
    return parse(_merged(load_yaml(path), overrides or {}), source=str(path))


def load_yaml(path: Path) -> dict[str, Any]:
    """A YAML mapping without repeated keys; raises ConfigError that names the file."""
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), Loader=_UniqueKeys)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from None
    except (yaml.YAMLError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise ConfigError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(content, dict):
        raise ConfigError(f"{path}: expected a mapping of keys to values, got {type(content).__name__}")
    return content


def parse(content: Mapping[str, Any], *, source: str) -> Experiment:
    """The experiment in a mapping; see `read`."""
    try:
        experiment = Experiment.model_validate(dict(content))
    except ValidationError as error:
        raise ConfigError(_located(source, explain(error, at="", root=Experiment))) from None
    faults: list[str] = []
    for kind, blocks in _blocks(experiment).items():
        for name, block in blocks.items():
            faults += _faults(lambda kind=kind, name=name, block=block: make(kind, name, block))  # type: ignore[misc]
    faults += check(experiment, parts_are_valid=not faults)
    if faults:
        raise ConfigError(_located(source, faults))
    return experiment


def _blocks(experiment: Experiment) -> dict[str, dict[str, Block]]:
    return {kind: getattr(experiment, kind) for kind in (*TABLES, "recipes")}


def _faults(call: Callable[[], Any]) -> list[str]:
    try:
        call()
    except ConfigError as error:
        return str(error).splitlines()
    return []


def _located(source: str, faults: list[str]) -> str:
    return "\n".join(f"{source}: {fault}" for fault in faults)


def _merged(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """`over` laid over `base`, key by key down the mappings."""
    result = dict(base)
    for key, value in over.items():
        old = result.get(key)
        result[key] = _merged(old, value) if isinstance(old, dict) and isinstance(value, dict) else value
    return result


class _UniqueKeys(yaml.SafeLoader):
    """PyYAML keeps the last of two equal keys in silence; here that is an error."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key_node, _ in node.value:
            if key_node.tag == "tag:yaml.org,2002:merge":
                continue
            key = self.construct_object(key_node, deep=True)
            if key in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key!r} stands twice", key_node.start_mark
                )
            seen.add(key)
        return super().construct_mapping(node, deep)
