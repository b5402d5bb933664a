"""The command `co-probe strength`."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from co_probe.cli import options
from co_probe.cli.command import MEASURE, Command
from co_probe.cli.output import by_epoch, each_epsilon, percent, print_frame, print_table, progress_bar


@click.command(
    cls=Command,
    heading=MEASURE,
    short_help="Measure perturbations by transfer to a fixed model.",
    examples=["co-probe strength --reference pgd10_ep30.pt", "co-probe strength --reference runs/pgd@best runs/fgsm"],
)
@options.runs_argument
@click.option(
    "--reference",
    required=True,
    help="The fixed model: a .pt file of co-probe export, RUN@EPOCH (a number, last or best), or a checkpoint of "
    "another program, with --reference-model.",
)
@click.option("--reference-model", help="The network of another program's checkpoint: package.module:Name, or a name.")
@click.option(
    "--reference-normalise",
    type=options.Normalisation(),
    help="Normalisation of the images before this network: a data set, or MEAN,.../STD,...  [default: nothing]",
)
@click.option("--no-check", is_flag=True, help="Use the reference even if its clean accuracy is implausible.")
@options.generator("fgsm")
@options.split
@options.epsilon
@options.model
@options.weights
@options.results
@options.device
@options.probe_engine
@options.compile
@options.table_format
def strength(
    runs: tuple[Path, ...],
    runs_dir: Path,
    reference: str,
    reference_model: str | None,
    reference_normalise: Any,
    no_check: bool,
    generator: str,
    split: str,
    epsilon: Sequence[float] | None,
    model: str | None,
    weights: str,
    results: Path | None,
    device: str,
    compile: bool,
    style: str | None,
    **engine: Any,
) -> None:
    """Measure how strong the perturbations of each epoch are: the accuracy of a fixed reference model on them.

    Lower accuracy means stronger perturbations. Baselines are the accuracy of the reference on clean images and under
    random noise of ±ε. Without RUN, all runs under runs/ that fit the reference are measured. Results are stored, and
    only new epochs are measured again.
    """
    from co_probe.config import plugins
    from co_probe.probes.strength import Strength
    from co_probe.probes.strength import strength as measure
    from co_probe.runs.references import find_reference

    if reference_model and plugins.is_own(reference_model):
        plugins.allow(reference_model)
    live = options.compatible(options.open_live(runs, runs_dir, model, results, weights), options.unfinished)
    if "@" in reference and not Path(reference).exists() and (runs_dir / reference.rpartition("@")[0]).exists():
        reference = str(runs_dir / reference)
    loaded = find_reference(reference, model=reference_model, normalise=reference_normalise, like=live[0].info)
    if not runs:
        probe = Strength(reference=loaded)
        live = options.compatible(live, lambda run: probe.unsupported_reason(run))
    settings: dict[str, Any] = {"generator": generator, "split": split, "epsilon": epsilon, "check": not no_check}
    settings |= {"device": device, "compile": compile}
    running = options.probe_executor(len(live), device=device, **engine)
    with options.in_words_of_options(WORDS), progress_bar("strength") as progress, running as executor:
        settings |= {"progress": progress, "executor": executor}
        frame = options.measured(live, lambda some: measure(some, loaded, **settings))
    if style:
        print_frame(frame, style)
        return
    for at, part in each_epsilon(frame, epsilon):
        print_table(
            f"Accuracy of {loaded.name} on perturbations by {generator}{at} (lower = stronger)",
            *by_epoch(part[part["quantity"] == "strength"], percent),
        )
        lines = part[part["epoch"] == 0].groupby("quantity")["value"].mean()
        click.echo("  ".join(f"{label}: {percent(lines[key])}" for key, label in BASELINES.items()))


WORDS = {"is the normalisation right?": "is --reference-normalise right?"}
BASELINES = {"noise": "uniform noise", "sign-noise": "random signs ±ε", "clean": "no perturbation"}
