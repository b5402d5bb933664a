"""Validation of plain settings: text, booleans, numbers, and lists and tables of them."""

import math
from collections.abc import Mapping
from typing import Any

from co_probe.errors import UserError

DEEPEST = 10  # levels of lists and tables
LARGEST = 2**63 - 1


def check_plain(settings: Mapping[str, Any]) -> None:
    """Raise an error for values that settings cannot hold.

    Args:
        settings: Nested settings, as TOML or Python gives them.

    Raises:
        UserError: A value is a date, a time, NaN, a whole number beyond 64 bits, or nested too deeply. The error names
            the setting.
    """
    waiting: list[tuple[str, Any, int]] = [(str(key), value, 1) for key, value in settings.items()]
    while waiting:  # a loop, since deep nesting would exceed the recursion limit
        name, value, depth = waiting.pop()
        if isinstance(value, Mapping | list | tuple):
            if depth >= DEEPEST:
                raise UserError(f"{name} is nested too deeply: at most {DEEPEST} levels of lists and tables")
            parts = value.items() if isinstance(value, Mapping) else ((None, part) for part in value)
            waiting += [(name if key is None else f"{name}.{key}", part, depth + 1) for key, part in parts]
        elif isinstance(value, int) and not -LARGEST <= value <= LARGEST:
            raise UserError(f"{name} is a number of {value.bit_length()} bits, and at most 63 are possible")
        elif isinstance(value, float) and math.isnan(value):
            raise UserError(f"{name} must be a number, not nan")
        elif type(value).__module__ == "datetime":
            raise UserError(f"{name} cannot be a date or a time ({value}): put it in quotes if it is text")
