"""The command `co-probe demo`."""

import shutil
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import pandas as pd

from co_probe.cli import options
from co_probe.cli.command import TRAIN, Command
from co_probe.cli.output import percent, print_frame, print_table, progress_bar

if TYPE_CHECKING:
    from co_probe.runs import Run

METHODS = ("fgsm", "apart-simple", "apart", "pgd")
KINDS = ("deterioration", "gap", "perturbations", "robust-overfitting", "steps")
FULL = {"probe": {"test": 200, "train": 200}}  # PGD-10 on all 500 images would take longer than training
QUICK = {"epochs": 3, "probe": {"test": 50, "train": 50}, "model": {"width": 8}}


@click.command(
    cls=Command,
    heading=TRAIN,
    short_help="Train four methods on digits, measure them, draw the figures.",
    examples=["co-probe demo", "co-probe demo --quick --out /tmp/demo"],
)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default=Path("demo"),
    show_default=True,
    help="Folder of runs and figures.",
)
@click.option("--seed", type=int, default=0, show_default=True, help="Seed of the four runs.")
@click.option("--jobs", type=click.IntRange(min=1), help="Number of runs to train at a time.  [default: one per core]")
@click.option("--quick", is_flag=True, help="Smoke test: run every step at a size too small for a result.")
@click.option("--overwrite", is_flag=True, help="Delete an existing demo and start again.")
@options.device
@options.table_format
def demo(out: Path, seed: int, jobs: int | None, quick: bool, overwrite: bool, device: str, style: str | None) -> None:
    """Train four methods on scikit-learn's digits, measure them, and draw the figures. Nothing is downloaded.

    It takes 10 to 30 minutes on two CPU cores, and with --quick less than one. The same command resumes an interrupted
    demo.
    """
    from co_probe.plots.style import headless, save
    from co_probe.probes.gap import gap
    from co_probe.probes.strength import strength
    from co_probe.reporting.drawing import draw, figure_spec
    from co_probe.runs import Run
    from co_probe.runs.checkpoints import export

    started = time.monotonic()
    runs_dir, figures = out / "runs", out / "figures"
    if overwrite and runs_dir.exists():
        shutil.rmtree(runs_dir)
    if not style and quick:
        click.echo("A smoke test: four tiny runs that show that everything works, and nothing about overfitting.")
    _train(runs_dir, seed, jobs, quick, device)

    runs = [Run(runs_dir / method) for method in METHODS]
    reference = out / f"pgd10_ep{runs[-1].last_epoch}.pt"
    export(runs[-1], runs[-1].last_epoch, reference)
    with progress_bar("strength") as progress:
        strengths = strength(runs, reference, device=device, progress=progress)
    with progress_bar("gap") as progress:
        gaps = gap(runs, device=device, progress=progress)

    figures.mkdir(exist_ok=True)
    headless()
    with progress_bar("figures") as progress:
        for number, kind in enumerate(KINDS, 1):
            fit = [run for run in runs if not figure_spec(kind).unsupported(run, against="pgd10")]
            save(draw(kind, fit, against="pgd10", device=device), figures / f"{kind}.png")
            progress(kind, number, len(KINDS))

    summary = pd.DataFrame([_summary(run, strengths, gaps) for run in runs])
    if style:
        print_frame(summary, style)
        return
    config = runs[0].config
    print_table(
        f"{config.data_title}, ε = {config.epsilon:.3g}, seed {config.seed}: after epoch {config.epochs}, "
        f"on {config.probe.test} test images",
        ["method", "clean", "FGSM", "PGD-10", "gap (nats)", "strength", "seconds", "verdict"],
        [_cells(row) for row in summary.to_dict("records")],
    )
    click.echo("gap: loss under PGD-10 less that under FGSM, on test images; larger = FGSM has decayed.")
    click.echo(f"strength: accuracy of {reference.name} on FGSM perturbations of the last epoch; lower = stronger.")
    click.echo(f"Figures are in {figures}/, runs in {runs_dir}/. {time.monotonic() - started:.0f} seconds in all.")


def _train(runs_dir: Path, seed: int, jobs: int | None, quick: bool, device: str) -> None:
    from co_probe.config.presets import configure
    from co_probe.sweeps.sweep import train_cells

    overrides: list[dict[str, Any]] = [{"seed": seed}, QUICK if quick else FULL]
    # The slowest first, so that cores finish at about the same time.
    cells = {runs_dir / method: configure("digits", method, *overrides) for method in reversed(METHODS)}
    with progress_bar("training 4 runs, epochs") as progress:
        for _, error in train_cells(
            cells, jobs=jobs, device=device, progress=lambda done, all_: progress("", done, all_)
        ):
            if error:
                raise error


def _summary(run: "Run", strengths: pd.DataFrame, gaps: pd.DataFrame) -> dict[str, object]:
    """Return metrics of one run after its last epoch, and the verdict."""
    from co_probe.diagnosis import verdict_of

    last = run.last_epoch

    def final(frame: pd.DataFrame, quantity: str) -> float:
        rows = frame[(frame["run"] == run.name) & (frame["epoch"] == last) & (frame["quantity"] == quantity)]
        return float(rows["value"].iloc[0])

    metrics, found = run.metrics(last), verdict_of(run)
    return {
        "method": run.config.method.name,
        "clean": metrics["clean"],
        "fgsm": metrics["fgsm"],
        "pgd10": metrics["pgd10"],
        "gap": final(gaps, "gap"),
        "strength": final(strengths, "strength"),
        "seconds": sum(run.metrics(epoch)["seconds"] for epoch in run.epochs),
        "kind": found.kind,
        "onset": found.onset,
        "verdict": found.headline,
    }


def _cells(row: dict[str, float]) -> list[str]:
    accuracies = [percent(row[key]) for key in ("clean", "fgsm", "pgd10")]
    return [
        str(row["method"]),
        *accuracies,
        f"{row['gap']:z.2f}",
        percent(row["strength"]),
        f"{row['seconds']:.0f}",
        str(row["verdict"]),
    ]
