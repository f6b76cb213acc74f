"""An experiment, as read from YAML: the only definition of its format, and the only reader of YAML.

Everything is checked before the first job. A fault is one line: file, dotted key, expected, got, nearest
valid name.
"""

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from deconfound.attacks import ATTACKS
from deconfound.data import DATASETS
from deconfound.defenses import DEFENSES
from deconfound.errors import ConfigError
from deconfound.fields import Count, Eps, Natural, OpenFraction, hyperparameters
from deconfound.models import MODELS
from deconfound.poisons import POISONS
from deconfound.recipe import Recipe
from deconfound.registry import Table, build, explain, target

NAME = re.compile(r"[a-z0-9_]+")
CLEAN = "clean"  # the name of no poison
Block = dict[str, Any]


def _name(text: str) -> str:
    if not NAME.fullmatch(text):
        raise ValueError(f"expected a name of lower-case letters, digits and '_', got {text!r}")
    return text


Name = Annotated[str, AfterValidator(_name)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Slice(_Strict):
    """A class-balanced part of a large data set; None keeps all."""

    train: Count | None = None
    test: Count | None = None


@hyperparameters
class Preparation:
    """What every data set's block may say besides its own parameters: val is cut from train, stratified and
    seeded.
    """

    val: OpenFraction = 0.1
    slice: Slice = Slice()
    split_seed: Natural = 0


class Curve(_Strict):
    """Robust accuracy of one attack over a list of eps, for the security curve."""

    attack: Name
    eps: list[Eps] = Field(min_length=2)


class Study(_Strict):
    """A grid: every dataset x poison x model x defense, for every seed, under every attack.

    control: the defense that differences are taken against. keep: attacks whose images, crafted on the base
    runs, are stored. examples: attack only the first so many test images.
    """

    title: str = ""
    datasets: list[Name] = Field(min_length=1)
    poisons: list[Name] = Field(default=[CLEAN], min_length=1)
    models: list[Name] = Field(min_length=1)
    recipe: Name
    defenses: list[Name] = Field(min_length=1)
    control: Name = "standard"
    attacks: list[Name] = []
    keep: list[Name] = []
    curves: list[Curve] = []
    examples: Count | None = None


class Experiment(_Strict):
    """Named parts, and studies that combine them. Names become wildcards in paths, values never do."""

    name: Name
    title: str = ""
    description: str = ""
    seeds: list[Natural] = Field(min_length=1)
    reports: str = "reports"
    ledgers: list[str] = []
    datasets: dict[Name, Block] = Field(min_length=1)
    models: dict[Name, Block] = Field(min_length=1)
    recipes: dict[Name, Block] = Field(min_length=1)
    poisons: dict[Name, Block] = {}
    attacks: dict[Name, Block] = {}
    defenses: dict[Name, Block] = Field(min_length=1)
    studies: dict[Name, Study] = Field(min_length=1)


RECIPES: Table = {"recipe": f"{Recipe.__module__}:{Recipe.__name__}"}
PREPARATIONS: Table = {"preparation": f"{Preparation.__module__}:{Preparation.__name__}"}
PREPARATION_KEYS = ("val", "slice", "split_seed")
TABLES: dict[str, Table] = {
    "datasets": DATASETS,
    "models": MODELS,
    "poisons": POISONS,
    "attacks": ATTACKS,
    "defenses": DEFENSES,
}


def read(path: Path, overrides: Mapping[str, Any] | None = None) -> Experiment:
    """The experiment in a YAML file, with `overrides` laid over its keys, checked to the last value.

    Raises ConfigError: one line per fault, each beginning with the file's name.
    """
    return parse(_merged(load_yaml(path), overrides or {}), source=str(path))


def load_yaml(path: Path) -> dict[str, Any]:
    """A YAML mapping without repeated keys; raises ConfigError that names the file."""
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), Loader=_UniqueKeys)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(content, dict):
        raise ConfigError(f"{path}: expected a mapping of keys to values, got {type(content).__name__}")
    return content


def parse(content: Mapping[str, Any], *, source: str) -> Experiment:
    """The experiment in a mapping; see `read`."""
    try:
        experiment = Experiment.model_validate(dict(content))
    except ValidationError as error:
        raise ConfigError(_located(source, explain(error, at="", names=_known_keys(error)))) from None
    from deconfound.plan import check

    faults: list[str] = []
    for kind, blocks in _blocks(experiment).items():
        for name, block in blocks.items():
            faults += _faults(lambda kind=kind, name=name, block=block: make(kind, name, block))  # type: ignore[misc]
    faults += check(experiment) if not faults else []
    if faults:
        raise ConfigError(_located(source, faults))
    return experiment


def make(kind: str, name: str, block: Mapping[str, Any]) -> Any:
    """The object that a named block describes; kind is the plural key of its section."""
    if kind == "recipes":
        return build(RECIPES, {"kind": "recipe", **block}, at=f"{kind}.{name}")
    if kind == "datasets":
        preparation(name, block)
        block = {key: value for key, value in block.items() if key not in PREPARATION_KEYS}
    if kind == "defenses":
        block = {key: value for key, value in block.items() if key != "starts_from"}
    return build(TABLES[kind], block, at=f"{kind}.{name}")


def preparation(name: str, block: Mapping[str, Any]) -> Preparation:
    """How a data set's splits are cut, from the common keys of its block."""
    found = {key: block[key] for key in PREPARATION_KEYS if key in block}
    made: Preparation = build(PREPARATIONS, {"kind": "preparation", **found}, at=f"datasets.{name}")
    return made


def full(kind: str, name: str, block: Mapping[str, Any]) -> Block:
    """The block with every default written out, as plain JSON values: what a job receives."""
    made = make(kind, name, block)
    values: Block = TypeAdapter(type(made)).dump_python(made, mode="json")
    return ({"kind": block["kind"]} if "kind" in block else {}) | values


def module_of(kind: str, block: Mapping[str, Any]) -> str:
    """The module that defines a block's kind, for the fingerprint of a job."""
    return target(TABLES[kind], block["kind"], at=kind).partition(":")[0]


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


def _known_keys(error: ValidationError) -> list[str]:
    inside = any(len(fault["loc"]) > 2 for fault in error.errors(include_url=False))
    models = (Study, Curve) if inside else (Experiment,)
    return [key for model in models for key in model.model_fields]


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
