"""The command `co-probe leaderboard`."""

from pathlib import Path
from textwrap import fill

import click

from co_probe.cli import options
from co_probe.cli.command import MEASURE, Command
from co_probe.cli.output import print_table, progress_bar
from co_probe.files.atomic import write_atomic

WIDTH = 100  # letters in a line of text


@click.command(
    cls=Command,
    heading=MEASURE,
    short_help="Compare methods: robust accuracy over seeds, collapses and cost.",
    examples=[
        "co-probe leaderboard --runs sweeps/digits --images 200",
        "co-probe leaderboard --quick --html board.html",
    ],
)
@options.runs_argument
@click.option(
    "--attacks",
    default="clean,pgd50x10,aa",
    show_default=True,
    help="Attacks, as in co-probe eval; rows are sorted by the last one.",
)
@click.option("--epochs", default="best,last", show_default=True, help="best, last or both.")
@click.option(
    "--images", type=click.IntRange(min=1), help="Number of test images, from a fixed shuffle.  [default: all]"
)
@click.option("--quick", is_flag=True, help="Show stored results only, and measure nothing.")
@click.option("--html", type=click.Path(path_type=Path, dir_okay=False), help="Also write a page with bars.")
@options.model
@options.weights
@options.results
@options.device
@click.option("--csv", "style", flag_value="csv", help="Print a tidy table as CSV.")
@options.document_format
def leaderboard(
    runs: tuple[Path, ...],
    runs_dir: Path,
    attacks: str,
    epochs: str,
    images: int | None,
    quick: bool,
    html: Path | None,
    model: str | None,
    weights: str,
    results: Path | None,
    device: str,
    style: str | None,
) -> None:
    """Compare methods over all runs under runs/, or over the given RUNs: one table per data set and ε.

    Each method has a row: accuracy at the best and the last epoch as mean ± standard deviation over seeds, the number
    of seeds that collapsed, and the cost of training. AutoAttack decides whether a run collapsed, because PGD alone can
    miss one. Missing measurements are made first and stored; with ten restarts and AutoAttack they take long, so begin
    with few --images. AutoAttack needs another package: pip install "co-probe[autoattack]".
    """
    from co_probe.reporting.leaderboard import leaderboard as compare

    stored = options.compatible(options.open_stored(runs, runs_dir, model, results, weights), options.unfinished)
    with progress_bar("evaluating, batches") as progress:
        board = compare(
            list(stored),
            attacks=[name.strip() for name in attacks.split(",") if name.strip()],
            epochs=[name.strip() for name in epochs.split(",") if name.strip()],
            images=images,
            quick=quick,
            device=device,
            progress=progress,
        )
    if html:
        write_atomic(html, board.to_html().encode())
    if style:
        text = {"csv": board.to_csv, "markdown": board.to_markdown, "latex": board.to_latex}[style]()
        click.echo(text, nl=False)
        return
    for number, each in enumerate(board.boards):
        print_table(("\n" if number else "") + fill(each.caption, WIDTH), each.header, each.rows())
    if html:
        click.echo(f"Wrote {html}. Open it in a browser.")
