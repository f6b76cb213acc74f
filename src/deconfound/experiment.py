"""The parts of an experiment: named blocks, studies that combine them, and how a block becomes an object.

These pydantic models are the only definition of the format; `config` reads it, `plan` enumerates it.
"""

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, TypeAdapter, model_validator

from deconfound.attacks import ATTACKS, EXPLANATION_ATTACKS
from deconfound.attributions import ATTRIBUTIONS
from deconfound.calibration_spec import Calibration
from deconfound.data import DATASETS
from deconfound.defenses import DEFENSES
from deconfound.detectors import DETECTORS
from deconfound.fields import Count, Eps, Natural, OpenFraction, hyperparameters
from deconfound.gate import Gate
from deconfound.interpretations import INTERPRETATIONS
from deconfound.models import MODELS
from deconfound.poisons import POISONS
from deconfound.properties import PROPERTIES
from deconfound.recipe import Recipe
from deconfound.registry import Table, build, target
from deconfound.runs import CLEAN

NAME = re.compile(r"[a-z0-9_]+")
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
    """Robust accuracy of one attack over a list of eps or of steps, for the security curve."""

    attack: Name
    eps: list[Eps] | None = Field(default=None, min_length=2)
    steps: list[Count] | None = Field(default=None, min_length=2)

    @model_validator(mode="after")
    def _one_axis(self) -> "Curve":
        if (self.eps is None) == (self.steps is None):
            raise ValueError("expected either a list of eps or a list of steps")
        return self

    @property
    def axis(self) -> Literal["eps", "steps"]:
        """What the curve runs over."""
        return "steps" if self.eps is None else "eps"

    @property
    def values(self) -> list[float] | list[int]:
        """The points of its axis."""
        return self.steps or self.eps or []


class Study(_Strict):
    """A grid: every dataset x poison x model x defense, for every seed, under every attack.

    control: the defense that differences are taken against; studies that share a run must name the same one, but a
    study of one defense binds nobody. Attacks run in the order of their list, each on what
    those before it left standing; alone: attacks that are also measured by themselves. keep: attacks whose images,
    crafted on the base runs, are stored. properties: what else is measured on every model. detectors: what looks for
    the backdoor in every model, its training set and its inputs. interpretations: what is read off every model, in a
    job of its own. examples: attack only the first so many test images.
    gate: what the trust gate spends on every model; null leaves it out, and says so beside every number. recipe: of
    every defense that does not name its own.
    """

    title: str = ""
    datasets: list[Name] = Field(min_length=1)
    poisons: list[Name] = Field(default=[CLEAN], min_length=1)
    models: list[Name] = Field(min_length=1)
    recipe: Name
    defenses: list[Name] = Field(min_length=1)
    control: Name = "standard"
    attacks: list[Name] = []
    alone: list[Name] = []
    keep: list[Name] = []
    properties: list[Name] = []
    detectors: list[Name] = []
    interpretations: list[Name] = []
    curves: list[Curve] = []
    examples: Count | None = None
    gate: Gate | None = Gate()


class Experiment(_Strict):
    """Named parts, and studies that combine them. Names become wildcards in paths, values never do.

    calibration: measure how far estimates of mutual information can be trusted, and write a page about it.
    """

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
    properties: dict[Name, Block] = {}
    detectors: dict[Name, Block] = {}
    interpretations: dict[Name, Block] = {}
    calibration: Calibration | None = None
    defenses: dict[Name, Block] = Field(min_length=1)
    studies: dict[Name, Study] = Field(min_length=1)


RECIPES: Table = {"recipe": f"{Recipe.__module__}:{Recipe.__name__}"}
PREPARATIONS: Table = {"preparation": f"{Preparation.__module__}:{Preparation.__name__}"}
PREPARATION_KEYS = ("val", "slice", "split_seed")
LINEAGE_KEYS = {  # what a block may say besides its parameters: of other parts of the experiment, and to readers
    "defenses": ("starts_from", "crafted_by", "recipe"),
    "poisons": ("surrogate", "recipe", "remark"),
}
TABLES: dict[str, Table] = {
    "datasets": DATASETS,
    "models": MODELS,
    "poisons": POISONS,
    "attacks": ATTACKS,
    "properties": PROPERTIES,
    "detectors": DETECTORS,
    "interpretations": INTERPRETATIONS,
    "defenses": DEFENSES,
}


def make(kind: str, name: str, block: Mapping[str, Any]) -> Any:
    """The object that a named block describes; kind is the plural key of its section."""
    if kind == "recipes":
        return build(RECIPES, {"kind": "recipe", **block}, at=f"{kind}.{name}")
    if kind == "datasets":
        preparation(name, block)
        block = {key: value for key, value in block.items() if key not in PREPARATION_KEYS}
    if kind in LINEAGE_KEYS:
        block = {key: value for key, value in block.items() if key not in LINEAGE_KEYS[kind]}
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


INNER: dict[str, Table] = {
    "attributions": ATTRIBUTIONS,
    "explanation_attacks": EXPLANATION_ATTACKS,
}  # only in blocks
NESTED = {  # keys under which a block holds a block of another table, or several by name
    "attack": "attacks",
    "attacks": "attacks",
    "explanation_attack": "explanation_attacks",
    "detector": "detectors",
    "detectors": "detectors",
    "attributions": "attributions",
}


def modules_of(kind: str, block: Mapping[str, Any]) -> list[str]:
    """The modules that define a block's kind and those of the blocks inside it, for the fingerprint of a job."""
    found = [target((TABLES | INNER)[kind], block["kind"], at=kind).partition(":")[0]]
    for key, inner in NESTED.items():
        held = block.get(key)
        blocks = [held] if isinstance(held, Mapping) and "kind" in held else _named(held)
        found += [name for one in blocks for name in modules_of(inner, one)]
    return found


def _named(held: Any) -> list[Mapping[str, Any]]:
    """Blocks by name, where it is that."""
    values = held.values() if isinstance(held, Mapping) else ()
    return [one for one in values if isinstance(one, Mapping) and "kind" in one]
