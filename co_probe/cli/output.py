"""Printing of tables and progress."""

from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Literal

import click
import pandas as pd

from co_probe.config.labels import epsilon_label
from co_probe.progress import progress_bar as progress_bar
from co_probe.reporting.tables import latex_table, markdown_table


def print_frame(frame: pd.DataFrame, style: str) -> None:
    """Print a tidy table as `json` (a list of records) or `csv`."""
    text = (
        frame.to_json(orient="records", force_ascii=False, indent=1) if style == "json" else frame.to_csv(index=False)
    )
    click.echo(text, nl=style == "json")


def print_table(
    title: str, header: Sequence[str], rows: Sequence[Sequence[str]], *, width: int = 1000, fold: Collection[str] = ()
) -> None:
    """Print a table for reading, without truncation.

    Args:
        title: Line above the table.
        header: Names of the columns.
        rows: Cells, as text.
        width: Number of characters per line; wide columns exceed it unless they may be folded.
        fold: Names of text columns, whose cells may take several lines.
    """
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for number, name in enumerate(header):
        justify: Literal["left", "right"] = "left" if number == 0 or name in fold else "right"
        table.add_column(name, justify=justify, no_wrap=name not in fold, overflow="fold")
    for row in rows:
        table.add_row(*row)
    click.echo(title)
    Console(highlight=False, width=width).print(table)


def percent(value: float) -> str:
    """Format a share as a percentage with one decimal; empty for NaN."""
    return "" if pd.isna(value) else f"{100 * value:.1f}%"


def each_epsilon(frame: pd.DataFrame, epsilons: Sequence[float] | None) -> Iterator[tuple[str, pd.DataFrame]]:
    """Yield (words for the title, table) for each norm bound; the whole table if none is given."""
    if epsilons is None:
        yield "", frame
        return
    for epsilon in epsilons:
        yield f" at ε = {epsilon_label(epsilon)}", frame[frame["epsilon"] == epsilon]


def by_epoch(frame: pd.DataFrame, text: Callable[[float], str]) -> tuple[list[str], list[list[str]]]:
    """Convert a tidy table of one quantity to header and rows, with a row per epoch and a column per run."""
    wide = frame.pivot_table(index="epoch", columns="run", values="value", sort=False).sort_index()
    rows = [
        [str(epoch), *("" if pd.isna(v) else text(v) for v in values)]
        for epoch, values in zip(wide.index, wide.to_numpy(), strict=True)
    ]
    return ["epoch", *map(str, wide.columns)], rows


def print_markdown(title: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table in GitHub's Markdown, with the first column left-aligned."""
    click.echo(markdown_table(title, header, rows))


def print_latex(title: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a `tabular` with booktabs rules and the title as a comment."""
    click.echo(latex_table(title, header, rows))


PRINTERS = {"people": print_table, "markdown": print_markdown, "latex": print_latex}
