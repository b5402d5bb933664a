"""The errors that a user can cause, and the words for them."""

from collections.abc import Iterable, Sequence
from difflib import get_close_matches


class CoProbeError(Exception):
    """Base class: one line that says what is wrong and what to do; `exit_code` is the command line's."""

    exit_code = 1


class UserError(CoProbeError):
    """Something that the user can mend: a wrong name, value, file or folder."""

    exit_code = 2


class NotAllowed(UserError):
    """A file names code of its own, which is not imported unless the user allows it.

    Attributes:
        name: The name of the code, `package.module:Name`.
    """

    def __init__(self, kind: str, name: str):
        super().__init__(
            f"{kind} {name} is code of its own, and a file asks for it: if you trust that code, allow it with "
            f"co_probe.allow('{name}') or the environment variable CO_PROBE_ALLOW={name}"
        )
        self.kind, self.name = kind, name

    def __reduce__(self) -> tuple[type["NotAllowed"], tuple[str, str]]:
        """Let it come over from another process."""
        return type(self), (self.kind, self.name)


class DamagedFile(UserError):
    """A file is truncated, was altered, or is not what its name says."""


class Diverged(CoProbeError):
    """The training loss is no longer a finite number; the epochs before it are kept."""


class Stopped(CoProbeError):
    """The guard or the early stop of a run has ended it; the epochs before are kept."""


class CoProbeWarning(UserWarning):
    """Something that a user should know, and that does not keep the call from its result."""


class NotStored(CoProbeWarning):
    """Results were measured and are returned, but they cannot be written."""


def one_line(text: object) -> str:
    r"""`text` as one line that any terminal can show: characters that are not printable are escaped.

    Example:
        >>> one_line("a\nb")
        'a\\nb'
    """
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in str(text))


def listing(names: Sequence[str], most: int = 8) -> str:
    """The first names, and how many there are more.

    Example:
        >>> listing(["a", "b", "c"], most=2)
        'a, b and 1 more'
    """
    rest = len(names) - most
    return ", ".join(names[:most]) + (f" and {rest} more" if rest > 0 else "")


def unknown(kind: str, name: str, choices: Iterable[str]) -> UserError:
    """The error for a name that is none of `choices`: it names the nearest ones, else all."""
    choices = sorted(choices)
    near = get_close_matches(name, choices, n=3, cutoff=0.5)
    open_ended = [choice for choice in choices if ":" in choice and choice not in near]  # folder:PATH may be meant too
    hint = f"did you mean {' or '.join(near + open_ended)}?" if near else f"there are: {', '.join(choices)}"
    return UserError(f"unknown {kind} '{name}': {hint}")
