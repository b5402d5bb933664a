"""co-probe strength"""

from pathlib import Path

import click

from co_probe.cli import options
from co_probe.cli.output import by_epoch, percent, print_frame, print_table, progress_bar


@click.command()
@options.runs_argument
@click.option(
    "--reference",
    type=click.Path(path_type=Path),
    required=True,
    help="The fixed model: a .pt file of co-probe export.",
)
@options.generator("fgsm")
@options.split
@options.device
@options.compile
@options.table_format
def strength(
    runs: tuple[Path, ...],
    runs_dir: Path,
    reference: Path,
    generator: str,
    split: str,
    device: str,
    compile: bool,
    style: str | None,
) -> None:
    """How strong each epoch's perturbations are: accuracy of a fixed reference on them; lower = stronger.

    Besides, the reference's accuracy on clean images and under noise, which perturbations that decayed come down to.
    Measures all runs under runs/ that fit the reference, or the RUNs named. Epochs measured before are not again.
    """
    from co_probe.probes.strength import Strength
    from co_probe.probes.strength import strength as measure
    from co_probe.runs.build import pick_device
    from co_probe.runs.checkpoints import load_reference

    live = options.open_live(runs, runs_dir)
    if not runs:
        probe = Strength(reference=load_reference(reference, pick_device(device)))
        live = options.fitting(live, lambda run: probe.objection(run) or options.unfinished(run))
    with progress_bar("strength") as progress:
        frame = measure(
            live, reference, generator=generator, split=split, device=device, compile=compile, progress=progress
        )
    if style:
        print_frame(frame, style)
        return
    print_table(
        f"Accuracy of {reference.name} on perturbations by {generator} (lower = stronger)",
        *by_epoch(frame[frame["quantity"] == "strength"], percent),
    )
    lines = frame[frame["epoch"] == 0].groupby("quantity")["value"].mean()
    click.echo("  ".join(f"{label}: {percent(lines[key])}" for key, label in YARDSTICKS.items()))


YARDSTICKS = {"noise": "uniform noise", "sign-noise": "noise of ±ε", "clean": "no perturbation"}
