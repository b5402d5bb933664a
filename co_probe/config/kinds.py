"""Validation of values of settings against type annotations."""

from collections.abc import Callable, Mapping, Sequence
from inspect import signature
from types import NoneType, UnionType
from typing import Any, Union, get_args, get_origin

from co_probe.errors import UserError

WORDS = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}


def check_kinds(what: str, target: Callable[..., Any], settings: Mapping[str, Any]) -> None:
    """Raise UserError if a value in `settings` does not match the annotation of `target`'s parameter.

    Parameters without an annotation, or with one that is not supported here, accept any value.
    """
    try:
        parameters = signature(target, eval_str=True).parameters
    except NameError:  # an annotation that exists for type checkers only
        return
    for name, value in settings.items():
        kind = parameters[name].annotation if name in parameters else Any
        if not fits(value, kind):
            raise UserError(f"{what}: {name} must be {in_words(kind)}, not {value!r}")


def fits(value: Any, kind: Any) -> bool:
    """Return whether a TOML value matches `kind`: a plain type, or a union or sequence of plain types."""
    origin, inner = get_origin(kind), get_args(kind)
    if origin in (Union, UnionType):
        return any(fits(value, option) for option in inner)
    if origin is Sequence:
        return isinstance(value, list | tuple) and all(fits(part, inner[0]) for part in value)
    if kind is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    if kind is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(value, kind) if kind in (bool, str, NoneType) else True


def in_words(kind: Any) -> str:
    """Describe a kind for an error message."""
    origin, inner = get_origin(kind), get_args(kind)
    if origin in (Union, UnionType):
        return " or ".join(in_words(option) for option in inner if option is not NoneType)
    if origin is Sequence:
        return f"a list, each of it {in_words(inner[0])}"
    return WORDS.get(kind, str(kind))
