"""co-probe show"""

from pathlib import Path
from typing import TYPE_CHECKING

import click
import pandas as pd

from co_probe.cli import options
from co_probe.cli.output import percent, print_frame, print_table

if TYPE_CHECKING:
    from co_probe.store import StoredRun


@click.command()
@options.runs_argument
@options.table_format
def show(runs: tuple[Path, ...], runs_dir: Path, style: str | None) -> None:
    """The runs here, or each epoch of the RUNs named; with verdict and onset.

    Onset of catastrophic overfitting: the first epoch whose accuracy under PGD-10 is below half of the best so far
    while accuracy under the training attack is not, and stays so to the end.
    """
    stored = options.open_stored(runs, runs_dir)
    if style:
        print_frame(pd.concat([run.frame("metrics") for run in stored], ignore_index=True), style)
    elif runs:
        for run in stored:
            _print_run(run)
    else:
        _print_list(runs_dir, stored)


def verdict(run: "StoredRun") -> str:
    """One line on how the run went."""
    epochs, planned = run.epochs, run.planned
    if not epochs:
        return "no epoch finished yet"
    best = max(run.metrics(epoch)["pgd10"] for epoch in epochs)
    if best < 0.1:
        text = "never robust (PGD-10 accuracy was below 10% throughout), so nothing can be said"
    elif (start := run.onset) is not None:
        text = f"catastrophic overfitting from epoch {start}"
    else:
        text = "no catastrophic overfitting"
    if missing := sorted(set(range(1, epochs[-1])) - set(epochs)):
        text += f"; epochs whose files are missing: {', '.join(map(str, missing))}"
    return text if epochs[-1] >= planned else f"{text}, so far"


def _print_list(runs_dir: Path, stored: list["StoredRun"]) -> None:
    rows = []
    for run in stored:
        accuracies = [run.metrics(epoch)["pgd10"] for epoch in run.epochs]
        rows.append(
            [
                run.name,
                run.config.method_title,
                run.config.data_title,
                f"{run.epsilon:.4g}",
                str(run.config.seed),
                f"{len(run.epochs)}/{run.planned}",
                percent(max(accuracies, default=float("nan"))),
                percent(accuracies[-1] if accuracies else float("nan")),
                verdict(run),
            ]
        )
    header = ["run", "method", "data", "ε", "seed", "epochs", "best PGD-10", "last", "verdict"]
    print_table(f"Runs in {runs_dir}/", header, rows)


def _print_run(run: "StoredRun") -> None:
    start = run.onset
    rows = []
    for epoch in run.epochs:
        m = run.metrics(epoch)
        accuracies = [percent(m[key]) for key in ("train_accuracy", "clean", "fgsm", "own", "pgd10")]
        rows.append(
            [
                f"{'onset ' if epoch == start else ''}{epoch}",
                f"{m['train_loss']:.3f}",
                *accuracies,
                f"{m['gap']:z.2f}",
            ]
        )
    config = run.config
    title = f"{run.name}: {config.method_title} on {config.data_title}, ε = {run.epsilon:.4g}, seed {config.seed}"
    header = ["epoch", "train loss", "train", "clean", "FGSM", "own attack", "PGD-10", "gap (nats)"]
    print_table(title, header, rows)
    click.echo(f"Verdict: {verdict(run)}.")
