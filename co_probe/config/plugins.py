"""A user's own code, named as `package.module:Name`: which names may be imported, and how.

A run's folder, a `.pt` file or a preset may come from somebody else, and to load what it names would run code that its
author chose (`subprocess:run`, with arguments from the same file, is such a name too). So a name is loaded only if the
user typed it or allowed it. That a module happens to be imported already is no permission: `subprocess` may be.
"""

import os
import re
import sys
from collections.abc import Mapping
from importlib import import_module
from typing import Any

from co_probe.errors import UserError

VARIABLE = "CO_PROBE_ALLOW"
OWN = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*")  # package.module:Name
PARTS = ("method", "data", "model", "schedule")  # the sections of a configuration that take such a name


def is_own(name: str) -> bool:
    """Whether `name` has the form `package.module:Name`."""
    return OWN.fullmatch(name) is not None


def allow(name: str) -> None:
    """Let files that are opened from now on name `package.module:Name`; `package.module` allows everything in it.

    Processes that this one starts inherit it. The environment variable CO_PROBE_ALLOW (names with commas between
    them) does the same.

    >>> co_probe.allow("my_models:Net")
    """
    if name and name not in _allowed():
        os.environ[VARIABLE] = ",".join([*_allowed(), name])


def allow_typed(method: str, *settings: Mapping[str, Any]) -> None:
    """Allow the names that a user gave on the command line or in a call: the method's, and those in `settings`."""
    typed: list[Any] = [method]
    for mapping in settings:
        for part in PARTS:
            value = mapping.get(part)
            typed.append(value.get("name") if isinstance(value, Mapping) else value)
    for name in typed:
        if isinstance(name, str) and is_own(name):
            allow(name)


def load(kind: str, name: str) -> Any:
    """The object that `package.module:Name` names; the working directory is searched after all other places.

    Raises UserError if the name is not allowed, or is not there, or its module fails.
    """
    module, _, attribute = name.partition(":")
    if not any(name == entry or f"{module}.".startswith(f"{entry}.") for entry in _allowed()):
        raise UserError(
            f"{kind} {name} is code of its own, and a file asks for it: if you trust that code, allow it with "
            f"`co-probe --allow {name} ...`, {VARIABLE}={name}, or co_probe.allow('{name}')"
        )
    # Last, so that a file in a folder that somebody sent cannot stand in for an installed package.
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())
    try:
        target = import_module(module)
    except ModuleNotFoundError as error:
        if error.name and f"{module}.".startswith(f"{error.name}."):
            raise UserError(f"{kind} {name}: there is no module {error.name} here, nor installed") from error
        raise UserError(f"{kind} {name}: {module} needs the module {error.name}, which is not installed") from error
    except Exception as error:
        raise UserError(f"{kind} {name}: {module} fails with {type(error).__name__}: {error}") from error
    if not callable(found := getattr(target, attribute, None)):
        raise UserError(f"{kind} {name}: {module} has no class or function {attribute}")
    return found


def _allowed() -> list[str]:
    return [name.strip() for name in os.environ.get(VARIABLE, "").split(",") if name.strip()]
