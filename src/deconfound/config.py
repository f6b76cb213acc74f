"""Reading an experiment.

Everything is checked before the first job. A fault is one line: file, dotted key, expected, got, nearest valid name.
"""

import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from deconfound.checks import check
from deconfound.errors import ConfigError
from deconfound.experiment import TABLES, Block, Experiment, make
from deconfound.registry import explain
from deconfound.yaml_files import load_yaml


def read(path: Path, overrides: Mapping[str, Any] | None = None) -> Experiment:
    """The experiment in a YAML file, with `overrides` laid over its keys, checked to the last value.

    Raises ConfigError: one line per fault, each beginning with the file's name.
    """
    if (
        os.getcwd() not in sys.path
    ):  # where a method of one's own may lie; `python -m` puts it there by itself
        sys.path.insert(0, os.getcwd())
    return parse(_merged(load_yaml(path), overrides or {}), source=str(path))


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
