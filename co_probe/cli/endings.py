"""How a command ends: what is printed, and with which exit code."""

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

from co_probe.errors import CoProbeError, CoProbeWarning, NotAllowed, one_line

SAFE = "What is finished is safe; the same command (run: with --resume) goes on."
# An argument, as messages of the library call it: resume=True, results=DIR, model=...
ARGUMENT = re.compile(r"(?<![\w.'\"])(?P<name>[a-z_]+)=(?P<value>True\b|False\b|[A-Z]{2,}\b|\.\.\.)")
LONGEST = 1000  # letters of an error, which may quote a file
ENDING = (signal.SIGTERM, signal.SIGHUP)  # signals that end a command as Ctrl-C does


class Terminated(KeyboardInterrupt):
    """A signal asks the process to end: what runs is ended in order, as after Ctrl-C.

    Attributes:
        signal: Its number.
    """

    def __init__(self, number: int):
        super().__init__(number)
        self.signal = signal.Signals(number)


@contextmanager
def ending_by_signals() -> Iterator[None]:
    """Raise `Terminated` inside when SIGTERM or SIGHUP comes for the first time; later ones wait for that to end.

    A signal that the process was started to ignore (nohup) stays ignored.
    """
    handled = {number: old for number in ENDING if (old := signal.getsignal(number)) is not signal.SIG_IGN}

    def end(number: int, frame: FrameType | None) -> None:
        for other in handled:
            signal.signal(other, signal.SIG_IGN)  # the cleaning up must not be interrupted in turn
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
    """Let standard output and error escape what their encoding does not have, as in the names of some files."""
    streams = [stream for stream in (sys.stdout, sys.stderr) if hasattr(stream, "reconfigure")]
    before = [stream.errors for stream in streams]
    for stream in streams:
        stream.reconfigure(errors="backslashreplace")
    try:
        yield
    finally:
        for stream, errors in zip(streams, before, strict=True):
            with suppress(ValueError):  # it was closed meanwhile
                stream.reconfigure(errors=errors)


@contextmanager
def warnings_after_success() -> Iterator[None]:
    """Print co-probe's own warnings as one line each, and those of libraries after a success only."""
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
    """Print what ended a command, in one line.

    Args:
        error: The exception.

    Returns:
        The exit code: 2 for what the user can mend, 1 for other failures, 128 and its number for a signal.
    """
    if isinstance(error, BrokenPipeError):
        with suppress(OSError):  # so that the interpreter does not fail in flushing it at its end
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    if isinstance(error, click.Abort | KeyboardInterrupt):
        cause = error.__cause__ if isinstance(error, click.Abort) else error  # click raises Abort from an interrupt
        word, number = ("Terminated", cause.signal) if isinstance(cause, Terminated) else ("Interrupted", signal.SIGINT)
        with suppress(OSError):  # the terminal may be gone
            click.echo(f"\n{word}. {SAFE}", err=True)
        return 128 + number
    if isinstance(error, click.ClickException):
        error.show()
        return 2
    if isinstance(error, NotAllowed):
        ways = f"put --allow {error.name} after co-probe, or hand a model in with --model where the command has that"
        return _say(f"{in_flags(str(error))}, or {ways}", error.exit_code)
    if isinstance(error, CoProbeError):
        return _say(in_flags(str(error)), error.exit_code)
    seen = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    if isinstance(error, MemoryError) or "allocate memory" in seen or "out of memory" in seen:
        return _say(f"out of memory ({seen}): choose a smaller model, smaller images or smaller batches", 2)
    return _say(f"internal error ({seen}): please report; --debug shows the traceback", 1)


def in_flags(text: str) -> str:
    """A message of the library, which names arguments as in Python, with the options that stand for them.

    Example:
        >>> in_flags("resume=True goes on with it, check=False imports it, results=DIR stores it elsewhere")
        '--resume goes on with it, --no-check imports it, --results DIR stores it elsewhere'
    """

    def option(argument: re.Match[str]) -> str:
        name, value = argument["name"].replace("_", "-"), argument["value"]
        return {"True": f"--{name}", "False": f"--no-{name}"}.get(value, f"--{name} {value}")

    return ARGUMENT.sub(option, text)


def _say(text: str, code: int) -> int:
    line = one_line(text)
    line = line if len(line) <= LONGEST else f"{line[:LONGEST]}..."
    click.secho(f"Error: {line}", err=True, fg="red" if sys.stderr.isatty() else None)
    return code
