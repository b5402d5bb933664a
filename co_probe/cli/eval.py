"""The command `co-probe eval`."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import click
import pandas as pd

from co_probe.cli import options
from co_probe.cli.command import MEASURE, Command
from co_probe.cli.output import PRINTERS, print_frame, progress_bar
from co_probe.config.labels import attack_label, chosen_label, epsilon_label
from co_probe.reporting.tables import mean_and_spread

PUBLISHED = "robustbench:"
IMAGES = 1000  # default number of images for models of RobustBench
TITLE = "Accuracy (%) on {n} test images"
NOTE = (
    "Each column is that attack alone. PGD, C&W and AutoAttack count an image as broken at the first point they visit "
    "that is misclassified, the image itself included."
)


@click.command(
    "eval",
    cls=Command,
    heading=MEASURE,
    short_help="Measure accuracy on the whole test set under each attack.",
    examples=[
        "co-probe eval runs/fgsm runs/pgd --attacks clean,pgd20",
        "co-probe eval --epoch last --mean --markdown",
        "co-probe eval robustbench:Wong2020Fast --images 500",
    ],
)
@options.runs_argument
@click.option(
    "--epoch",
    default="best",
    show_default=True,
    help="best (under PGD-10, on validation images or else test images of the probe set), last, or N.",
)
@click.option(
    "--attacks",
    default="clean,gaussian,pgd20,cw,aa",
    show_default=True,
    help="Columns: clean, gaussian, fgsm, pgdN, pgdNxR (R restarts), cw, aa (AutoAttack).",
)
@click.option(
    "--images", type=click.IntRange(min=1), help="Number of test images, from a fixed shuffle.  [default: all]"
)
@options.epsilon
@click.option(
    "--data",
    help="Test images of a robustbench:NAME: a data set, image-folder:PATH or a file.  [default: the model's own]",
)
@click.option(
    "--robustbench-dir",
    type=click.Path(path_type=Path),
    default=Path("models"),
    show_default=True,
    help="Where RobustBench keeps its weights.",
)
@click.option("--mean", is_flag=True, help="Print one line per method and ε: mean ± standard deviation over runs.")
@options.model
@options.weights
@options.results
@options.device
@options.probe_engine
@options.table_format
@options.document_format
def evaluate(
    runs: tuple[Path, ...],
    runs_dir: Path,
    epoch: str,
    attacks: str,
    images: int | None,
    epsilon: Sequence[float] | None,
    data: str | None,
    robustbench_dir: Path,
    mean: bool,
    model: str | None,
    weights: str,
    results: Path | None,
    device: str,
    style: str | None,
    **engine: Any,
) -> None:
    """Measure accuracy on the whole test set under each attack, as in Tables 2 to 4 of arXiv 2010.08034.

    Without RUN, all runs under runs/ are evaluated. Results are stored, and an attack is not repeated.
    AutoAttack (aa) needs another package: pip install "co-probe[autoattack]".

    RUN may be robustbench:NAME or robustbench:DATASET/THREAT/NAME, a model of RobustBench's zoo whose weights are on
    the disk (package robustbench). It is imported as the run NAME first, which all other commands then take too.
    """
    from co_probe.probes.eval import evaluate as measure

    if data and not any(map(is_published, runs)):
        raise click.UsageError("--data is for robustbench:NAME: a run holds its own images")
    about = {"test": data, "images": images or IMAGES, "folder": robustbench_dir, "device": device}
    runs = tuple(imported(run, runs_dir, **about) if is_published(run) else run for run in runs)
    stored = options.compatible(options.open_stored(runs, runs_dir, model, results, weights), options.unfinished)
    names = [name.strip() for name in attacks.split(",") if name.strip()]
    settings: dict[str, Any] = {"attacks": names, "epoch": epoch, "images": images, "epsilon": epsilon}
    settings["device"] = device
    running = options.probe_executor(len(stored), device=device, **engine)
    with progress_bar("evaluating, batches") as progress, running as executor:
        settings |= {"progress": progress, "executor": executor}
        frame = options.measured(stored, lambda some: measure(some, **settings))
    if style in ("json", "csv"):
        print_frame(frame, style)
        return
    header, rows = (by_method if mean else by_run)(frame)
    sizes = sorted({int(n) for n in frame.loc[frame["quantity"] == "accuracy", "n"]})
    title = TITLE.format(n=" or ".join(map(str, sizes)))
    title += f"; {chosen_label(run.chosen_on for run in stored)}" if epoch == "best" else ""
    PRINTERS[style or "people"](title, header, rows)
    if not style:
        click.echo(NOTE)


def is_published(run: Path) -> bool:
    """Return whether this names a model of RobustBench instead of a run."""
    return str(run).startswith(PUBLISHED)


def imported(name: Path, runs_dir: Path, **about: Any) -> Path:
    """Import a model of RobustBench, if needed, and return the folder of its run."""
    from co_probe.training.robustbench import import_robustbench

    published = str(name).removeprefix(PUBLISHED)
    return import_robustbench(published, out=runs_dir / published.rpartition("/")[2], **about).path


def by_run(frame: pd.DataFrame) -> tuple[list[str], list[list[str]]]:
    """Make header and cells with a row per run and ε."""
    columns = _columns(frame)
    rows = []
    for (run, _), part in frame.groupby(["run", "epsilon"], sort=False):
        values = part.set_index("attack")["value"]
        cells = [_number(name, values[name]) for name in columns]
        first = part.iloc[0]
        rows.append([str(run), str(first["method"]), epsilon_label(first["epsilon"]), str(first["epoch"]), *cells])
    return ["run", "method", "ε", "epoch", *map(_heading, columns)], rows


def by_method(frame: pd.DataFrame) -> tuple[list[str], list[list[str]]]:
    """Make header and cells with a row per method and ε: mean ± standard deviation (n − 1) over runs."""
    columns = _columns(frame)
    rows = []
    for (method, epsilon), part in frame.groupby(["method", "epsilon"]):
        values = {name: group.tolist() for name, group in part.groupby("attack")["value"]}
        cells = [mean_and_spread(values.get(name, []), partial(_number, name)) for name in columns]
        rows.append([str(method), epsilon_label(float(str(epsilon))), str(part["run"].nunique()), *cells])
    return ["method", "ε", "runs", *map(_heading, columns)], rows


def _columns(frame: pd.DataFrame) -> list[str]:
    """Return the attacks in order, then seconds of training if known."""
    names = list(frame["attack"].unique())
    return sorted(names, key=lambda name: name == "")


def _heading(attack: str) -> str:
    return attack_label(attack) if attack else "seconds/epoch"


def _number(attack: str, value: float) -> str:
    return f"{100 * value:.2f}" if attack else f"{value:.3g}"
