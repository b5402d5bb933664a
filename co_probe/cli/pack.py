"""co-probe pack"""

from pathlib import Path

import click


@click.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.option("-o", "--out", type=click.Path(path_type=Path), required=True, help="The .h5 file to write.")
def pack(run: Path, out: Path) -> None:
    """Write RUN as one self-contained .h5 file, with its epochs and tables, to send to somebody.

    Every command takes such a file where it takes a run's folder; what they measure on it goes into a file beside it.
    """
    from co_probe.store import StoredRun
    from co_probe.store.pack import pack as write

    stored = StoredRun(run)
    write(stored, out)
    click.echo(f"Wrote {out}: {stored.name}, {len(stored.epochs)} epochs, {out.stat().st_size / 1e6:.1f} MB")
