"""What runs functions somewhere else, and how what went wrong there is told."""

from collections.abc import Callable
from concurrent.futures import BrokenExecutor, CancelledError, Future
from typing import Any, Protocol

from co_probe.errors import CoProbeError, one_line


class Executor(Protocol):
    """What runs the tasks of a sweep or of a probe: a `concurrent.futures.Executor`, or anything with its `submit`."""

    def submit(self, function: Callable[..., Any], /, *arguments: Any) -> Future[Any]:
        """Start `function(*arguments)` somewhere. Arguments and result can be pickled."""


def error_of(future: Future[Any]) -> CoProbeError | None:
    """Why a task that has ended failed, as an error of one line; None if it did not fail."""
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
    """(True, the result) or (False, the exception) of `function(*arguments)`, as it goes back to who asked for it."""
    try:
        return True, function(*arguments)
    except Exception as error:  # of any kind: who asked reports it
        told = error if isinstance(error, CoProbeError) else CoProbeError(f"{type(error).__name__}: {error}")
        return False, told
