"""Import of user code named as `package.module:Name`, and permission to import it.

Runs, `.pt` files and presets may be untrusted, and importing a name from them runs code of their author's choice
(`subprocess:run` with arguments from the same file, for example). A name in a file is imported only if the user typed
or allowed it, or passed the object. That a module is imported already gives no permission, since `subprocess` may be.
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
PARTS = ("method", "data", "model", "schedule")  # sections of a configuration that may hold such a name

_allowed: list[str] = []
_available: dict[str, Callable[..., Any]] = {}


def is_own(name: str) -> bool:
    """Return whether `name` has the form `package.module:Name`."""
    return OWN.fullmatch(name) is not None


def allow(*names: str) -> None:
    """Allow files to name code that is imported when they are opened.

    The environment variable CO_PROBE_ALLOW (comma-separated names) does the same. Processes that co-probe starts
    inherit the names.

    Args:
        names: `package.module:Name`, or `package.module` for everything in it.

    Example:
        >>> co_probe.allow("my_models:Net")
    """
    _allowed.extend(name for name in names if name and name not in _allowed)


def allowed() -> list[str]:
    """Return the names that are allowed in this process, for `allow` in another one."""
    return [*_allowed]


def make_available(target: Callable[..., Any]) -> str:
    """Make a class or function available under its name `package.module:Name`, in this process.

    Args:
        target: A class, or a function that makes the object.

    Returns:
        The name. Other processes find the object only if it can be imported by that name.

    Raises:
        UserError: If `target` has no importable name, such as a `lambda` or an instance.
    """
    name = f"{getattr(target, '__module__', None)}:{getattr(target, '__name__', None)}"
    if not (callable(target) and is_own(name)):
        raise UserError(f"{target!r} has no name that a run could store: give a class, or a function with a name")
    _available[name] = target
    return name


def allow_typed(method: str, *settings: Mapping[str, Any]) -> None:
    """Allow the names that a user passed: that of the method and those in `settings`."""
    typed: list[Any] = [method]
    for mapping in settings:
        for part in PARTS:
            value = mapping.get(part)
            typed.append(value.get("name") if isinstance(value, Mapping) else value)
    allow(*(name for name in typed if isinstance(name, str) and is_own(name)))


def load(kind: str, name: str) -> Any:
    """Import the object that `package.module:Name` names.

    The working directory is the last entry of the search path during the import.

    Raises:
        NotAllowed: If the name is not allowed.
        UserError: If there is no such object, or its module fails.
    """
    if name in _available:
        return _available[name]
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
    """Append the working directory to the search path, where it cannot shadow an installed package."""
    folder = os.getcwd()
    sys.path.append(folder)
    try:
        yield
    finally:
        # Remove the last occurrence: earlier ones are not ours, and an import may have changed the path.
        del sys.path[len(sys.path) - 1 - sys.path[::-1].index(folder)]
