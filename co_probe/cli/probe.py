"""The command `co-probe probe`."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from co_probe.cli import options
from co_probe.cli.command import MEASURE, Command
from co_probe.cli.output import by_epoch, percent, print_frame, print_table, progress_bar
from co_probe.probes import PROBES

if TYPE_CHECKING:
    import pandas as pd

    from co_probe.probes.base import Diagnostic


HELP = f"""Measure NAME at every epoch; `co-probe list NAME` has its settings.

{options.glossary(PROBES)}

Without RUN, all runs under runs/ with the needed data are measured. Results are stored, and only new epochs are
measured again.
"""


@click.command(
    help=HELP,
    epilog="NAME is one of: " + ", ".join(PROBES) + "; or your own: package.module:Name.",
    cls=Command,
    heading=MEASURE,
    short_help="Measure an indicator at every epoch.",
    examples=["co-probe probe curvature runs/fgsm", "co-probe probe alignment --set generator=method"],
)
@click.argument("name")
@options.runs_argument
@click.option(
    "--set", "assignments", multiple=True, metavar="KEY=VALUE", help="A setting of the probe: top=3, generator=method."
)
@click.option("--split", type=click.Choice(["test", "train", "validation"]), help="Split of the probe images.")
@options.model
@options.weights
@options.results
@options.device
@options.table_format
def probe(
    name: str,
    runs: tuple[Path, ...],
    runs_dir: Path,
    assignments: tuple[str, ...],
    split: str | None,
    model: str | None,
    weights: str,
    results: Path | None,
    device: str,
    style: str | None,
) -> None:
    """Measure a probe and print its table."""
    from co_probe.config import parse_assignment
    from co_probe.probes.named import make_probe
    from co_probe.probes.named import probe as measure

    settings: dict[str, Any] = {} if split is None else {"split": split}
    for text in assignments:
        settings |= parse_assignment(text)
    made = make_probe(name, **settings)
    live = options.compatible(options.open_live(runs, runs_dir, model, results, weights), options.unfinished)
    if not runs:
        live = options.compatible(live, made.unsupported_reason)
    with progress_bar(name) as progress:
        frame = options.measured(live, lambda some: measure(made, some, device=device, progress=progress))
    if style:
        print_frame(frame, style)
        return
    _print(made, frame[~frame["quantity"].isin(made.details)])


def _print(made: "Diagnostic", frame: "pd.DataFrame") -> None:
    """Print a column per quantity for a single run; else a table per quantity with a column per run."""
    name = made.name

    def text(quantity: str) -> Callable[[float], str]:
        return percent if quantity in made.shares else "{:.3g}".format

    quantities = list(frame["quantity"].unique())
    tables = {quantity: by_epoch(frame[frame["quantity"] == quantity], text(quantity)) for quantity in quantities}
    if frame["run"].nunique() == 1:
        columns = [dict(rows) for _, rows in tables.values()]
        epochs = list(dict.fromkeys(epoch for column in columns for epoch in column))
        rows = [[epoch, *(column.get(epoch, "") for column in columns)] for epoch in epochs]
        print_table(f"{name}: {frame['run'].iloc[0]}", ["epoch", *quantities], rows)
        return
    for quantity, table in tables.items():
        print_table(quantity if quantity == name else f"{name}: {quantity}", *table)
