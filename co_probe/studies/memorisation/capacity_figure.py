"""Robust memorisation and robust generalisation against network width (arXiv 2306.01271)."""

from collections.abc import Sequence
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator, ScalarFormatter

from co_probe.errors import UserError
from co_probe.plots.lines import percent_axis
from co_probe.plots.spec import Episodes, FigureOptions, FigureSpec, Frames, Measure, StoredRun
from co_probe.plots.style import axes_or_new, method_style, panels
from co_probe.studies.memorisation.generalisation_figure import curves, legend


def capacity(frame: pd.DataFrame, ax: Axes | None = None, **style: Any) -> Axes:
    """Plot final accuracies against model width: the mean over runs of a width, with a bar from minimum to maximum.

    Args:
        frame: The table `memorisation` with one epoch per run, and a column `width`.
        ax: Axes to draw on; new ones if None.
        style: Passed to `Axes.errorbar`.
    """
    ax = axes_or_new(ax)
    widths = sorted(frame["width"].unique())
    for look, rows in curves(frame):
        points = 100 * rows.groupby("width")["value"].agg(["mean", "min", "max"])
        bars = [points["mean"] - points["min"], points["max"] - points["mean"]]
        hollow = "white" if look["linestyle"] != "-" else None  # in the legend a dashed line looks like any other
        dots = {"marker": "o", "markersize": 3, "markerfacecolor": hollow, "elinewidth": 0.6}
        ax.errorbar(points.index, points["mean"], yerr=bars, **(look | dots | style))
    ax.set_xscale("log", base=2)
    ax.set_xticks(widths)
    ax.xaxis.set_major_formatter(ScalarFormatter())
    ax.xaxis.set_minor_locator(NullLocator())
    ax.set_xlabel("width of the model")
    percent_axis(ax)
    ax.set_ylabel("accuracy after\nthe last epoch (%)")
    return ax


def draw(frames: Frames, episodes: Episodes) -> Figure:
    """Draw one panel per method."""
    frame = frames["capacity"]
    groups = list(frame.groupby("method", sort=False))
    figure, axes = panels(len(groups), squeeze=False, sharex=True)
    for (method, rows), ax in zip(groups, axes[:, 0], strict=True):
        capacity(rows, ax)
        ax.set_title(method_style(str(method))["label"])
        ax.set_xlabel("width of the model" if ax is axes[-1, 0] else "")
    legend(figure, axes[0, 0], frame)
    return figure


def last_epochs(runs: Sequence[StoredRun], options: FigureOptions, measure: Measure) -> pd.DataFrame:
    """Measure memorisation after the last epoch of each run, and add the `width` of its model.

    Raises:
        UserError: If all runs have the same width.
    """
    widths = {run.name: run.info.model.settings["width"] for run in runs}
    if len(set(widths.values())) < 2:
        raise UserError("capacity needs runs of several widths, for example of a sweep that varies model.width")
    frame = measure("memorisation", runs, epochs="last", against=options.against)
    last = {run.name: run.last_epoch for run in runs}
    frame = frame[frame["epoch"] == frame["run"].map(last)]
    return frame.assign(width=frame["run"].map(widths))


def unsupported_reason(run: StoredRun, options: FigureOptions) -> str | None:
    """Return a reason if the model has no width."""
    if isinstance(run.info.model.settings.get("width"), int):
        return None
    return f"{run.name} has a model without a width among its settings"


FIGURE = FigureSpec(draw=draw, tables={"capacity": last_epochs}, against="pgd20", unsupported_reason=unsupported_reason)
