"""A user's own code, named as `package.module:Name`: which names may be imported, and how.

A run's folder, a `.pt` file or a preset may come from somebody else, and loading what it names runs code that its
author chose (`subprocess:run`, with arguments from the same file, is such a name too). So a name in a file is loaded
only if the user typed or allowed it, or handed the object in. An imported module is no permission: `subprocess` may be
imported already.
"""

import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from typing import Any

from co_probe.errors import NotAllowed, UserError

VARIABLE = "CO_PROBE_ALLOW"
OWN = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*")  # package.module:Name
PARTS = ("method", "data", "model", "schedule")  # the sections of a configuration that take such a name

_allowed: list[str] = []
_handed_in: dict[str, Callable[..., Any]] = {}


def is_own(name: str) -> bool:
    """Whether `name` has the form `package.module:Name`."""
    return OWN.fullmatch(name) is not None


def allow(*names: str) -> None:
    """Let files that are opened from now on name code of their own.

    The environment variable CO_PROBE_ALLOW (names with commas between them) does the same. Processes that co-probe
    starts get the names as arguments.

    Args:
        names: `package.module:Name`, or `package.module` for everything in it.

    Example:
        >>> co_probe.allow("my_models:Net")
    """
    _allowed.extend(name for name in names if name and name not in _allowed)


def allowed() -> list[str]:
    """The names that are allowed in this process, for `allow` in another one."""
    return [*_allowed]


def hand_in(target: Callable[..., Any]) -> str:
    """Make a class or function available under its name `package.module:Name`, in this process.

    Args:
        target: A class, or a function that makes the object.

    Returns:
        The name. Another process finds the object under it only if it can be imported by that name.

    Raises:
        UserError: If `target` has no name that could be written down, as a `lambda` or an object has none.
    """
    name = f"{getattr(target, '__module__', None)}:{getattr(target, '__name__', None)}"
    if not (callable(target) and is_own(name)):
        raise UserError(f"{target!r} has no name that a run could store: give a class, or a function with a name")
    _handed_in[name] = target
    return name


def allow_typed(method: str, *settings: Mapping[str, Any]) -> None:
    """Allow the names that a user gave on the command line or in a call: the method's, and those in `settings`."""
    typed: list[Any] = [method]
    for mapping in settings:
        for part in PARTS:
            value = mapping.get(part)
            typed.append(value.get("name") if isinstance(value, Mapping) else value)
    allow(*(name for name in typed if isinstance(name, str) and is_own(name)))


def load(kind: str, name: str) -> Any:
    """The object that `package.module:Name` names.

    The working directory is searched after all other places, for the length of the import.

    Raises:
        NotAllowed: If the name is not allowed.
        UserError: If there is no such object, or its module fails.
    """
    if name in _handed_in:
        return _handed_in[name]
    module, _, attribute = name.partition(":")
    if not _is_allowed(name, [*_allowed, *map(str.strip, os.environ.get(VARIABLE, "").split(","))]):
        raise NotAllowed(kind, name)
    try:
        with _working_directory():
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


def _is_allowed(name: str, entries: Iterable[str]) -> bool:
    module = name.partition(":")[0]
    return any(entry and (name == entry or f"{module}.".startswith(f"{entry}.")) for entry in entries)


@contextmanager
def _working_directory() -> Iterator[None]:
    """The working directory at the end of the search path, where it cannot stand in for an installed package."""
    folder = os.getcwd()
    sys.path.append(folder)
    try:
        yield
    finally:
        # The last one: what was there before is not ours, and an import may have changed the path.
        del sys.path[len(sys.path) - 1 - sys.path[::-1].index(folder)]
