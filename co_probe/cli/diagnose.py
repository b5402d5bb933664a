"""The command `co-probe diagnose`."""

import json
from pathlib import Path
from textwrap import fill
from typing import Any

import click

from co_probe.cli import options
from co_probe.cli.command import MEASURE, Command
from co_probe.cli.endings import in_allowed_words
from co_probe.cli.output import percent, print_table, progress_bar
from co_probe.errors import DamagedFile, UserError

WIDTH = 110  # characters per line of text
DETAILED = 5  # greatest number of runs with details; for more, only the table is printed


@click.command(
    cls=Command,
    heading=MEASURE,
    short_help="Say whether, when and why a run overfitted catastrophically.",
    examples=[
        "co-probe diagnose runs/fgsm",
        "co-probe diagnose curves.csv --images 10000 --classes 10",
        "co-probe diagnose curves.csv --columns clean=val_acc,pgd=val_pgd",
    ],
)
@click.argument("sources", nargs=-1, metavar="[RUN|LOG]...", type=click.Path(path_type=Path))
@options.runs_dir
@click.option(
    "--columns",
    multiple=True,
    metavar="CURVE=NAME,...",
    help="Columns of a log, or tags of TensorBoard, if not found by usual names: clean=val_acc,pgd=pgd_acc. Curves: "
    "epoch, clean, fgsm, pgd, train. Without a name (train=), a curve is left out.",
)
@click.option("--images", type=click.IntRange(min=1), metavar="N", help="Number of test images of a log.")
@click.option("--classes", type=click.IntRange(min=2), metavar="N", help="Number of classes of a log.")
@click.option("--quick", is_flag=True, help="Use stored results only, and measure nothing.")
@options.model
@options.weights
@options.device
@click.option("--json", "style", flag_value="json", help="Print the diagnosis as JSON, a list with an entry per run.")
@click.option("--markdown", "style", flag_value="markdown", help="Print the diagnosis as Markdown.")
def diagnose(
    sources: tuple[Path, ...],
    runs_dir: Path,
    columns: tuple[str, ...],
    images: int | None,
    classes: int | None,
    quick: bool,
    model: str | None,
    weights: str,
    device: str,
    style: str | None,
) -> None:
    """Diagnose a run: did it overfit catastrophically, when, why, and what to try next.

    RUN is a run of co-probe. Without one, all runs under runs/ are diagnosed. The indicators that the diagnosis needs
    are measured once and stored: masked gradients at the best and the last epoch, and what changed around a collapse.

    LOG is a training log of another program: a CSV file with a row per epoch, or a folder of TensorBoard events. It
    needs accuracy under PGD. Clean accuracy and accuracy under the training attack sharpen the verdict. Usual names of
    columns are recognised: epoch, clean_acc, val_acc, fgsm, pgd10, "Test Robust Acc", train_acc. Percentages are, too.
    """
    from co_probe.diagnosis.diagnose import diagnose_all
    from co_probe.runs.run import open_with

    paths = [path if path.exists() or not (runs_dir / path).exists() else runs_dir / path for path in sources]
    settings: dict[str, Any] = {"columns": parse_columns(columns), "images": images, "classes": classes}
    with progress_bar("measuring") as progress:
        settings |= {"quick": quick, "model": model, "device": device, "progress": progress}
        averaged = weights == "ema"
        each_source = options.each_readable(
            paths or options.find((), runs_dir),
            lambda path: diagnose_all([open_with(path, model, weights=weights) if averaged else path], **settings),
            UserError if averaged else DamagedFile,  # a run without averaged weights is skipped
        )
        found = [each for several in each_source for each in several]
    if style == "json":
        click.echo(json.dumps([each.to_dict() for each in found], ensure_ascii=False, indent=1))
    elif style == "markdown":
        click.echo("\n".join(each.to_markdown() for each in found), nl=False)
    else:
        missing = [
            words
            for words, field in (("test images (--images)", "images"), ("classes (--classes)", "classes"))
            if any(getattr(each, field) is None for each in found)
        ]
        if missing:
            click.echo(
                f"The verdict depends on the number of {' and of '.join(missing)}: give them, since they are guessed "
                "otherwise.\n"
            )
        if len(found) > 1:
            rows = [
                [each.name, percent(each.verdict.best), percent(each.verdict.last), each.verdict.headline]
                for each in found
            ]
            print_table(f"{len(found)} runs", ["run", "best PGD", "last", "verdict"], rows)
        if len(found) <= DETAILED:
            click.echo("\n\n".join(_wrapped(in_allowed_words(str(each))) for each in found))
        else:
            click.echo("For episodes, notes and what to try next: name fewer runs, or use --markdown or --json.")


def parse_columns(given: tuple[str, ...]) -> dict[str, str | None] | None:
    """Parse the values of --columns to {curve: column}; None for a curve without a name.

    Raises:
        UserError: A part is not CURVE=NAME.
    """
    columns: dict[str, str | None] = {}
    for part in (part for text in given for part in text.split(",")):
        curve, equals, name = part.partition("=")
        if not equals or not curve.strip():
            raise UserError(f"--columns {part}: write CURVE=NAME, as in pgd=pgd_acc")
        columns[curve.strip()] = name.strip() or None
    return columns or None


def _wrapped(text: str) -> str:
    return "\n".join(
        fill(line, WIDTH, subsequent_indent="  " if line.startswith("- ") else "", break_on_hyphens=False)
        for line in text.split("\n")
    )
