"""Specification of a figure: the tables that it needs, and how to draw them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol, TypeVar

import pandas as pd
from matplotlib.figure import Figure

from co_probe.config.labels import AttackLike, bound_label
from co_probe.errors import unknown

Run = TypeVar("Run", bound="StoredRun")
Frames = Mapping[str, pd.DataFrame]
Span = tuple[int, int]  # first and last epoch of an episode of catastrophic overfitting
Episodes = Mapping[str, Sequence[Span]]  # run -> its episodes in order, for runs with episodes


class StoredRun(Protocol):
    """Part of a run that figures use; `co_probe.store.StoredRun` and `co_probe.Run` have it."""

    path: Path

    @property
    def name(self) -> str:
        """Name of the run in tables and figures."""

    @property
    def info(self) -> Any:
        """Facts about the run, a `co_probe.store.RunInfo`."""

    @property
    def config(self) -> Any:
        """Settings of a run trained by co-probe, whose `info.settings` are not None."""

    @property
    def caption(self) -> str:
        """Text that a study adds to titles of figures; may be empty."""

    @property
    def probe_set(self) -> Mapping[str, Any]:
        """Numbers of the probe images, by split."""

    @property
    def epsilon(self) -> float:
        """Norm bound of perturbations, in pixel units."""

    @property
    def norm(self) -> str:
        """What ε bounds, `linf` or `l2`."""

    @property
    def epochs(self) -> list[int]:
        """The finished epochs, from 1, sorted."""

    @property
    def last_epoch(self) -> int:
        """The newest finished epoch."""

    @property
    def stopped(self) -> int:
        """The step at which the guard has ended the run; 0 if it has not."""

    @property
    def chosen_on(self) -> str:
        """Split that determines best epoch and onset, `validation` or `test`."""

    @property
    def best_epoch(self) -> int:
        """The most robust epoch."""

    def metrics(self, epoch: int) -> dict[str, float]:
        """Return the metrics of an epoch."""

    def step_series(self, epoch: int) -> Mapping[str, Any]:
        """Return the step indicators of an epoch, {name: (steps,)}."""

    def labels(self, epoch: int, probe: str) -> dict[str, Any]:
        """Return the leading columns of every tidy row."""

    def frame(self, probe: str, **settings: Any) -> pd.DataFrame:
        """Return a stored table."""


@dataclass(frozen=True, kw_only=True)
class FigureOptions:
    """Options of a figure.

    Attributes:
        against: Attack B of the gap or of robust accuracy; the figure's default if None.
        reference: File name of the reference of the strength; the newest if None.
        generator: Source of perturbations: an attack, its name, or `method` for the run's training attack.
    """

    against: AttackLike | None = None
    reference: str | None = None
    generator: AttackLike = "fgsm"


Measure = Callable[..., pd.DataFrame]  # `co_probe.probe` with the device and progress of the figure
Table = Callable[[Sequence[StoredRun], FigureOptions, Measure], pd.DataFrame]


COLUMNS = ["run", "method", "seed", "epoch", "probe", "quantity", "value", "low", "high", "n"]  # of every tidy table


def supports_all(run: StoredRun, options: FigureOptions) -> str | None:
    """Accept every run."""
    return None


def shared_title(runs: Sequence[StoredRun]) -> str:
    """Return data set and ε as far as all runs agree, and the name of a single run."""
    names = {run.info.data for run in runs}
    titles = {f"{run.info.data}, {bound_label(run.epsilon, run.norm)}{run.caption}" for run in runs}
    title = (titles if len(titles) == 1 else names).pop() if len(names) == 1 else ""
    return title if len(runs) > 1 else f"{title} (run {runs[0].name})"


@dataclass(frozen=True, kw_only=True)
class FigureSpec:
    """A figure.

    Attributes:
        draw: Draws the figure from its tables and the episodes by run.
        tables: {name: source of the table}: `stored`, `probed`, `computed`, or a function of runs, options and
            `measure`.
        single: Whether it shows one run: of several, the first with an episode, else the first.
        against: The default of `FigureOptions.against`.
        unsupported_reason: Returns in one line why a run cannot be drawn; None if it can. Runs without a finished epoch
            are excluded before.
        title: Returns the title of the figure for the runs that it shows.
    """

    draw: Callable[[Frames, Episodes], Figure]
    tables: Mapping[str, Table]
    single: bool = False
    against: AttackLike = "pgd10"
    unsupported_reason: Callable[[StoredRun, FigureOptions], str | None] = supports_all
    title: Callable[[Sequence[StoredRun]], str] = shared_title

    def options(self, **given: Any) -> FigureOptions:
        """Return the given options with this figure's defaults. Raises UserError for an unknown option."""
        known = [field.name for field in fields(FigureOptions)]
        for name in given:
            if name not in known:
                raise unknown("option of a figure", name, known)
        options = FigureOptions(**given)
        return options if options.against else replace(options, against=self.against)

    def unsupported(self, run: StoredRun, **given: Any) -> str | None:
        """Return in one line why a run cannot be drawn with the given options; None if it can."""
        if not run.epochs:
            return f"{run.name} has no finished epoch yet"
        return self.unsupported_reason(run, self.options(**given))

    def shown(self, runs: Sequence[Run], episodes: Episodes) -> list[Run]:
        """Return the runs to show: for a figure of one run, the first with an episode, else the first."""
        return [next((run for run in runs if run.name in episodes), runs[0])] if self.single else list(runs)


def stored(name: str) -> Table:
    """Make a table from stored rows: `metrics`, `steps`, or of a probe; without rows if none are stored."""

    def table(runs: Sequence[StoredRun], options: FigureOptions, measure: Measure) -> pd.DataFrame:
        frame = pd.concat([run.frame(name) for run in runs], ignore_index=True)
        return frame if len(frame.columns) else pd.DataFrame(columns=COLUMNS)

    return table


def probed(probe: str, **settings: Any) -> Table:
    """Make a table from a probe, which is measured where it is not stored.

    Args:
        probe: The probe's name.
        **settings: Its settings. `AGAINST` and `GENERATOR` stand for those options of the figure.
    """
    return lambda runs, options, measure: measure(probe, runs, **_chosen(settings, options))


def computed(target: str, **settings: Any) -> Table:
    """Make a table that is not stored, because it holds images or perturbations.

    Args:
        target: The function of a run and the settings that computes its rows, as `package.module:name`; imported when
            the figure is drawn.
        **settings: Its keyword arguments, as in `probed`.
    """
    module, _, name = target.partition(":")

    def table(runs: Sequence[StoredRun], options: FigureOptions, measure: Measure) -> pd.DataFrame:
        compute, chosen = getattr(import_module(module), name), _chosen(settings, options)
        return pd.concat([compute(run, **chosen) for run in runs], ignore_index=True)

    return table


def _chosen(settings: Mapping[str, Any], options: FigureOptions) -> dict[str, Any]:
    return {
        key: getattr(options, value.name) if isinstance(value, Option) else value for key, value in settings.items()
    }


@dataclass(frozen=True)
class Option:
    """Placeholder for a figure option in the settings of a probe."""

    name: str


AGAINST, GENERATOR = Option("against"), Option("generator")
