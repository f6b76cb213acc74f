"""Types of hyper-parameters: what a number in an experiment may look like, and what it may be.

YAML delivers `8/255` and `1e-3` as text; here they are numbers. `true` is never a number.
"""

import math
from typing import Annotated, Any, TypeVar, dataclass_transform

from pydantic import BeforeValidator, ConfigDict, Field
from pydantic.dataclasses import dataclass as _dataclass


def number(value: Any) -> Any:
    """`8/255`, `1e-3`, `3` as a number; anything else unchanged, for pydantic to refuse."""
    if isinstance(value, bool):
        raise ValueError("expected a number, got a boolean")
    if isinstance(value, str):
        try:
            top, slash, bottom = value.replace(" ", "").partition("/")
            return _finite(top) / _finite(bottom) if slash else float(value)
        except (ValueError, ZeroDivisionError):
            raise ValueError(f"expected a number such as 0.03, 1e-3 or 8/255, got {value!r}") from None
    return value


def _finite(text: str) -> float:
    found = float(text)
    if not math.isfinite(found):
        raise ValueError(text)
    return found


def integer(value: Any) -> Any:
    """A whole number; `true` is refused, and so is 1.5."""
    if isinstance(value, bool):
        raise ValueError("expected a whole number, got a boolean")
    return value


_number, _integer = BeforeValidator(number), BeforeValidator(integer)

Real = Annotated[float, _number, Field(allow_inf_nan=False)]
NonNegative = Annotated[Real, Field(ge=0)]
Positive = Annotated[Real, Field(gt=0)]
Fraction01 = Annotated[Real, Field(ge=0, le=1)]
OpenFraction = Annotated[Real, Field(gt=0, lt=1)]
Eps = Annotated[NonNegative, Field(description="radius of the threat model, pixel units")]
Count = Annotated[int, _integer, Field(ge=1)]
Natural = Annotated[int, _integer, Field(ge=0)]

T = TypeVar("T")
_STRICT = ConfigDict(extra="forbid", arbitrary_types_allowed=True)


@dataclass_transform(frozen_default=True, kw_only_default=True)
def hyperparameters(cls: type[T]) -> type[T]:
    """A frozen, validated, keyword-only dataclass: how every method declares its hyper-parameters."""
    made: type[T] = _dataclass(frozen=True, kw_only=True, config=_STRICT)(cls)  # type: ignore[assignment]
    return made
