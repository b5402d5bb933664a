"""The command `co-probe run`."""

import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import click

from co_probe.cli import options
from co_probe.cli.command import TRAIN, Command
from co_probe.cli.options import Number
from co_probe.cli.output import percent, progress_bar
from co_probe.config.settings import GUARDS
from co_probe.methods import METHODS

COLUMNS = (
    # (heading, metric, width, format)
    ("lr", "learning_rate", 7, "{:.4f}".format),
    ("loss", "train_loss", 6, "{:.3f}".format),
    ("train", "train_accuracy", 6, percent),
    ("clean", "clean", 6, percent),
    ("FGSM", "fgsm", 6, percent),
    ("PGD-10", "pgd10", 6, percent),
    ("gap", "gap", 6, "{:z.2f}".format),
    ("seconds", "seconds", 7, "{:.1f}".format),
)


@click.command(
    epilog="METHOD is one of: " + ", ".join(METHODS) + "; or your own: package.module:Name.",
    cls=Command,
    heading=TRAIN,
    short_help="Train a method; every epoch is stored.",
    examples=[
        "co-probe run fgsm",
        "co-probe run apart --preset cifar10-30 --epsilon 8/255 --seed 1 --out runs/apart-1",
        "co-probe run fgsm --guard --set model.width=32",
    ],
)
@click.argument("method")
@click.option("--preset", help="Preset: its name, or a TOML file of yours.  [default: digits]")
@click.option("--out", type=click.Path(path_type=Path), help="Folder of the run.  [default: runs/METHOD]")
@click.option("--epochs", type=int, help="Number of epochs (passes over the training images).")
@click.option(
    "--epsilon",
    type=Number(),
    help="Bound of perturbations (L∞, or what the setting norm says), in units of a [0, 1] image: 8/255 or 0.031.",
)
@click.option("--seed", type=int, help="Random seed.  [default: the preset's, else 0]")
@options.sections()
@click.option(
    "--set",
    "assignments",
    multiple=True,
    metavar="KEY=VALUE",
    help="Override a setting of the preset: method.steps=5, model.width=32.",
)
@click.option(
    "--no-step-indicators",
    is_flag=True,
    help="Do not record indicators of the gradients of each training step.",
)
@click.option(
    "--guard",
    type=click.Choice(GUARDS),
    is_flag=False,
    flag_value="pgd2",
    help="Watch for a collapse, and on the alarm train on with two steps of ε/2 (pgd2, if none is named) or N-FGSM, go "
    "back some steps before that (rollback), or stop.",
)
@click.option(
    "--init-from",
    metavar="RUN@EPOCH",
    help="Start a new run from the weights of this epoch (a number, last or best) of another one.",
)
@click.option("--resume", is_flag=True, help="Resume an existing run, or start it if there is none.")
@click.option("--overwrite", is_flag=True, help="Delete an existing run and start again.")
@click.option(
    "--tensorboard",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="DIR",
    help="Also write TensorBoard events to this folder: scalars per epoch and step, and figures at the end.",
)
@click.option(
    "--nproc",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="Processes of this machine that train the run together, each on a GPU of its own if there are enough. Across "
    "machines: torchrun -m co_probe run ...",
)
@options.compile
@options.device
def run(
    method: str,
    preset: str | None,
    out: Path | None,
    epochs: int | None,
    epsilon: float | None,
    seed: int | None,
    assignments: tuple[str, ...],
    no_step_indicators: bool,
    guard: str | None,
    init_from: str | None,
    resume: bool,
    overwrite: bool,
    tensorboard: Path | None,
    nproc: int,
    compile: bool,
    device: str,
    **sections: Any,
) -> None:
    """Train METHOD and store every epoch.

    A line per epoch shows the learning rate; training loss and training accuracy, on perturbed images; accuracy on
    probe images, clean, under FGSM and under PGD-10; the gap from FGSM to PGD-10 in nats; and seconds of training.
    """
    if resume and overwrite:
        raise click.UsageError("--resume and --overwrite exclude each other")
    from co_probe.config import parse_assignment
    from co_probe.training.train import resolve_config

    folder = out or Path("runs") / method.rpartition(":")[2]
    given = {"epochs": epochs, "epsilon": epsilon, "seed": seed, "guard": guard, "init_from": init_from}
    overrides = [{key: value} for key, value in given.items() if value is not None]
    overrides += [{"step_indicators": False}] if no_step_indicators else []
    overrides += options.section_settings(sections)
    overrides += [parse_assignment(text) for text in assignments]
    config = resolve_config(folder, method, preset, overrides, resume)
    options.check_sections(sections, config)

    arguments = method, config.to_dict(), folder, tensorboard
    how = {"resume": resume, "overwrite": overwrite, "device": device, "compile": compile}
    if nproc > 1:
        from co_probe.cli.launch import launch

        raise click.exceptions.Exit(launch(nproc, train, *arguments, how))
    train(*arguments, how)


def train(method: str, settings: dict[str, Any], folder: Path, tensorboard: Path | None, how: dict[str, Any]) -> None:
    """Train, and print a line per epoch in the first process of a run.

    Args:
        method: Name of the method as typed.
        settings: Settings of the run as plain data.
        folder: Folder of the run.
        tensorboard: Folder of TensorBoard events, or None.
        how: Further arguments of `co_probe.training.loop.epochs`.
    """
    from co_probe.config import Config
    from co_probe.runs.build import epoch_count
    from co_probe.training.group import launched
    from co_probe.training.loop import epochs as train_epochs

    config, (rank, _) = Config.from_dict(settings), launched()
    if rank:
        for _ in train_epochs(config, folder, **how):
            pass
        return
    finished, planned = 0, epoch_count(config)
    with ExitStack() as stack:
        events = None
        if tensorboard:
            from co_probe.reporting.events import EventWriter

            events = stack.enter_context(EventWriter(tensorboard, folder))
        show = stack.enter_context(progress_bar(method))

        def within_epoch(epoch: int, done: int, total: int) -> None:
            show(f"epoch {epoch}/{planned}, images", done, total)

        # Without a terminal, the line per epoch shows progress.
        progress = within_epoch if sys.stderr.isatty() else None
        for metrics in train_epochs(config, folder, progress=progress, **how):
            if not finished:
                click.echo("  epoch " + " ".join(f"{name:>{width}}" for name, _, width, _ in COLUMNS))
            finished = metrics.epoch
            if events:
                events.epoch(metrics)
            cells = " ".join(f"{show_as(getattr(metrics, key)):>{width}}" for _, key, width, show_as in COLUMNS)
            click.echo(f"{finished:>3}/{planned:<3} {cells}")
    if finished:
        click.echo(f"Stored in {folder}. Next: co-probe show {folder}")
    else:
        click.echo(f"{folder} is complete: all {planned} epochs were trained before.")
