"""Figures from runs: their tables are stored already, or measured now."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import fields, replace
from textwrap import fill
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from co_probe.config.labels import bound_label
from co_probe.config.probes import PROBES
from co_probe.diagnosis import verdict_of
from co_probe.errors import UserError, unknown
from co_probe.plots import PLOTS
from co_probe.plots.series import series
from co_probe.plots.spec import FigureOptions, FigureSpec, Span
from co_probe.plots.style import paper_style
from co_probe.probes.named import probe
from co_probe.store import RunLike, StoredRun, opened

Progress = Callable[[str, int, int], None]
SCREEN = 150  # dots per inch of a figure that is shown, or saved without saying more
WIDE = 55  # letters that fit above a figure


def draw(
    kind: str,
    runs: RunLike | Iterable[RunLike],
    *,
    title: str | None = None,
    device: str = "auto",
    progress: Progress | None = None,
    **options: Any,
) -> Figure:
    """Draw a figure; what it needs and was not measured before is measured first.

    Args:
        kind: A registered figure (`gap`, `deterioration`, ...), or a probe, of which all quantities are then drawn.
        runs: Paths or runs, one or several.
        title: Text above the figure; data set and ε, as far as all runs agree on them, if None.
        device: Where to measure: `auto` (a GPU if there is one), `cpu`, `cuda`, `cuda:1`.
        progress: Called while measuring with a label, the number of steps done, and of all steps.
        **options: `against`, `reference`, `generator`: see `FigureOptions`.

    Returns:
        The figure.

    Raises:
        UserError: For an unknown figure or option, or a run that it cannot show.

    Example:
        >>> co_probe.draw("gap", "runs/fgsm", against="pgd20").savefig("gap.png")
    """
    spec, stored = figure_spec(kind), opened(runs)
    if not stored:
        raise UserError("name at least one run")
    for run in stored:
        if reason := unsupported_reason(kind, run, **options):
            raise UserError(reason)
    episodes = {run.name: spans for run in stored if (spans := spans_of(run))}
    if spec.single:
        stored = [next((run for run in stored if run.name in episodes), stored[0])]
    frames = {name: table(kind, name, stored, device=device, progress=progress, **options) for name in spec.tables}
    with paper_style():
        figure = spec.draw(frames, episodes)
        figure.set_dpi(SCREEN)
        figure.suptitle(fill(_title(stored), WIDE) if title is None else title, fontsize=8)
    return figure


def table(
    kind: str,
    name: str,
    runs: RunLike | Iterable[RunLike],
    *,
    device: str = "auto",
    progress: Progress | None = None,
    **options: Any,
) -> pd.DataFrame:
    """One of the tables that a figure is drawn from; the arguments are those of `draw`, and the `name` of the table."""

    def measure(probe_name: str, chosen: Sequence[StoredRun], **settings: Any) -> pd.DataFrame:
        return probe(probe_name, chosen, device=device, progress=progress, **settings)

    spec = figure_spec(kind)
    return spec.tables[name](opened(runs), _options(spec, options), measure)


def unsupported_reason(kind: str, run: StoredRun, **options: Any) -> str | None:
    """Why a run cannot be in a figure, in one line; None if it can."""
    spec = figure_spec(kind)
    if not run.epochs:
        return f"{run.name} has no finished epoch yet"
    return spec.unsupported_reason(run, _options(spec, options))


def spans_of(run: StoredRun) -> list[Span]:
    """First and last epoch of each episode of a run; an episode that has not ended lasts to the last epoch."""
    found = verdict_of(run)
    return [(each.start, run.last_epoch if each.end is None else each.end) for each in found.episodes]


def figure_spec(kind: str) -> FigureSpec:
    """The figure `kind`, or of the probe `kind`: the one that it names, else lines for all its quantities."""
    if kind in PLOTS.entries or kind not in PROBES.entries:
        return PLOTS.load(kind)
    measured = PROBES.load(kind)
    return PLOTS.load(measured.figure) if measured.figure else series(kind, measured.shares, measured.details)


def _options(spec: FigureSpec, given: dict[str, Any]) -> FigureOptions:
    known = [f.name for f in fields(FigureOptions)]
    for name in given:
        if name not in known:
            raise unknown("option of a figure", name, known)
    options = FigureOptions(**given)
    return options if options.against else replace(options, against=spec.against)


def _title(runs: Sequence[StoredRun]) -> str:
    """Data set and ε, or the data set alone, where all runs agree on them; of a single run, its name too."""
    names = {run.info.data for run in runs}
    titles = {f"{run.info.data}, {bound_label(run.epsilon, run.norm)}{_caption(run)}" for run in runs}
    title = (titles if len(titles) == 1 else names).pop() if len(names) == 1 else ""
    return title if len(runs) > 1 else f"{title} (run {runs[0].name})"


def _caption(run: StoredRun) -> str:
    """What a study adds to the title of a run that co-probe trained."""
    return run.config.caption if run.info.settings else ""
