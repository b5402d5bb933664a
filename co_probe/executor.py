"""Executors of tasks, and transport of their errors."""

from collections.abc import Callable
from concurrent.futures import BrokenExecutor, CancelledError, Future
from typing import Any, Protocol

from co_probe.errors import CoProbeError, one_line


class Executor(Protocol):
    """Executor of the tasks of a sweep or probe: `concurrent.futures.Executor` or anything with its `submit`."""

    def submit(self, function: Callable[..., Any], /, *arguments: Any) -> Future[Any]:
        """Schedule `function(*arguments)`; arguments and result must support pickling."""


def error_of(future: Future[Any]) -> CoProbeError | None:
    """Return the error of a finished task as a one-line error; None if it succeeded."""
    try:
        error = future.exception()
    except CancelledError:
        return CoProbeError("it was cancelled")
    if error is None or isinstance(error, CoProbeError):
        return error
    if isinstance(error, BrokenExecutor):
        return CoProbeError(str(error) or "its process was killed (out of memory?)")
    return CoProbeError(one_line(f"{type(error).__name__}: {error}"))


def answer(function: Callable[..., Any], arguments: tuple[Any, ...]) -> tuple[bool, Any]:
    """Call `function(*arguments)` and return (True, result) or (False, exception)."""
    try:
        return True, function(*arguments)
    except Exception as error:  # the caller reports it
        told = error if isinstance(error, CoProbeError) else CoProbeError(f"{type(error).__name__}: {error}")
        return False, told
