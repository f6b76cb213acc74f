"""What a step is told: a mapping with certain keys."""

from collections.abc import Mapping
from typing import Any

from deconfound.errors import ConfigError


def require(given: Mapping[str, Any], *keys: str, at: str) -> None:
    """Raise ConfigError that names every missing key."""
    missing = [key for key in keys if key not in given]
    if missing:
        expected = ", ".join(keys)
        raise ConfigError(f"{at}: required key is missing: {', '.join(missing)} (expected {expected})")
