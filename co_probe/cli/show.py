"""The command `co-probe show`."""

from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import click
import pandas as pd

from co_probe.cli import options
from co_probe.cli.command import MEASURE, Command
from co_probe.cli.output import percent, print_frame, print_table
from co_probe.config.labels import chosen_label, epsilon_label

if TYPE_CHECKING:
    from co_probe.diagnosis import Verdict
    from co_probe.store import StoredRun

WIDTH = 100  # characters per line of the list of runs
ABOUT = ("method", "data", "ε", "seed")  # columns that are omitted if all runs agree
FOLD = ("run", "method", "data", "verdict")  # columns that may take several lines

# Columns of one run: header, metric and format.
METRICS: tuple[tuple[str, str, Callable[[float], str]], ...] = (
    ("train loss", "train_loss", "{:.3f}".format),
    ("train", "train_accuracy", percent),
    ("clean", "clean", percent),
    ("FGSM", "fgsm", percent),
    ("training attack", "train_attack", percent),
    ("PGD-10", "pgd10", percent),
    ("PGD-10, validation", "validation_pgd10", percent),
    ("gap (nats)", "gap", "{:z.2f}".format),
)


@click.command(
    cls=Command,
    heading=MEASURE,
    short_help="Show runs with their verdicts, or the epochs of a run.",
    examples=["co-probe show", "co-probe show runs/fgsm"],
)
@options.runs_argument
@options.weights
@options.table_format
def show(runs: tuple[Path, ...], runs_dir: Path, weights: str, style: str | None) -> None:
    """List all runs under runs/ with their verdicts, or show each epoch of the given RUNs.

    Epochs of catastrophic overfitting are marked: accuracy under PGD-10 has collapsed while accuracy under the training
    attack has not. `co-probe diagnose` explains the verdict.
    """
    stored = options.open_stored(runs, runs_dir, weights=weights)
    if style:
        frames = options.each_readable(stored, lambda run: run.frame("metrics"))
        print_frame(pd.concat(frames, ignore_index=True), style)
    elif runs:
        options.each_readable(stored, _print_run)
    else:
        _print_list(runs_dir, stored)


def headline(run: "StoredRun", found: "Verdict") -> str:
    """Return the verdict on a run in a few words, with missing epochs."""
    text = found.headline
    epochs = run.epochs
    if missing := _missing(epochs):
        text += f"; epochs whose files are missing: {', '.join(missing)}"
    return f"{text}, so far" if epochs and epochs[-1] < run.planned else text


def _missing(epochs: Sequence[int]) -> list[str]:
    """Format epochs that are missing before the last one: `4`, or `6 to 9`."""
    gaps = [(before + 1, after - 1) for before, after in pairwise([0, *epochs]) if after - before > 1]
    return [str(first) if first == last else f"{first} to {last}" for first, last in gaps]


def _print_list(runs_dir: Path, stored: Sequence["StoredRun"]) -> None:
    rows = options.each_readable(stored, _cells)
    # Columns that are equal for all runs are in the title.
    shared = {name: rows[0][name] for name in ABOUT if len({row[name] for row in rows}) == 1}
    columns = [name for name in rows[0] if name not in shared]
    common = ", ".join(f"{name} {value}" for name, value in shared.items() if value)
    title = f"Runs in {runs_dir}/" + (f" ({common})" if common else "")
    title += f"; accuracies on test images, {chosen_label(run.chosen_on for run in stored)}"
    print_table(title, columns, [[row[name] for name in columns] for row in rows], width=WIDTH, fold=FOLD)


def _cells(run: "StoredRun") -> dict[str, str]:
    """Make the row of a run in the list of runs."""
    from co_probe.diagnosis import verdict_of

    robust = run.metric("pgd10")
    return {
        "run": run.name,
        "method": run.info.method,
        "data": run.info.data,
        "ε": epsilon_label(run.epsilon),
        "seed": "" if run.info.seed is None else str(run.info.seed),
        "epochs": f"{len(run.epochs)}/{run.planned}",
        "best PGD-10": percent(robust[run.best_epoch]) if robust and run.best_epoch in robust else "",
        "last": percent(robust[max(robust)]) if robust else "",
        "verdict": headline(run, verdict_of(run)),
    }


def _print_run(run: "StoredRun") -> None:
    from co_probe.diagnosis import verdict_of

    found = verdict_of(run)
    metrics = {epoch: run.metrics(epoch) for epoch in run.epochs}
    shown = [column for column in METRICS if any(column[1] in each for each in metrics.values())]
    rows = [
        [
            f"{'collapsed ' if found.collapsed(epoch) else ''}{epoch}",
            *(write(each[name]) if name in each else "" for _, name, write in shown),
        ]
        for epoch, each in metrics.items()
    ]
    info = run.info
    seed = "" if info.seed is None else f", seed {info.seed}"
    title = f"{run.name}: {info.method} on {info.data}, ε = {epsilon_label(info.epsilon)}{seed}"
    if shown:
        print_table(title, ["epoch", *(header for header, *_ in shown)], rows)
    else:
        click.echo(f"{title}\n{len(rows)} epochs, without metrics.")
    on = f" (on {len(run.probe_set['validation']):,} validation images)" if run.chosen_on == "validation" else ""
    click.echo(f"Verdict{on}: {headline(run, found)}.")
