"""The command `co-probe gap`."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from co_probe.cli import options
from co_probe.cli.command import MEASURE, Command
from co_probe.cli.output import by_epoch, each_epsilon, percent, print_frame, print_table, progress_bar


@click.command(
    cls=Command,
    heading=MEASURE,
    short_help="Measure how far FGSM falls behind a strong attack.",
    examples=["co-probe gap", "co-probe gap runs/fgsm --against pgd20"],
)
@options.runs_argument
@click.option("--against", default="pgd10", show_default=True, help="The attack B: pgd10, pgd20, pgd50x10, ...")
@options.generator("fgsm")
@options.split
@options.epsilon
@options.model
@options.weights
@options.results
@options.device
@options.probe_engine
@options.compile
@options.table_format
def gap(
    runs: tuple[Path, ...],
    runs_dir: Path,
    against: str,
    generator: str,
    split: str,
    epsilon: Sequence[float] | None,
    model: str | None,
    weights: str,
    results: Path | None,
    device: str,
    compile: bool,
    style: str | None,
    **engine: Any,
) -> None:
    """Measure the gap G_B,i(A) at every epoch: mean loss under attack B minus mean loss under perturbation A, in nats.

    A larger gap means that A is weaker. It is near 0 for a healthy run. A is FGSM, or the run's own training attack
    with --generator method. The number in brackets is accuracy under B. Without RUN, all runs under runs/ are measured.
    Results are stored, and only new epochs are measured again.
    """
    from co_probe.probes.gap import gap as measure

    stored = options.compatible(options.open_stored(runs, runs_dir, model, results, weights), options.unfinished)
    settings: dict[str, Any] = {"against": against, "generator": generator, "split": split, "epsilon": epsilon}
    settings |= {"device": device, "compile": compile}
    running = options.probe_executor(len(stored), device=device, **engine)
    with progress_bar("gap") as progress, running as executor:
        settings |= {"progress": progress, "executor": executor}
        frame = options.measured(stored, lambda some: measure(some, **settings))
    if style:
        print_frame(frame, style)
        return
    for at, part in each_epsilon(frame, epsilon):
        header, values = by_epoch(part[part["quantity"] == "gap"], "{:z.2f}".format)
        _, accuracies = by_epoch(part[part["quantity"] == "accuracy"], percent)
        rows = [
            [
                row[0],
                *(f"{value} ({accuracy})" if value else "" for value, accuracy in zip(row[1:], other[1:], strict=True)),
            ]
            for row, other in zip(values, accuracies, strict=True)
        ]
        title = f"Gap from {generator} to {against}{at} in nats, larger = weaker (accuracy under {against})"
        print_table(title, header, rows)
