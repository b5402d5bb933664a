"""End of a command: error messages and exit codes."""

import os
import re
import signal
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import TextIO

import click

from co_probe.errors import CoProbeError, CoProbeWarning, one_line

SAFE = "Finished results are stored; the same command (run: with --resume) continues."
# An argument in messages of the library: resume=True, results=DIR, model=..., epoch=9
ARGUMENT = re.compile(r"(?<![\w.'\"])(?P<name>[a-z_]+)=(?P<value>True\b|False\b|[A-Z]{2,}\b|\.\.\.|(?<=\bepoch=)\d+\b)")
# The message of `NotAllowed`.
ALLOWING = re.compile(
    r"(?P<kind>\w+) (?P<name>\S+) is code that a file names: if you trust it, allow it with "
    r"co_probe\.allow\('(?P=name)'\) or the environment variable CO_PROBE_ALLOW=(?P=name)"
)
LONGEST = 1000  # greatest number of characters of an error, which may quote a file
ENDING = (signal.SIGTERM, signal.SIGHUP)  # signals that are handled like Ctrl-C


class Terminated(KeyboardInterrupt):
    """Termination by a signal, handled like Ctrl-C.

    Attributes:
        signal: Number of the signal.
    """

    def __init__(self, number: int):
        super().__init__(number)
        self.signal = signal.Signals(number)


@contextmanager
def ending_by_signals() -> Iterator[None]:
    """Raise `Terminated` in the context at the first SIGTERM or SIGHUP; ignore later ones.

    Signals that are ignored at the start (nohup) remain ignored.
    """
    handled = {number: old for number in ENDING if (old := signal.getsignal(number)) is not signal.SIG_IGN}

    def end(number: int, frame: FrameType | None) -> None:
        for other in handled:
            signal.signal(other, signal.SIG_IGN)  # do not interrupt the cleanup
        raise Terminated(number)

    for number in handled:
        signal.signal(number, end)
    try:
        yield
    finally:
        for number, old in handled.items():
            signal.signal(number, signal.SIG_DFL if old is None else old)


@contextmanager
def readable_output() -> Iterator[None]:
    """Make standard output and error escape characters that their encoding lacks."""
    streams = [stream for stream in (sys.stdout, sys.stderr) if hasattr(stream, "reconfigure")]
    before = [stream.errors for stream in streams]
    for stream in streams:
        stream.reconfigure(errors="backslashreplace")
    try:
        yield
    finally:
        for stream, errors in zip(streams, before, strict=True):
            with suppress(ValueError):  # closed in the meantime
                stream.reconfigure(errors=errors)


@contextmanager
def warnings_after_success() -> Iterator[None]:
    """Print warnings of co-probe as one line each, and warnings of libraries only after success."""
    held: list[str] = []

    def show(
        message: Warning | str,
        category: type[Warning],
        filename: str,
        lineno: int,
        file: TextIO | None = None,
        line: str | None = None,
    ) -> None:
        if issubclass(category, CoProbeWarning):
            click.echo(f"Warning: {in_flags(one_line(message))}", err=True)
        else:
            held.append(warnings.formatwarning(message, category, filename, lineno, line))

    with warnings.catch_warnings():
        warnings.showwarning = show
        yield
    for text in held:
        click.echo(text, err=True, nl=False)


def end_with_error(error: BaseException) -> int:
    """Print the error of a command in one line.

    Args:
        error: The exception.

    Returns:
        The exit code: 2 for errors that the user can correct, 1 for others, 128 plus its number for a signal.
    """
    if isinstance(error, BrokenPipeError):
        with suppress(OSError):  # so that the interpreter does not fail on flushing at exit
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    if isinstance(error, click.Abort | KeyboardInterrupt):
        cause = error.__cause__ if isinstance(error, click.Abort) else error  # click raises Abort on an interrupt
        word, number = ("Terminated", cause.signal) if isinstance(cause, Terminated) else ("Interrupted", signal.SIGINT)
        with suppress(OSError):  # the terminal may be gone
            click.echo(f"\n{word}. {SAFE}", err=True)
        return 128 + number
    if isinstance(error, click.ClickException):
        error.show()
        return 2
    if isinstance(error, CoProbeError):
        return _say(in_flags(str(error)), error.exit_code)
    seen = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    if isinstance(error, MemoryError) or "allocate memory" in seen or "out of memory" in seen:
        return _say(f"out of memory ({seen}): choose a smaller model, smaller images or smaller batches", 2)
    return _say(f"internal error ({seen}): please report; --debug shows the traceback", 1)


def in_flags(text: str) -> str:
    """Replace arguments by options in a message of the library.

    Example:
        >>> in_flags("resume=True continues it, check=False imports it, results=DIR stores it elsewhere")
        '--resume continues it, --no-check imports it, --results DIR stores it elsewhere'
    """

    def option(argument: re.Match[str]) -> str:
        name, value = argument["name"].replace("_", "-"), argument["value"]
        return {"True": f"--{name}", "False": f"--no-{name}"}.get(value, f"--{name} {value}")

    return ARGUMENT.sub(option, in_allowed_words(text))


def in_allowed_words(text: str) -> str:
    """Replace the Python calls that allow code by command-line options."""

    def way(found: re.Match[str]) -> str:
        kind, name = found["kind"], found["name"]
        named = f"--model {name} where the command has that, or " if kind == "model" else ""
        return (
            f"{kind} {name} is code that a file names: if you trust it, give {named}--allow {name} right after co-probe"
        )

    return ALLOWING.sub(way, text)


def _say(text: str, code: int) -> int:
    line = one_line(text)
    line = line if len(line) <= LONGEST else f"{line[:LONGEST]}..."
    click.secho(f"Error: {line}", err=True, fg="red" if sys.stderr.isatty() else None)
    return code
