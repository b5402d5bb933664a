"""The command `co-probe report`."""

from pathlib import Path
from typing import Any

import click

from co_probe.cli import options
from co_probe.cli.command import DRAW, Command
from co_probe.cli.endings import in_allowed_words
from co_probe.cli.output import progress_bar
from co_probe.errors import DamagedFile


@click.command(
    cls=Command,
    heading=DRAW,
    short_help="Write verdict, figures and tables as one HTML page.",
    examples=["co-probe report runs/fgsm -o report.html", "co-probe report runs/fgsm runs/apart --quick"],
)
@options.runs_argument
@click.option(
    "-o",
    "--out",
    type=click.Path(path_type=Path),
    default=Path("report.html"),
    show_default=True,
    help="File to write, which may exist.",
)
@click.option("--title", help="Heading of the page.  [default: the verdict]")
@click.option("--quick", is_flag=True, help="Show stored results only, without images, and measure nothing.")
@options.model
@options.weights
@options.results
@options.device
def report(
    runs: tuple[Path, ...],
    runs_dir: Path,
    out: Path,
    title: str | None,
    quick: bool,
    model: str | None,
    weights: str,
    results: Path | None,
    device: str,
) -> None:
    """Write one self-contained HTML page about the given RUNs, or about all runs under runs/.

    It holds the verdict, the figures of the paper, a slider over the epochs with images, perturbations and predictions,
    tables with 95% intervals, settings, environment, and the commands that reproduce it. Several runs stand side by
    side. Missing measurements are made first.
    """
    from co_probe.reporting.report import report as write

    stored = options.compatible(
        options.open_stored(runs, runs_dir, model, results, weights), options.unfinished, strict=bool(runs)
    )
    left_out: list[str] = []
    with progress_bar("report") as progress:

        def make(chosen: list[Any]) -> Path:
            left_out.clear()
            engine: dict[str, Any] = {"device": device, "progress": progress, "leaves_out": left_out.append}
            return write(chosen, out, quick=quick, title=title, **engine)

        try:
            path = make(list(stored))
        except DamagedFile:
            if len(stored) == 1:
                raise
            path = make(options.verified(stored))
    click.echo(f"Wrote {path} ({path.stat().st_size / 1e6:.2g} MB). Open it in a browser.")
    for line in left_out:
        click.echo(f"Left out: {in_allowed_words(line)}")
