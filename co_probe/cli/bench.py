"""The command `co-probe bench`."""

from collections.abc import Callable
from pathlib import Path

import click
import pandas as pd

from co_probe.benchmarks import PARTS
from co_probe.cli import options
from co_probe.cli.command import OTHER, Command
from co_probe.cli.output import percent, print_frame, print_table, progress_bar

TITLES = {
    "steps": "A training step",
    "indicators": "A training step alone, with its indicators recorded, and with the monitor",
    "attacks": "PGD-10",
    "storage": "An epoch on the disk",
    "data": "Images, read by one process",
}
# quantity -> (title of the column, format), in order of columns
COLUMNS: dict[str, tuple[str, Callable[[float], str]]] = {
    "seconds": ("ms", lambda value: f"{1000 * value:,.1f}"),
    "images_per_second": ("images/s", lambda value: f"{value:,.0f}"),
    "mb_per_second": ("MB/s", lambda value: f"{value:,.0f}"),
    "ratio": ("relative time", lambda value: f"{value:.3f}"),
    "passes": ("passes", lambda value: f"{value:.1f}"),
    "write_seconds": ("write ms", lambda value: f"{1000 * value:,.1f}"),
    "read_seconds": ("read ms", lambda value: f"{1000 * value:,.1f}"),
    "epoch_mb": ("epoch MB", lambda value: f"{value:.2f}"),
    "resume_mb": ("resume MB", lambda value: f"{value:.2f}"),
    "share_of_epoch": ("of an epoch's time", percent),
}


@click.command(
    cls=Command,
    heading=OTHER,
    short_help="Measure the speed of training, attacks, storage and data.",
    examples=["co-probe bench", "co-probe bench --parts steps --methods fgsm,apart --preset cifar10-30"],
)
@click.option(
    "--methods",
    help="Methods, separated by commas.  [default: all; of indicators: fgsm; of storage: apart]",
)
@click.option("--parts", help=f"Parts to measure: {', '.join(PARTS)}.  [default: all]")
@click.option("--preset", default="digits", show_default=True, help="Preset: its name, or a TOML file of yours.")
@click.option(
    "--set", "assignments", multiple=True, metavar="KEY=VALUE", help="Override a setting of the preset: batch_size=32."
)
@click.option("--repeats", type=click.IntRange(min=1), default=10, show_default=True, help="Number of turns.")
@click.option(
    "--folder",
    type=click.Path(path_type=Path),
    default=Path("."),
    show_default=True,
    help="Folder in which the parts storage and data write.",
)
@options.device
@click.option(
    "--compile", is_flag=True, help="Also measure steps and attacks under torch.compile, which takes minutes."
)
@options.table_format
def bench(
    methods: str | None,
    parts: str | None,
    preset: str,
    assignments: tuple[str, ...],
    repeats: int,
    folder: Path,
    device: str,
    compile: bool,
    style: str | None,
) -> None:
    """Measure the speed of training steps, attacks, storage and reading of images on this machine.

    Candidates take turns and the median is printed, so that a busy machine slows all of them alike. Relative times are
    relative to a step of clean training (part indicators: to the same step without them; part attacks: to co-probe's
    attack). Passes are floating-point operations in units of a forward pass; a step of clean training takes 3. Random
    images replace those of CIFAR and SVHN. torchattacks and foolbox are measured if they are installed.
    """
    from co_probe.benchmarks import bench as measure
    from co_probe.config import merge, parse_assignment

    settings: dict[str, object] = {}
    for text in assignments:
        settings = merge(settings, parse_assignment(text))
    with progress_bar("measuring, turns") as progress:
        frame = measure(
            _names(methods),
            parts=_names(parts),
            preset=preset,
            settings=settings,
            repeats=repeats,
            device=device,
            folder=folder,
            compile=compile,
            progress=progress,
        )
    if style:
        print_frame(frame, style)
        return
    about = frame.iloc[0]
    images = f"random images in place of {about['data']}" if about["images"] == "random" else about["data"]
    click.echo(f"{about['model']} on {images}, batches of {about['batch_size']}, {about['dtype']}")
    click.echo(f"{about['device']}, torch {about['torch']}; medians of {repeats} turns\n")
    for part, rows in frame.groupby("part", sort=False):
        wide = rows.pivot(index="subject", columns="quantity", values="value").reindex(rows["subject"].unique())
        columns = [column for column in COLUMNS if column in wide]
        cells = [
            [str(name), *("" if pd.isna(row[column]) else COLUMNS[column][1](row[column]) for column in columns)]
            for name, row in wide.iterrows()
        ]
        print_table(TITLES[str(part)], ["", *(COLUMNS[column][0] for column in columns)], cells)


def _names(text: str | None) -> list[str] | None:
    return [name.strip() for name in text.split(",") if name.strip()] if text is not None else None
