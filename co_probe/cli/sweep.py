"""The command `co-probe sweep`."""

from contextlib import ExitStack
from pathlib import Path
from typing import Any

import click

from co_probe.cli import options
from co_probe.cli.command import TRAIN, Command
from co_probe.cli.output import progress_bar
from co_probe.methods import METHODS


@click.command(
    epilog="Methods: " + ", ".join(METHODS) + ".",
    cls=Command,
    heading=TRAIN,
    short_help="Train a grid of runs, several at a time.",
    examples=[
        "co-probe sweep --methods fgsm,apart --seeds 0,1,2 --out sweeps/seeds",
        "co-probe sweep grid.toml --jobs 4",
    ],
)
@click.argument("file", required=False, type=click.Path(path_type=Path))
@click.option("--methods", help="Methods, separated by commas.")
@click.option("--epsilons", help="Norm bounds ε, separated by commas: 4/255,8/255.  [default: the preset's]")
@click.option("--seeds", help="Seeds, separated by commas: 0,1,2.  [default: 0]")
@click.option("--epochs", type=int, help="Number of epochs of each run (passes over the training images).")
@click.option("--preset", help="Preset: its name, or a TOML file of yours.  [default: digits]")
@options.sections(sweep=True)
@click.option(
    "--set", "assignments", multiple=True, metavar="KEY=VALUE", help="Override a setting in all runs: epochs=10."
)
@click.option(
    "--vary",
    "variations",
    multiple=True,
    metavar="KEY=VALUE,...",
    help="Vary a setting: model.width=8,16.",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    help="Folder of the runs.  [default: sweeps/NAME of FILE, or sweeps/sweep]",
)
@options.jobs
@options.ray_engine
@click.option("--dry-run", is_flag=True, help="Print the runs of the grid and train none.")
@options.compile
@options.device
def sweep(
    file: Path | None,
    methods: str | None,
    epsilons: str | None,
    seeds: str | None,
    epochs: int | None,
    preset: str | None,
    assignments: tuple[str, ...],
    variations: tuple[str, ...],
    out: Path | None,
    jobs: int | None,
    engine: str,
    address: str | None,
    cpus_per_run: float,
    gpus_per_run: float | None,
    dry_run: bool,
    compile: bool,
    device: str,
    **sections: Any,
) -> None:
    """Train a grid of methods × ε × seeds (× other settings, with --vary), several runs at a time, into one folder.

    The grid comes from options, or from a TOML FILE with the keys methods, epsilons, seeds and preset and the sections
    settings and vary. Options override the file. The same command continues an interrupted sweep. A run that fails is
    reported and the others are trained (exit code 1). All commands take the runs as --runs FOLDER.
    """
    from co_probe.config import merge, parse_assignment
    from co_probe.diagnosis import verdict_of
    from co_probe.store import StoredRun
    from co_probe.sweeps.engines import engine as opened
    from co_probe.sweeps.grid import Grid, axes, parse_variation, split
    from co_probe.sweeps.sweep import is_complete, train_cells

    given: dict[str, Any] = {"methods": methods and split(methods, str), "preset": preset}
    given |= {"epsilons": epsilons and split(epsilons, str), "seeds": seeds and split(seeds, int)}
    changes = {name: value for name, value in given.items() if value is not None}
    varied: dict[str, Any] = {
        option.setting: split(sections[name], str) for name, option in axes().items() if sections[name]
    }
    for text in variations:
        varied |= parse_variation(text)
    changes["vary"] = varied
    if not (file or methods):
        raise click.UsageError("name methods with --methods, or a FILE")
    grid = Grid.from_toml(file, **changes) if file else Grid(**changes)
    budget = [] if epochs is None else [{"epochs": epochs}]
    for extra in [*budget, *options.section_settings(sections), *map(parse_assignment, assignments)]:
        grid.settings.update(merge(grid.settings, extra))
    folder = out or Path("sweeps") / (file.stem if file else "sweep")
    cells = grid.cells(folder)
    if dry_run:
        for path, config in cells.items():
            click.echo(f"{path}: {config.epochs} epochs{', done' if is_complete(path, config) else ''}")
        return

    failures = {}
    left = sum(not is_complete(path, config) for path, config in cells.items())
    resources: dict[str, Any] = {"address": address, "cpus": cpus_per_run, "gpus": gpus_per_run}
    with ExitStack() as stack:
        show = stack.enter_context(progress_bar(f"{len(cells)} runs, epochs"))
        executor = stack.enter_context(opened(engine, left, jobs=jobs, device=device, **resources)) if left else None
        for path, error in train_cells(
            cells, executor=executor, device=device, compile=compile, progress=lambda done, all_: show("", done, all_)
        ):
            if error:
                failures[path] = error
            outcome = f"FAILED: {error}" if error else f"done, {verdict_of(StoredRun(path)).headline}"
            click.echo(f"{path}: {outcome}")
    click.echo(f"{len(cells) - len(failures)} of {len(cells)} runs are complete. Next: co-probe show --runs {folder}")
    if failures:
        click.echo(f"{len(failures)} failed; the same command tries them again:", err=True)
        for path, error in failures.items():
            click.echo(f"  {path}: {error}", err=True)
        raise click.exceptions.Exit(1)
