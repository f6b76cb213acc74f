from dataclasses import fields
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from deconfound.errors import ConfigError
from deconfound.experiment import TABLES
from deconfound.fields import (
    Count,
    Eps,
    Fraction01,
    Natural,
    NonNegative,
    OpenFraction,
    Positive,
    Real,
    hyperparameters,
)
from deconfound.registry import build, field_names, nearest, resolve, target


@hyperparameters
class Method:
    """A method of these tests."""

    eps: Eps
    steps: Count = 3


TABLE = {"method": f"{__name__}:Method", "other": "deconfound.attacks.pgd:FGSM"}
ADDRESSES = [(kind, name) for kind, table in TABLES.items() for name in table]


def test_a_kind_of_the_table_leads_to_its_address_and_a_dotted_kind_to_itself() -> None:
    assert target(TABLE, "other", at="x") == "deconfound.attacks.pgd:FGSM"
    assert target(TABLE, "some.module:Thing", at="x") == "some.module:Thing"


def test_a_block_becomes_its_object_and_is_left_alone() -> None:
    block = {"kind": "method", "eps": "1/2"}
    assert build(TABLE, block, at="x") == Method(eps=0.5, steps=3)
    assert block == {"kind": "method", "eps": "1/2"}


@pytest.mark.parametrize("kind, name", ADDRESSES)
def test_every_entry_of_every_table_leads_to_a_documented_class_with_frozen_hyper_parameters(
    kind: str, name: str
) -> None:
    found = resolve(TABLES[kind], name, at=kind)
    assert found.__module__ == TABLES[kind][name].partition(":")[0]
    assert found.__doc__ and found.__doc__.strip()
    assert found.__dataclass_params__.frozen and all(field.kw_only for field in fields(found))
    assert field_names(found) == list(found.__pydantic_fields__)


@pytest.mark.parametrize("kind", ["methd", "", None, 3, ["x"], {"a": 1}, True])
def test_an_unknown_kind_is_named_with_its_place(kind: Any) -> None:
    with pytest.raises(ConfigError) as caught:
        build(TABLE, {"kind": kind, "eps": 1}, at="attacks.a")
    said = str(caught.value)
    assert said.startswith(f"attacks.a.kind: expected a known kind or 'module:Class', got {kind!r}")
    assert said.endswith("(known: method, other)")
    assert ("did you mean 'method'?" in said) == (kind == "methd")


def test_every_fault_of_a_block_is_a_line_of_its_own() -> None:
    with pytest.raises(ConfigError) as caught:
        build(TABLE, {"kind": "method", "eps": -1, "steps": True, "step": 1}, at="a.b")
    places = [line.partition(":")[0] for line in str(caught.value).splitlines()]
    assert sorted(places) == ["a.b.eps", "a.b.step", "a.b.steps"]


def test_the_nearest_name_is_offered_when_something_is_close_and_all_when_they_are_few() -> None:
    assert nearest("pdg", ["pgd", "fgsm"]) == "; did you mean 'pgd'? (known: fgsm, pgd)"
    assert nearest("zzz", ["pgd", "fgsm"]) == " (known: fgsm, pgd)"
    many = [f"name{i}" for i in range(31)]
    assert nearest("nam5", many) == "; did you mean 'name5'?"
    assert nearest("zzz", many) == ""
    assert nearest("zzz", []) == " (known: )"


@given(st.lists(st.text(alphabet="abcde", min_size=3, max_size=8), min_size=1, max_size=9), st.data())
def test_a_known_name_is_nearest_to_itself(known: list[str], data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(known))
    assert nearest(name, known).startswith(f"; did you mean {name!r}?")


def accepts(kind: Any, value: Any) -> bool:
    try:
        TypeAdapter(kind).validate_python(value)
    except ValidationError:
        return False
    return True


BOUNDS = {
    "Real": (Real, [-1, 0, 0.5, 1, 2, "-1e-3"], []),
    "NonNegative": (NonNegative, [0, 0.5, 2], [-1e-9]),
    "Positive": (Positive, [1e-9, 2], [0, -1]),
    "Fraction01": (Fraction01, [0, 0.5, 1], [-1e-9, 1.001]),
    "OpenFraction": (OpenFraction, [0.001, "1/2", 0.999], [0, 1]),
    "Eps": (Eps, [0, "8/255"], [-1]),
    "Count": (Count, [1, 7], [0, -1, 1.5, "x"]),
    "Natural": (Natural, [0, 7], [-1, 0.5]),
}


@pytest.mark.parametrize("name", BOUNDS)
def test_a_type_of_number_accepts_its_range_with_the_ends_that_belong_to_it(name: str) -> None:
    kind, good, bad = BOUNDS[name]
    assert [value for value in good if not accepts(kind, value)] == []
    assert [value for value in bad if accepts(kind, value)] == []


@pytest.mark.parametrize("name", BOUNDS)
@pytest.mark.parametrize(
    "value", [True, False, None, "", "x", [], {}, float("nan"), float("inf"), "nan", "1/0", "1/2/3"]
)
def test_no_type_of_number_accepts_what_is_no_finite_number(name: str, value: Any) -> None:
    assert not accepts(BOUNDS[name][0], value)


def test_hyper_parameters_are_frozen_validated_named_and_closed() -> None:
    method = Method(eps=0.5)
    with pytest.raises(AttributeError):
        method.eps = 1.0  # type: ignore[misc]
    with pytest.raises(ValidationError):
        Method(eps=-1.0)
    with pytest.raises(ValidationError):
        Method(eps=1.0, other=2)  # type: ignore[call-arg]
    with pytest.raises((TypeError, ValidationError)):
        Method(1.0)  # type: ignore[misc]


def test_swapped_letters_are_nearer_than_another_name_of_as_many_common_letters() -> None:
    assert nearest("cdb", ["abl", "cbd", "dbd"]).startswith("; did you mean 'cbd'?")
    assert nearest("dbb", ["abl", "cbd", "dbd"]).startswith("; did you mean 'dbd'?")
