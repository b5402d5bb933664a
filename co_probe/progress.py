"""Progress bars and lines."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def progress_bar(what: str) -> Iterator[Callable[[str, int, int], None]]:
    """Show the progress of long work on standard error: a bar with rate and time left, or plain lines off a terminal.

    Args:
        what: Label shown before the numbers.

    Yields:
        A function to call with a label, the amount done and the total.

    Example:
        >>> with progress_bar("training") as show:
        ...     show("epoch 3/30, images", 128, 50000)
    """
    if sys.stderr.isatty():
        with _rich_bar(what) as update:
            yield update
        return
    last, said = -1e9, ""

    def plain(label: str, done: int, total: int) -> None:
        nonlocal last, said
        line = f"{what}: {done}/{total}" + (f" ({label})" if label else "")
        if line != said and (done == total or time.monotonic() - last > 15):
            last, said = time.monotonic(), line
            print(line, file=sys.stderr, flush=True)

    yield plain


@contextmanager
def _rich_bar(what: str) -> Iterator[Callable[[str, int, int], None]]:
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns: list[Any] = [
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeElapsedColumn(),
        TextColumn("elapsed,"),
        TimeRemainingColumn(),
        TextColumn("left"),
    ]
    # Lines printed meanwhile appear above the bar, unless standard output is redirected.
    console, redirect = Console(stderr=True), sys.stdout.isatty()
    with Progress(*columns, console=console, transient=True, redirect_stdout=redirect) as progress:
        task = progress.add_task(what, total=None, rate="")

        def update(label: str, done: int, total: int) -> None:
            speed = progress.tasks[0].speed
            rate = f"{speed:.3g}/s" if speed else ""
            progress.update(task, description=f"{what} {label}", completed=done, total=total, rate=rate)

        yield update
