"""Figures of runs, after measuring missing tables."""

from collections.abc import Iterable
from functools import partial
from textwrap import fill
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from co_probe.config.probes import PROBES
from co_probe.diagnosis import verdict_of
from co_probe.diagnosis.stored import switch_of
from co_probe.errors import UserError
from co_probe.plots import PLOTS
from co_probe.plots.lines import mark_switches
from co_probe.plots.series import series
from co_probe.plots.spec import FigureSpec, Span
from co_probe.plots.style import paper_style
from co_probe.probes.named import probe
from co_probe.probes.runner import Progress
from co_probe.store import RunLike, StoredRun, opened

SCREEN = 150  # default resolution, in dots per inch
WIDE = 55  # characters per line of a title


def draw(
    kind: str,
    runs: RunLike | Iterable[RunLike],
    *,
    title: str | None = None,
    device: str = "auto",
    progress: Progress | None = None,
    **options: Any,
) -> Figure:
    """Draw a figure, after measuring what is missing.

    Args:
        kind: A registered figure (`gap`, `deterioration`, ...), or a probe, to draw all of its quantities.
        runs: Paths or runs, one or several.
        title: Text above the figure; if None, data set and ε as far as all runs agree.
        device: Device of measurements: `auto` (a GPU if there is one), `cpu`, `cuda`, `cuda:1`.
        progress: Called while measuring with a label, the number of finished steps, and of all steps.
        **options: `against`, `reference`, `generator`, as in `FigureOptions`.

    Returns:
        The figure.

    Raises:
        UserError: For an unknown figure or option, or an unsupported run.

    Example:
        >>> co_probe.draw("gap", "runs/fgsm", against="pgd20").savefig("gap.png")
    """
    spec, stored = figure_spec(kind), opened(runs)
    if not stored:
        raise UserError("name at least one run")
    if reason := next(filter(None, (spec.unsupported(run, **options) for run in stored)), None):
        raise UserError(reason)
    episodes = {run.name: spans for run in stored if (spans := spans_of(run))}
    shown = spec.shown(stored, episodes)
    frames = {name: table(kind, name, shown, device=device, progress=progress, **options) for name in spec.tables}
    with paper_style():
        figure = spec.draw(frames, episodes)
        mark_switches(figure, {run.name: switch.epoch for run in shown if (switch := switch_of(run))})
        figure.set_dpi(SCREEN)
        figure.suptitle(fill(spec.title(shown), WIDE) if title is None else title, fontsize=8)
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
    """Return the table `name` of a figure; other arguments are those of `draw`."""
    spec, measure = figure_spec(kind), partial(probe, device=device, progress=progress)
    return spec.tables[name](opened(runs), spec.options(**options), measure)


def spans_of(run: StoredRun) -> list[Span]:
    """Return first and last epoch of each episode of a run; an open episode lasts to the last epoch."""
    return [(each.start, run.last_epoch if each.end is None else each.end) for each in verdict_of(run).episodes]


def figure_spec(kind: str) -> FigureSpec:
    """Return the figure `kind`; for a probe, its figure, or lines of all quantities."""
    if kind in PLOTS.entries or kind not in PROBES.entries:
        return PLOTS.load(kind)
    measured = PROBES.load(kind)
    return PLOTS.load(measured.figure) if measured.figure else series(kind, measured.shares, measured.details)
