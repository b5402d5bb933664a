"""Errors that a user can cause, and helpers for their messages."""

from collections.abc import Iterable, Sequence
from difflib import get_close_matches


class CoProbeError(Exception):
    """Base class of errors with a one-line message that says what is wrong and what to do."""

    exit_code = 1


class UserError(CoProbeError):
    """An error that the user can correct: a wrong name, value, file or folder."""

    exit_code = 2


class NotAllowed(UserError):
    """A file names code that is imported only if the user allows it.

    Attributes:
        name: Name of the code, `package.module:Name`.
    """

    def __init__(self, kind: str, name: str):
        super().__init__(
            f"{kind} {name} is code that a file names: if you trust it, allow it with "
            f"co_probe.allow('{name}') or the environment variable CO_PROBE_ALLOW={name}"
        )
        self.kind, self.name = kind, name

    def __reduce__(self) -> tuple[type["NotAllowed"], tuple[str, str]]:
        """Support pickling, for errors of other processes."""
        return type(self), (self.kind, self.name)


class DamagedFile(UserError):
    """A file is truncated, altered, or of another format than its name says."""


class Diverged(CoProbeError):
    """The training loss is not finite; earlier epochs remain stored."""


class Stopped(CoProbeError):
    """The guard or early stopping has ended a run; earlier epochs remain stored.

    Attributes:
        step: The optimizer step after which the guard did it; 0 for early stopping.
    """

    def __init__(self, message: str, step: int = 0):
        super().__init__(message)
        self.step = step

    def __reduce__(self) -> tuple[type["Stopped"], tuple[str, int]]:
        """Support pickling, for errors of another process."""
        return type(self), (str(self), self.step)


class CoProbeWarning(UserWarning):
    """Warning that does not prevent the result of a call."""


class NotStored(CoProbeWarning):
    """Results are returned but could not be written."""


def one_line(text: object) -> str:
    r"""Return `text` as one line, with characters that are not printable escaped.

    Example:
        >>> one_line("a\nb")
        'a\\nb'
    """
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in str(text))


def listing(names: Sequence[str], most: int = 8) -> str:
    """List the first names, and the number of the remaining ones.

    Example:
        >>> listing(["a", "b", "c"], most=2)
        'a, b and 1 more'
    """
    rest = len(names) - most
    return ", ".join(names[:most]) + (f" and {rest} more" if rest > 0 else "")


def unknown(kind: str, name: str, choices: Iterable[str]) -> UserError:
    """Make the error for a name that is not in `choices`; it suggests the nearest ones, else all."""
    choices = sorted(choices)
    near = get_close_matches(name, choices, n=3, cutoff=0.5)
    open_ended = [choice for choice in choices if ":" in choice and choice not in near]  # such as folder:PATH
    hint = f"did you mean {' or '.join(near + open_ended)}?" if near else f"there are: {', '.join(choices)}"
    return UserError(f"unknown {kind} '{name}': {hint}")
