"""The command `co-probe plot`."""

from pathlib import Path
from typing import Any

import click

from co_probe.cli import options
from co_probe.cli.command import DRAW, Command
from co_probe.cli.output import progress_bar
from co_probe.errors import DamagedFile
from co_probe.plots import PLOTS

HELP = f"""Draw the figure KIND of the given RUNs, or of all suitable runs under runs/.

{options.glossary(PLOTS)}

KIND may also be a probe (alignment, curvature, ...): its quantities at every epoch.
Missing measurements are made first.
"""


@click.command(
    help=HELP,
    epilog="KIND is one of: " + ", ".join(PLOTS) + ".",
    cls=Command,
    heading=DRAW,
    short_help="Draw a figure.",
    examples=["co-probe plot gap", "co-probe plot deterioration runs/fgsm runs/pgd -o deterioration.pdf"],
)
@click.argument("kind")
@options.runs_argument
@click.option(
    "-o",
    "--out",
    type=click.Path(path_type=Path),
    help="File to write: .png, .pdf or .svg.  [default: KIND.png]",
)
@click.option(
    "--against",
    help="Attack B of the gap, or attack for robust accuracy ('method': the run's own).  [default: depends on KIND, "
    "mostly pgd10]",
)
@click.option("--reference", help="Reference whose strength is drawn, by file name.  [default: the newest]")
@options.generator("fgsm")
@click.option("--title", help="Title of the figure.  [default: data set and ε, where all runs agree]")
@options.model
@options.weights
@options.results
@options.device
def plot(
    kind: str,
    runs: tuple[Path, ...],
    runs_dir: Path,
    out: Path | None,
    against: str | None,
    reference: str | None,
    generator: str,
    title: str | None,
    model: str | None,
    weights: str,
    results: Path | None,
    device: str,
) -> None:
    """Draw a figure and save it."""
    from co_probe.plots.style import check_name, headless, save
    from co_probe.reporting.drawing import draw, figure_spec, spans_of

    spec = figure_spec(kind)
    path = out or Path(f"{kind}.png")
    check_name(path)
    headless()
    choice = {"against": against, "reference": reference, "generator": generator}
    stored = options.compatible(options.open_stored(runs, runs_dir, model, results, weights), options.unfinished)
    fit = options.compatible(stored, lambda run: spec.unsupported(run, **choice), strict=bool(runs))
    with progress_bar("measuring") as progress:
        about: dict[str, Any] = {"title": title, "device": device, "progress": progress, **choice}
        try:
            figure = draw(kind, fit, **about)
        except DamagedFile:
            if len(fit) == 1:
                raise
            figure = draw(kind, options.verified(fit), **about)
    save(figure, path)
    click.echo(f"Wrote {path}")
    if spec.single and len(fit) > 1:
        episodes = {run.name: spans for run in fit if (spans := spans_of(run))}
        (shown,) = spec.shown(fit, episodes)
        click.echo(f"It shows {shown.name}: the figure {kind} is of one run. Name another run to draw that one.")
