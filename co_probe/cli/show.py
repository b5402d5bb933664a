"""co-probe show"""

from pathlib import Path
from typing import TYPE_CHECKING

import click
import pandas as pd

from co_probe.cli import options
from co_probe.cli.output import percent, print_frame, print_table

if TYPE_CHECKING:
    from co_probe.diagnosis import Verdict
    from co_probe.store import StoredRun

ACCURACIES = {"train_accuracy": "train", "clean": "clean", "fgsm": "FGSM", "own": "own attack", "pgd10": "PGD-10"}


@click.command()
@options.runs_argument
@options.table_format
def show(runs: tuple[Path, ...], runs_dir: Path, style: str | None) -> None:
    """The runs here, or each epoch of the RUNs named; with the verdict.

    Epochs of catastrophic overfitting are marked: accuracy under PGD-10 has collapsed while accuracy under the training
    attack has not. `co-probe diagnose` explains the verdict.
    """
    stored = options.open_stored(runs, runs_dir)
    if style:
        print_frame(pd.concat([run.frame("metrics") for run in stored], ignore_index=True), style)
    elif runs:
        for run in stored:
            _print_run(run)
    else:
        _print_list(runs_dir, stored)


def headline(run: "StoredRun", found: "Verdict") -> str:
    """The verdict on a run in a few words, with what the run lacks."""
    text = found.headline
    epochs = run.epochs
    if epochs and (missing := sorted(set(range(1, epochs[-1])) - set(epochs))):
        text += f"; epochs whose files are missing: {', '.join(map(str, missing))}"
    return f"{text}, so far" if epochs and epochs[-1] < run.planned else text


def _print_list(runs_dir: Path, stored: list["StoredRun"]) -> None:
    from co_probe.diagnosis import verdict_of

    rows = []
    for run in stored:
        found, robust = verdict_of(run), list(run.metric("pgd10").values())
        rows.append(
            [
                run.name,
                run.info.method,
                run.info.data,
                f"{run.epsilon:.4g}",
                "" if run.info.seed is None else str(run.info.seed),
                f"{len(run.epochs)}/{run.planned}",
                percent(max(robust, default=float("nan"))),
                percent(robust[-1] if robust else float("nan")),
                headline(run, found),
            ]
        )
    header = ["run", "method", "data", "ε", "seed", "epochs", "best PGD-10", "last", "verdict"]
    print_table(f"Runs in {runs_dir}/", header, rows)


def _print_run(run: "StoredRun") -> None:
    from co_probe.diagnosis import verdict_of

    found = verdict_of(run)
    metrics = {epoch: run.metrics(epoch) for epoch in run.epochs}
    nothing = float("nan")
    rows = []
    for epoch, m in metrics.items():
        loss, gap = m.get("train_loss"), m.get("gap")
        rows.append(
            [
                f"{'collapsed ' if found.collapsed(epoch) else ''}{epoch}",
                "" if loss is None else f"{loss:.3f}",
                *(percent(m.get(key, nothing)) for key in ACCURACIES),
                "" if gap is None else f"{gap:z.2f}",
            ]
        )
    info = run.info
    seed = "" if info.seed is None else f", seed {info.seed}"
    title = f"{run.name}: {info.method} on {info.data}, ε = {run.epsilon:.4g}{seed}"
    print_table(title, ["epoch", "train loss", *ACCURACIES.values(), "gap (nats)"], rows)
    click.echo(f"Verdict: {headline(run, found)}.")
