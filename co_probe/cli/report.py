"""co-probe report"""

from pathlib import Path
from typing import Any

import click

from co_probe.cli import options
from co_probe.cli.output import progress_bar
from co_probe.errors import DamagedFile


@click.command()
@options.runs_argument
@click.option(
    "-o",
    "--out",
    type=click.Path(path_type=Path),
    default=Path("report.html"),
    show_default=True,
    help="File to write; one that is there is replaced.",
)
@click.option("--title", help="Heading of the page.  [default: the verdict]")
@click.option("--quick", is_flag=True, help="Measure nothing: show what the runs have stored, without images.")
@options.model
@options.results
@options.device
def report(
    runs: tuple[Path, ...],
    runs_dir: Path,
    out: Path,
    title: str | None,
    quick: bool,
    model: str | None,
    results: Path | None,
    device: str,
) -> None:
    """Write all runs under runs/, or the RUNs named, as one HTML file that needs no other file and no network.

    It holds the verdict, a slider over the epochs (images, perturbations, predictions), the paper's figures, tables
    with 95% intervals, settings, environment, and the commands that reproduce it; several runs stand side by side.
    What was not measured before is measured now.
    """
    from co_probe.reporting.report import report as write

    stored = options.fitting(options.open_stored(runs, runs_dir, model, results), options.unfinished, strict=bool(runs))
    with progress_bar("report") as progress:

        def make(chosen: list[Any]) -> Path:
            return write(chosen, out, quick=quick, title=title, device=device, progress=progress)

        try:
            path = make(list(stored))
        except DamagedFile:
            if len(stored) == 1:
                raise
            path = make(options.verified(stored))
    click.echo(f"Wrote {path} ({path.stat().st_size / 1e6:.2g} MB). Open it in a browser.")
