"""co-probe plot"""

from pathlib import Path
from typing import Any

import click

from co_probe.cli import options
from co_probe.cli.output import progress_bar
from co_probe.errors import DamagedFile
from co_probe.plots import PLOTS


@click.command(epilog="KIND is one of: " + ", ".join(PLOTS) + ".")
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
    help="The attack B of the gap or of induced, or what robust means (also: method).  "
    "[default: pgd10; method in phases; pgd20 in robust-overfitting, generalisation, capacity]",
)
@click.option("--reference", help="Which reference's strength to draw, by its file's name.  [default: the newest]")
@options.generator("fgsm")
@click.option("--title", help="Above the figure.  [default: data set and ε, where all runs agree]")
@options.model
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
    results: Path | None,
    device: str,
) -> None:
    """Draw the figure KIND from all runs under runs/ that fit, or the RUNs named.

    deterioration: robust accuracy and strength (Figures 1b and 2a of arXiv 2010.08034); run `co-probe strength` first.
    gap: the gap to PGD-10 (2b, 5c). steps: APART's step sizes (3). robust-overfitting: training accuracy, test accuracy
    under PGD-20, gap (5). perturbations: images and their perturbations before and during a collapse (1a), of the first
    run that has one, else of the first run at its best and last epochs.
    trade-off: clean against PGD-20 accuracy at several ε (4), at each run's best epoch.
    generalisation: clean and robust accuracy on train and test images; capacity: the same after the last epoch, against
    model.width; phases: signal and noise components of a run of the preset patches (arXiv 2306.01271).
    induced: of several runs, final accuracy under PGD-10 (or --against) over β and ε, and which runs collapsed; of one
    run, robust accuracy, curvature, and accuracy on carriers and images. spectrum: frequencies of one run's
    perturbations. (Both of arXiv 2206.08242.)
    Any probe (alignment, curvature, ...): its quantities at every epoch.
    What was not measured before is measured now.
    """
    from co_probe.drawing import draw, figure_spec
    from co_probe.plots.style import check_name, headless, save

    spec = figure_spec(kind)
    path = out or Path(f"{kind}.png")
    check_name(path)
    headless()
    choice = {"against": against, "reference": reference, "generator": generator}
    stored = options.fitting(options.open_stored(runs, runs_dir, model, results), options.unfinished)
    fit = options.fitting(stored, lambda run: spec.why_not(run, **choice), strict=bool(runs))
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
