"""co-probe export"""

from pathlib import Path

import click

from co_probe.cli import options


@click.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--epoch", type=int, help="Which epoch.  [default: the last]")
@click.option("-o", "--out", type=click.Path(path_type=Path), required=True, help="The .pt file to write.")
@options.model
def export(run: Path, epoch: int | None, out: Path, model: str | None) -> None:
    """Write the model of RUN after an epoch to a .pt file: a reference for `strength`, or for other programs.

    The file holds tensors, numbers and strings, and opens with torch.load(weights_only=True).
    """
    from co_probe.runs import Run
    from co_probe.runs.checkpoints import export as write

    live = Run(run, model=model)
    number = live.last_epoch if epoch is None else epoch
    write(live, number, out)
    click.echo(f"Wrote {out}: {live.name}, epoch {number}")
