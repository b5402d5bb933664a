"""Arguments and options that several commands share."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click
from typing_extensions import override

from co_probe.config import Config, parse_number
from co_probe.config.plugins import allow_typed
from co_probe.config.registry import Registry
from co_probe.config.sections import Option, all_options
from co_probe.config.settings import WEIGHTS, nested
from co_probe.errors import DamagedFile, UserError, one_line

if TYPE_CHECKING:
    import pandas as pd

    from co_probe.executor import Executor
    from co_probe.runs import Run
    from co_probe.store import StoredRun

AnyRun = TypeVar("AnyRun", bound="StoredRun")
Item = TypeVar("Item")
Result = TypeVar("Result")
Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]


class Number(click.ParamType):
    """A float that may be typed as a fraction: 8/255."""

    name = "number"

    @override
    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        try:
            return parse_number(value)
        except UserError as error:
            self.fail(str(error), param, ctx)


class Numbers(Number):
    """One or several comma-separated numbers: 4/255,8/255."""

    name = "number,..."

    @override
    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if not isinstance(value, str):
            return value
        return [super(Numbers, self).convert(part.strip(), param, ctx) for part in value.split(",")]


class Normalisation(click.ParamType):
    """A data set's name, or mean and std: `0.49,0.48,0.45/0.25,0.24,0.26`."""

    name = "normalisation"

    @override
    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if not isinstance(value, str) or "/" not in value:
            return value
        try:
            mean, std = ([float(number) for number in part.split(",")] for part in value.split("/"))
        except ValueError:
            self.fail(f"{value!r} is neither a name nor MEAN,MEAN,MEAN/STD,STD,STD", param, ctx)
        return mean, std


def compose(*decorators: Decorator) -> Decorator:
    """Combine decorators; the first one comes first in the help."""

    def apply(function: Callable[..., Any]) -> Callable[..., Any]:
        for decorator in reversed(decorators):
            function = decorator(function)
        return function

    return apply


runs_dir = click.option(
    "--runs",
    "runs_dir",
    type=click.Path(path_type=Path),
    default=Path("runs"),
    show_default=True,
    help="Folder of the runs to use if no RUN is given.",
)
runs_argument = compose(click.argument("runs", nargs=-1, metavar="[RUN]...", type=click.Path(path_type=Path)), runs_dir)
device = click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:1, ...")


def _say_that_it_takes_time(ctx: click.Context, param: click.Parameter, value: bool) -> bool:
    if value:
        click.echo("Compiling takes one to several minutes to begin with.", err=True)
    return value


compile = click.option(
    "--compile",
    is_flag=True,
    callback=_say_that_it_takes_time,
    help="Use torch.compile, for long jobs on a GPU: it takes minutes at the start.",
)
split = click.option(
    "--split",
    type=click.Choice(["test", "train", "validation"]),
    default="test",
    show_default=True,
    help="Split of the probe images.",
)


def _allow_model(ctx: click.Context, param: click.Parameter, value: str | None) -> str | None:
    if value:
        allow_typed(value)
    return value


model = click.option(
    "--model",
    metavar="NAME",
    callback=_allow_model,
    help="Network of an imported run: package.module:Name.",
)
weights = click.option(
    "--weights",
    type=click.Choice(WEIGHTS),
    default="trained",
    show_default=True,
    help="Weights of the run: as trained, or their moving average (ema) if the run has one.",
)
results = click.option(
    "--results",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="DIR",
    help="Store results in this folder instead of in the runs, for example if they are read-only.",
)
epsilon = click.option(
    "--epsilon",
    type=Numbers(),
    help="Norm bound or bounds of the measurement: 4/255,8/255.  [default: each run's own]",
)
table_format = compose(
    click.option("--json", "style", flag_value="json", help="Print the tidy table as JSON."),
    click.option("--csv", "style", flag_value="csv", help="Print the tidy table as CSV."),
)
document_format = compose(
    click.option("--markdown", "style", flag_value="markdown", help="Print tables in Markdown."),
    click.option("--latex", "style", flag_value="latex", help="Print tables in LaTeX (booktabs)."),
)


KINDS: dict[str, dict[str, Any]] = {
    "number": {"type": Number()},
    "integer": {"type": int},
    "flag": {"is_flag": True, "default": None},
    "switch": {"default": None},
}


jobs = click.option(
    "--jobs",
    type=click.IntRange(min=1),
    help="Number of processes at a time, which share the GPUs.  [default: one per GPU, else one per core]",
)
ray_engine = compose(
    click.option(
        "--engine",
        type=click.Choice(["local", "ray"]),
        default="local",
        show_default=True,
        help='Run locally in processes, or as tasks of a Ray cluster (pip install "co-probe[ray]").',
    ),
    click.option(
        "--address",
        metavar="ADDRESS",
        help="Address of the Ray cluster: auto, HOST:6379 or ray://HOST:10001.  [default: start one on this machine]",
    ),
    click.option(
        "--cpus-per-run",
        type=click.FloatRange(min=0),
        default=1.0,
        show_default=True,
        help="Cores per Ray task.",
    ),
    click.option(
        "--gpus-per-run",
        type=click.FloatRange(min=0),
        help="GPUs per Ray task; 0.25 puts four tasks on each GPU.  [default: 1 if the cluster has any, else 0]",
    ),
)
probe_jobs = click.option(
    "--jobs",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="Number of runs to measure at a time, each in its own process.",
)
probe_engine = compose(probe_jobs, ray_engine)


@contextmanager
def probe_executor(
    tasks: int,
    *,
    engine: str,
    jobs: int,
    device: str,
    address: str | None,
    cpus_per_run: float,
    gpus_per_run: float | None,
) -> Iterator["Executor | None"]:
    """Give the executor for the options of `probe_engine`; None to measure in this process."""
    if engine == "local" and min(jobs, tasks) == 1:
        yield None
        return
    from co_probe.sweeps.engines import engine as opened

    resources: dict[str, Any] = {"address": address, "cpus": cpus_per_run, "gpus": gpus_per_run}
    with opened(engine, tasks, jobs=jobs, device=device, **resources) as executor:
        yield executor


def glossary(registry: Registry) -> str:
    """Format descriptions of a registry's entries for a help text: `gap: the gap to PGD-10. steps: ...`."""
    return "\n\n".join(f"{name}: {text}{'' if text[-1] in '.?' else '.'}" for name, text in registry.about.items())


def sections(*, sweep: bool = False) -> Decorator:
    """Make a decorator that adds the options of studies, passed as keyword arguments.

    Args:
        sweep: Whether options with an axis take several values.
    """
    decorators = []
    for option in all_options():
        if option.axis and sweep:
            decorators.append(click.option(f"--{option.axis.name}", option.axis.name, help=option.axis.help))
            continue
        kind = {"type": click.Choice(option.choices)} if option.kind == "choice" else KINDS[option.kind]
        decorators.append(
            click.option(option.flags, _argument(option), metavar=option.metavar, help=option.help, **kind)
        )
    return compose(*decorators)


def section_settings(given: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Convert typed values of the options of `sections` to settings that override a preset."""
    return [
        nested(option.setting, value) for option in all_options() if (value := given.get(_argument(option))) is not None
    ]


def check_sections(given: Mapping[str, Any], config: Config) -> None:
    """Raise UsageError for an option of `sections` without the option that it needs."""
    for option in all_options():
        if option.needs and given.get(_argument(option)) is not None:
            section = config.extensions.get(option.setting.partition(".")[0])
            if section is None or not section.in_effect:
                raise click.UsageError(f"{option.flags} needs {option.needs}")


def _argument(option: Option) -> str:
    return option.flags.partition("/")[0].removeprefix("--").replace("-", "_")


def generator(default: str) -> Decorator:
    """Make the option `--generator` with a default."""
    return click.option(
        "--generator",
        default=default,
        show_default=True,
        help="Attack that makes the perturbations: 'fgsm', 'method' (the run's own training attack), 'pgd10', ...",
    )


def find(named: tuple[Path, ...], runs_dir: Path) -> list[Path]:
    """Return the named runs, or all in `runs_dir` if none are named. Raises UserError if there are none."""
    from co_probe.store import find_runs

    # A run may be named as in tables: `fgsm` for runs/fgsm.
    paths = [runs_dir / path if not path.exists() and (runs_dir / path).exists() else path for path in named]
    paths = paths or find_runs(runs_dir)
    if not paths:
        raise UserError(f"no runs in {runs_dir}/: name one, or make one with: co-probe run fgsm")
    return paths


def open_stored(
    named: tuple[Path, ...],
    runs_dir: Path,
    model: str | None = None,
    results: Path | None = None,
    weights: str = "trained",
) -> Sequence["StoredRun"]:
    """Open the runs of `find` as numbers on disk (without torch), or with models if `model` is given.

    Damaged runs among several are skipped with a line.
    """
    from co_probe.store import StoredRun

    if model:
        return open_live(named, runs_dir, model, results, weights)
    return _opened(named, runs_dir, lambda path: StoredRun(path, results=results, weights=weights))


def open_live(
    named: tuple[Path, ...],
    runs_dir: Path,
    model: str | None = None,
    results: Path | None = None,
    weights: str = "trained",
) -> list["Run"]:
    """Open the runs of `find` with models and data; damaged runs among several are skipped with a line."""
    from co_probe.runs.run import open_with

    return _opened(named, runs_dir, lambda path: open_with(path, model, results=results, weights=weights))


def _opened(named: tuple[Path, ...], runs_dir: Path, make: Callable[[Path], AnyRun]) -> list[AnyRun]:
    # A wrong name ends the command; other content of a folder does not.
    return each_readable(find(named, runs_dir), make, DamagedFile if named else UserError)


@contextmanager
def in_words_of_options(words: Mapping[str, str]) -> Iterator[None]:
    """Replace words in errors of the library by those of the command line.

    Args:
        words: {word of the library: word of the command line}.
    """
    try:
        yield
    except UserError as error:
        said = str(error)
        for python, typed in words.items():
            said = said.replace(python, typed)
        if said == str(error):
            raise
        raise UserError(said) from error


def report_skipped(reason: object) -> None:
    """Print in one line why a run is skipped."""
    click.echo(f"Skipped: {one_line(reason)}", err=True)


def each_readable(
    items: Sequence[Item], use: Callable[[Item], Result], passable: type[UserError] = DamagedFile
) -> list[Result]:
    """Apply `use` to each item; if there are several, skip those that raise `passable` with a line.

    Raises:
        UserError: No item is left, or `use` raised another error.
    """
    results = []
    for item in items:
        try:
            results.append(use(item))
        except passable as error:
            if len(items) == 1:
                raise
            report_skipped(error)
    if not results:
        raise UserError("none of the runs can be used")
    return results


def measured(runs: Sequence[AnyRun], measure: Callable[[Sequence[AnyRun]], "pd.DataFrame"]) -> "pd.DataFrame":
    """Return the table of `measure` for all runs except damaged ones.

    Stored results are not measured again.
    """
    import pandas as pd

    try:
        return measure(runs)
    except DamagedFile:
        return pd.concat(each_readable(runs, lambda run: measure([run])), ignore_index=True)


def verified(runs: Sequence[AnyRun]) -> list[AnyRun]:
    """Return the runs that can be read completely."""

    def read(run: AnyRun) -> AnyRun:
        run.probes()
        for epoch in run.epochs:
            run.read_epoch(epoch)
        return run

    return each_readable(runs, read)


def unfinished(run: "StoredRun") -> str | None:
    """Return why a run without epochs is skipped, or None."""
    return None if run.epochs else f"{run.name} has no finished epoch yet"


def compatible(
    runs: Sequence[AnyRun], unsupported_reason: Callable[[AnyRun], str | None], strict: bool = False
) -> list[AnyRun]:
    """Return the supported runs, and print the reasons for others.

    Raises:
        UserError: The reason for the only run or, if `strict`, for any run; or no run is left.
    """
    fit = []
    for run, reason in each_readable(runs, lambda run: (run, unsupported_reason(run))):
        if reason and (strict or len(runs) == 1):
            raise UserError(reason)
        if reason:
            report_skipped(reason)
        else:
            fit.append(run)
    if not fit:
        raise UserError("none of the runs can be used")
    return fit
