"""co-probe bench"""

import click

from co_probe.cli import options
from co_probe.cli.output import print_frame, print_table, progress_bar


@click.command()
@click.option("--methods", help="Methods, separated by commas.  [default: all]")
@click.option("--preset", default="digits", show_default=True, help="Known settings: a name, or a TOML file of yours.")
@click.option("--set", "assignments", multiple=True, metavar="KEY=VALUE", help="Any setting: model.width=32.")
@click.option(
    "--repeats", type=click.IntRange(min=1), default=20, show_default=True, help="Timed steps of each method."
)
@options.device
@options.table_format
def bench(
    methods: str | None, preset: str, assignments: tuple[str, ...], repeats: int, device: str, style: str | None
) -> None:
    """What a training step of each method costs on this machine, relative to clean training.

    The methods take turns, and medians are printed, so that a noisy machine disturbs all alike. Passes: the arithmetic
    of a step, in forward passes of the model (clean training takes 3).
    """
    from co_probe.bench import bench as measure
    from co_probe.config import merge, parse_assignment

    settings: dict[str, object] = {}
    for text in assignments:
        settings = merge(settings, parse_assignment(text))
    names = [name.strip() for name in methods.split(",") if name.strip()] if methods else None
    with progress_bar("timing, turns") as progress:
        frame = measure(names, preset=preset, settings=settings, repeats=repeats, device=device, progress=progress)
    if style:
        print_frame(frame, style)
        return
    rows = [
        [
            row["method"],
            f"{1000 * row['seconds']:.1f}",
            f"{row['images_per_second']:,.0f}",
            f"{row['ratio']:.2f}",
            f"{row['passes']:.1f}",
            f"{row['gflops_per_second']:,.0f}",
        ]
        for row in frame.to_dict("records")
    ]
    header = ["method", "ms a step", "images/s", "× clean training", "passes", "GFLOP/s"]
    print_table(f"A training step on {preset}, median of {repeats}", header, rows)
