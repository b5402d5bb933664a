"""Printing for people and for programs: tables, and progress."""

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import click
import pandas as pd


def print_frame(frame: pd.DataFrame, style: str) -> None:
    """A tidy table as `json` (a list of records) or `csv`, to standard output."""
    text = (
        frame.to_json(orient="records", force_ascii=False, indent=1) if style == "json" else frame.to_csv(index=False)
    )
    click.echo(text, nl=style == "json")


def print_table(title: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """A table for people. Columns are never cut: a line that does not fit the terminal is left to the terminal."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for number, name in enumerate(header):
        table.add_column(name, justify="left" if number == 0 else "right", no_wrap=True)
    for row in rows:
        table.add_row(*row)
    click.echo(title)
    Console(highlight=False, width=1000).print(table)


def percent(value: float) -> str:
    return "" if pd.isna(value) else f"{100 * value:.1f}%"


@contextmanager
def progress_bar(what: str) -> Iterator[Callable[[str, int, int], None]]:
    """A function to call with (label, done, total): a bar with rate and time left, or lines off a terminal."""
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
            click.echo(line, err=True)

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
    # Lines printed meanwhile go above the bar, unless standard output goes elsewhere.
    console, redirect = Console(stderr=True), sys.stdout.isatty()
    with Progress(*columns, console=console, transient=True, redirect_stdout=redirect) as progress:
        task = progress.add_task(what, total=None, rate="")

        def update(label: str, done: int, total: int) -> None:
            speed = progress.tasks[0].speed
            rate = f"{speed:.3g}/s" if speed else ""
            progress.update(task, description=f"{what} {label}", completed=done, total=total, rate=rate)

        yield update


def by_epoch(frame: pd.DataFrame, text: Callable[[float], str]) -> tuple[list[str], list[list[str]]]:
    """A tidy table of one quantity as header and rows: an epoch a row, a run a column."""
    wide = frame.pivot_table(index="epoch", columns="run", values="value", sort=False).sort_index()
    rows = [
        [str(epoch), *("" if pd.isna(v) else text(v) for v in values)]
        for epoch, values in zip(wide.index, wide.to_numpy(), strict=True)
    ]
    return ["epoch", *map(str, wide.columns)], rows


def print_markdown(title: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """A table in GitHub's Markdown, the first column to the left."""
    lines = [header, [":--", *["--:"] * (len(header) - 1)], *rows]
    click.echo(f"{title}\n")
    for cells in lines:
        escaped = (cell.replace("|", "\\|") for cell in cells)
        click.echo(f"| {' | '.join(escaped)} |")


LATEX = {"\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "_": r"\_", "#": r"\#", "$": r"\$", "{": r"\{", "}": r"\}"}
LATEX |= {"±": r"$\pm$", "×": r"$\times$", "ε": r"$\varepsilon$", "~": r"\textasciitilde{}", "^": r"\^{}"}


def print_latex(title: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """A `tabular` with the rules of booktabs; the title is a comment above it."""
    lines = [
        " & ".join("".join(LATEX.get(letter, letter) for letter in cell) for cell in cells) for cells in [header, *rows]
    ]
    body = "".join(f"{line} \\\\\n" for line in lines[1:])
    click.echo(f"% {title}\n\\begin{{tabular}}{{l{'r' * (len(header) - 1)}}}\n\\toprule\n{lines[0]} \\\\\n\\midrule")
    click.echo(f"{body}\\bottomrule\n\\end{{tabular}}")


PRINTERS = {"people": print_table, "markdown": print_markdown, "latex": print_latex}
