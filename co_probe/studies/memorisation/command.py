"""The command `co-probe memorisation`."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import pandas as pd

from co_probe.cli import options
from co_probe.cli.command import MEASURE, Command
from co_probe.cli.output import percent, print_frame, print_table, progress_bar
from co_probe.config.labels import attack_label


@click.command(
    cls=Command,
    heading=MEASURE,
    short_help="Measure clean and robust accuracy on train and test images.",
    examples=["co-probe memorisation runs/pgd", "co-probe memorisation --against pgd20 --last"],
)
@options.runs_argument
@click.option(
    "--against",
    default="method",
    show_default=True,
    help="Attack for robust accuracy: 'method' (the run's own training attack), 'pgd10', 'pgd20', ...",
)
@click.option("--last", is_flag=True, help="Measure only the last epoch of each run.")
@options.model
@options.results
@options.device
@options.compile
@options.table_format
def memorisation(
    runs: tuple[Path, ...],
    runs_dir: Path,
    against: str,
    last: bool,
    model: str | None,
    results: Path | None,
    device: str,
    compile: bool,
    style: str | None,
) -> None:
    """Measure clean and robust accuracy and loss on train and test images at every epoch.

    Runs of the preset patches also show the components of the filters along the signal and along the noise of training
    images (means; --csv adds minimum and maximum), and the number of optimizer steps. Without RUN, all runs under
    runs/ are measured. Results are stored, and only new epochs are measured.
    """
    from co_probe.studies.memorisation.probe import memorisation as measure

    stored = options.compatible(options.open_stored(runs, runs_dir, model, results), options.unfinished)
    settings: dict[str, Any] = {"against": against, "last": last, "device": device, "compile": compile}
    with progress_bar("memorisation") as progress:
        frame = options.measured(stored, lambda some: measure(some, **settings, progress=progress))
    if style:
        print_frame(frame, style)
        return
    for run, rows in frame.groupby("run", sort=False):
        print_table(f"{run}; robust: under {attack_label(against)}", *_table(rows))


def _table(frame: pd.DataFrame) -> tuple[list[str], list[list[str]]]:
    """Return the header and the rows of one run, a row per epoch."""
    wide = frame.pivot(index="epoch", columns=["quantity", "view", "images"], values="value").sort_index()
    columns: list[tuple[str, str, str, str, Callable[[float], str]]] = [("step", "", "", "step", "{:.0f}".format)]
    columns += [(name, "", "", name, "{:.3g}".format) for name in ("signal", "noise")]
    columns += [("accuracy", v, i, f"{v} {i}", percent) for i in ("train", "test") for v in ("clean", "robust")]
    columns += [("loss", "robust", i, f"robust {i} loss", "{:.3g}".format) for i in ("train", "test")]
    shown = [(heading, wide[q, v, i].map(text)) for q, v, i, heading, text in columns if (q, v, i) in wide]
    rows = [[str(epoch), *cells] for epoch, *cells in zip(wide.index, *(c for _, c in shown), strict=True)]
    return ["epoch", *(heading for heading, _ in shown)], rows
