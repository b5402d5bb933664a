"""The command `co-probe watch`."""

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import click

from co_probe.cli import options
from co_probe.cli.command import MEASURE, Command
from co_probe.cli.output import percent
from co_probe.errors import UserError

if TYPE_CHECKING:
    from rich.console import RenderableType

    from co_probe.reporting.watching import View

    Look = Callable[[], View]

LABEL = 18  # characters of names of curves
TONES = {"healthy": "green", "undecided": "dim", "recovered": "yellow", "robust-overfitting": "yellow"}
LOOKS = {"clean": "blue", "fgsm": "dark_orange", "pgd": "bold", "train": "dim"}


@click.command(
    cls=Command,
    heading=MEASURE,
    short_help="Show a run live while it is trained.",
    examples=["co-probe watch", "co-probe watch runs/fgsm --once"],
)
@click.argument("run", required=False, metavar="[RUN]", type=click.Path(path_type=Path))
@options.runs_dir
@click.option(
    "--interval",
    type=click.FloatRange(min=0.1),
    default=2.0,
    show_default=True,
    metavar="SECONDS",
    help="Seconds between updates.",
)
@click.option("--once", is_flag=True, help="Show the present state and exit.")
def watch(run: Path | None, runs_dir: Path, interval: float, once: bool) -> None:
    """Show a RUN while another process trains it: accuracies, gap, verdict so far, and time left.

    Without RUN, the newest one under runs/ is shown. It ends when the run is finished, or with Ctrl-C. If standard
    output is not a terminal, a line is printed for each new epoch.
    """
    from co_probe.reporting.watching import Watch

    found = options.find((run,) if run else (), runs_dir)
    watched = Watch(found[0] if len(found) == 1 else max(found, key=_changed))
    try:
        if once:
            _show_once(watched.look())
        elif sys.stdout.isatty():
            _live(watched.look, interval)
        else:
            _lines(watched.look, interval)
    except KeyboardInterrupt as end:
        if type(end) is not KeyboardInterrupt:  # another signal than Ctrl-C, which is the usual way to quit
            raise


def _changed(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}") from error


def _show_once(view: "View") -> None:
    if sys.stdout.isatty():
        from rich.console import Console

        Console(highlight=False).print(screen(view, 80))
    else:
        click.echo(view.line())


def _lines(look: "Look", interval: float) -> None:
    seen = -1
    while True:
        view = look()
        if len(view.epochs) != seen:
            seen = len(view.epochs)
            click.echo(view.line())
        if view.finished:
            return
        time.sleep(interval)


def _live(look: "Look", interval: float) -> None:
    from rich.console import Console
    from rich.live import Live

    console = Console(highlight=False)
    with Live(console=console, auto_refresh=False) as live:
        while True:
            view = look()
            live.update(screen(view, console.width), refresh=True)
            if view.finished:
                return
            time.sleep(interval)


def screen(view: "View", width: int) -> "RenderableType":
    """Render the view for a terminal of `width` characters."""
    import pandas as pd
    from rich.console import Group
    from rich.text import Text

    from co_probe.reporting.chart import NAMES
    from co_probe.reporting.watching import duration, sparkline

    lines = [Text.assemble((view.name, "bold"), f"  {view.about}")]
    if not view.epochs:
        return Group(*lines, Text("waiting for the first epoch", "dim"))
    last, room = view.epochs[-1], max(10, width - LABEL - 10)
    done = max(1, min(room, round(room * last / view.planned))) if view.planned else min(room, len(view.epochs))
    bar = Text.assemble("epoch".ljust(LABEL), ("━" * done, "green"), ("━" * (room - done), "dim"))
    lines.append(bar.append(f" {last}{f'/{view.planned}' if view.planned else ''}"))
    latest = view.latest()
    for curve in ("clean", "train", "fgsm", "pgd"):  # on the axis of the bar
        if curve in latest:
            row = Text(NAMES[curve].ljust(LABEL)).append(sparkline(view.curves[curve], done).ljust(room), LOOKS[curve])
            lines.append(row.append(f" {percent(latest[curve]):>6}"))
    found = view.verdict
    if found and found.episodes:
        collapsed = pd.Series([1.0 if found.collapsed(epoch) else float("nan") for epoch in view.epochs])
        lines.append(Text("collapsed".ljust(LABEL)).append(sparkline(collapsed, done), "red"))
    if view.gap is not None:
        lines.append(Text(f"{'gap'.ljust(LABEL)}{view.gap:z.2f} nats"))
    if found:
        said = found.headline + ("" if view.finished else ", so far")
        lines.append(Text("verdict".ljust(LABEL)).append(said, TONES.get(found.kind, "bold red")))
    if view.finished:
        lines.append(Text(f"{'time left'.ljust(LABEL)}none: finished"))
    elif view.stalled:
        overdue = f"no new epoch for {duration(view.idle)}: has it stopped?"
        lines.append(Text("time left".ljust(LABEL)).append(overdue, "red"))
    else:
        each = f", {duration(view.per_epoch)} per epoch" if view.per_epoch is not None else ""
        lines.append(Text(f"{'time left'.ljust(LABEL)}{duration(view.remaining)}{each}"))
    return Group(*lines)
