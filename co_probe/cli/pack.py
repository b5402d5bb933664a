"""The command `co-probe pack`."""

from pathlib import Path

import click

from co_probe.cli.command import SHARE, Command


@click.command(
    cls=Command,
    heading=SHARE,
    short_help="Write a run as one file.",
    examples=["co-probe pack runs/fgsm -o fgsm.h5", "co-probe diagnose fgsm.h5"],
)
@click.argument("run", type=click.Path(path_type=Path))
@click.option("-o", "--out", type=click.Path(path_type=Path), required=True, help="The .h5 file to write.")
def pack(run: Path, out: Path) -> None:
    """Write RUN as one self-contained .h5 file, with its epochs and tables.

    Every command takes the file in place of a run's folder. Results of later measurements go into a file beside it.
    """
    from co_probe.store import StoredRun
    from co_probe.store.pack import pack as write

    stored = StoredRun(run)
    write(stored, out)
    click.echo(f"Wrote {out}: {stored.name}, {len(stored.epochs)} epochs, {out.stat().st_size / 1e6:.1f} MB")
