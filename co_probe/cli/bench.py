"""co-probe bench"""

from collections.abc import Callable
from pathlib import Path

import click
import pandas as pd

from co_probe.cli import options
from co_probe.cli.output import percent, print_frame, print_table, progress_bar

Text = Callable[[float], str]


def thousands(value: float) -> str:
    return f"{value:,.0f}"


def milliseconds(value: float) -> str:
    return f"{1000 * value:,.1f}"


def times(value: float) -> str:
    return f"{value:.2f}"


# For each part a title, and its columns: quantity, what the column is called, how numbers look in it.
TABLES: dict[str, tuple[str, list[tuple[str, str, Text]]]] = {
    "steps": (
        "A training step",
        [
            ("seconds", "ms", milliseconds),
            ("images_per_second", "images/s", thousands),
            ("ratio", "× clean training", times),
            ("passes", "passes", lambda value: f"{value:.1f}"),
            ("gflops_per_second", "GFLOP/s", thousands),
            ("utilisation", "of matrix product", percent),
            ("convolution_share", "of its convolutions alone", percent),
            ("memory_mb", "peak MB", thousands),
        ],
    ),
    "gradients": (
        "A training step, and the same whose perturbation pass back-propagates into the weights too",
        [
            ("seconds", "ms", milliseconds),
            ("ratio", "× own", times),
            ("passes", "passes", lambda value: f"{value:.1f}"),
        ],
    ),
    "attacks": (
        "PGD-10 to its end",
        [("seconds", "ms", milliseconds), ("ratio", "× co-probe", times)],
    ),
    "accuracy": (
        "Accuracy under PGD-20",
        [
            ("seconds", "ms", milliseconds),
            ("ratio", "× co-probe", times),
            ("accuracy", "accuracy", percent),
            ("accuracy_on_the_way", "at every point", percent),
        ],
    ),
    "storage": (
        "An epoch on the disk",
        [
            ("hold_seconds", "held up ms", milliseconds),
            ("write_seconds", "write ms", milliseconds),
            ("write_mb_per_second", "MB/s", thousands),
            ("read_seconds", "read ms", milliseconds),
            ("read_mb_per_second", "MB/s", thousands),
            ("epoch_mb", "epoch MB", times),
            ("over_parameters", "more than its parameters", lambda value: f"{100 * value:.2f}%"),
            ("resume_mb", "resume MB", times),
            ("share_of_epoch", "of an epoch's time", percent),
        ],
    ),
}


NOTES = {
    "steps": "Of matrix product: the step's rate over that of the large product, both in this call.\n"
    "Of its convolutions alone: how long they take by themselves over how long the step takes.\n"
    "Peak MB: of tensors, not of the program.",
    "accuracy": "Accuracy: as each counts, which is at the last step for all but co-probe.\n"
    "At every point: an image that any step, or none at all, breaks is broken, as co-probe counts.",
    "storage": "Held up: training waits while copies are made; writing goes on beside it.\n"
    "Resume: what going on needs, kept of the newest epoch alone.\n"
    "Of an epoch's time: both, as if training waited for all of it.",
}


@click.command()
@click.option("--methods", help="Methods, separated by commas.  [default: all; of gradients and storage: apart]")
@click.option("--parts", help=f"What to measure, of {', '.join(sorted(TABLES))}.  [default: all]")
@click.option("--preset", default="digits", show_default=True, help="Known settings: a name, or a TOML file of yours.")
@click.option("--set", "assignments", multiple=True, metavar="KEY=VALUE", help="Any setting: batch_size=32.")
@click.option("--repeats", type=click.IntRange(min=1), default=10, show_default=True, help="Turns that are timed.")
@click.option(
    "--folder",
    type=click.Path(path_type=Path),
    default=Path("."),
    show_default=True,
    help="On whose disk an epoch is written.",
)
@options.device
@click.option("--compile", is_flag=True, help="Steps and attacks through torch.compile too; it takes minutes.")
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
    """What training, attacking and storing cost on this machine, each beside a yardstick.

    What is compared takes turns, and medians are printed (with --json or --csv their quartiles too), so that a noisy
    machine disturbs all alike; on digits it takes a minute or two. Passes: the arithmetic of a step, in forward passes
    of the model (clean training takes 3). CIFAR and SVHN are stood in for by random images of their shape, and need not
    be there. Attacks of other packages (torchattacks, foolbox) are measured where they are installed. Part accuracy
    trains a model first, where images are real.
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
    click.echo(f"{about['device']}, torch {about['torch']}")
    click.echo(f"Medians of {repeats} turns; × is the median of the ratio within each turn\n")
    for part in frame["part"].drop_duplicates():
        _print(part, frame[frame["part"] == part])


def _names(text: str | None) -> list[str] | None:
    return [name.strip() for name in text.split(",") if name.strip()] if text is not None else None


def _print(part: str, frame: pd.DataFrame) -> None:
    """One part's table: a subject a row; what is no subject's column is said in the title."""
    title, columns = TABLES[part]
    wide = frame.pivot(index="subject", columns="quantity", values="value").reindex(frame["subject"].unique())
    if part == "steps":
        rate = wide["gflops_per_second"]["matrix product"]
        title, wide = f"{title} (a large matrix product: {rate:,.0f} GFLOP/s)", wide.drop("matrix product")
    if part == "accuracy":
        clean, epsilon = (wide[quantity].dropna().iloc[0] for quantity in ("clean", "epsilon"))
        title += f" of a model that has {percent(clean)} right without attack, at ε = {epsilon:.3g}"
    rows = [
        [str(name), *("" if pd.isna(row[quantity]) else text(row[quantity]) for quantity, _, text in columns)]
        for name, row in wide.iterrows()
    ]
    print_table(title, ["", *(name for _, name, _ in columns)], rows)
    if note := NOTES.get(part):
        click.echo(f"{note}\n")
