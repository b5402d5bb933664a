"""The command `co-probe export`."""

from pathlib import Path

import click

from co_probe.cli import options
from co_probe.cli.command import SHARE, Command


@click.command(
    cls=Command,
    heading=SHARE,
    short_help="Write the model of one epoch as a .pt file.",
    examples=[
        "co-probe export runs/pgd -o pgd10_ep30.pt",
        "co-probe export runs/fgsm --epoch 12 -o fgsm_ep12.pt",
        "co-probe export runs/pgd --robustbench -o pgd-robustbench",
    ],
)
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--epoch", type=int, help="Epoch to write.  [default: the last]")
@click.option("-o", "--out", type=click.Path(path_type=Path), required=True, help="The .pt file to write.")
@click.option(
    "--robustbench",
    is_flag=True,
    help="Write a folder for RobustBench: the .pt file, and a script that evaluates it with RobustBench's benchmark.",
)
@options.model
@options.weights
def export(run: Path, epoch: int | None, out: Path, robustbench: bool, model: str | None, weights: str) -> None:
    """Write the model of RUN after an epoch as a .pt file.

    The file is a reference for `co-probe strength`, or a checkpoint for other programs. It holds tensors, numbers and
    strings, and opens with torch.load(weights_only=True).
    """
    from co_probe.runs import Run
    from co_probe.runs.checkpoints import export as write

    live = Run(run, model=model, weights=weights)
    number = live.last_epoch if epoch is None else epoch
    if robustbench:
        from co_probe.training.robustbench import export_robustbench

        _, script = export_robustbench(live, number, out)
        click.echo(f"Wrote {out}: {live.name}, epoch {number}. Next: python {script}")
        return
    write(live, number, out)
    click.echo(f"Wrote {out}: {live.name}, epoch {number}")
