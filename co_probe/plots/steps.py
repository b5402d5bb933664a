"""APART's learned step sizes: Figure 3 of arXiv 2010.08034."""

from typing import Any

import matplotlib
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from co_probe.plots.lines import RUN, name_lines
from co_probe.plots.spec import Episodes, FigureOptions, FigureSpec, Frames, StoredRun, stored
from co_probe.plots.style import BLACK, axes_or_new, method_style, panels

NAMED: dict[str, dict[str, Any]] = {
    "omega": {"color": BLACK, "linestyle": (0, (4, 1.2)), "label": "$α_ω$ (init)"},
    "input": {"color": BLACK, "linestyle": "-", "label": "$α_1$ (input)"},
}


def steps(frame: pd.DataFrame, ax: Axes | None = None, **style: Any) -> Axes:
    """Draw α of one run against epochs, in units of ε: the initialisation, the input, and the blocks in order.

    Args:
        frame: Table `steps` of one run.
        ax: Axes to draw on; new ones if None.
        **style: Arguments of `Axes.plot`.
    """
    ax = axes_or_new(ax)
    blocks = [layer for layer in frame["layer"].unique() if layer not in NAMED]
    shades = matplotlib.colormaps["viridis"]
    for layer, rows in frame.groupby("layer", sort=False):
        if layer in NAMED:
            look = NAMED[str(layer)]
        else:
            place = blocks.index(layer)
            shade = shades(0.85 * place / max(1, len(blocks) - 1))  # the palest are hard to see on white
            look = {"color": shade, "linewidth": 1.0, "label": f"block {place + 1}"}
        ax.plot(rows["epoch"], rows["value"], **(look | {"gid": RUN} | style))
    ax.axhline(0, color="0.8", linewidth=0.8, zorder=0)
    ax.set_xlabel("epoch")
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.margins(x=0.02)
    ax.set_ylabel("step size $α$ (units of $ε$)")
    return ax


def draw(frames: Frames, episodes: Episodes) -> Figure:
    """Draw a panel for each run that learns step sizes."""
    groups = list(frames["steps"].groupby(["method", "run"], sort=False))
    figure, axes = panels(len(groups), squeeze=False, sharex=True)
    labels: dict[Any, Any] = {}
    for ((method, run), frame), ax in zip(groups, axes[:, 0], strict=True):
        steps(frame, ax)
        name = method_style(method)["label"]
        ax.set_title(name if run == method else f"{name} ({run})")
        ax.set_xlabel("epoch" if ax is axes[-1, 0] else "")
        labels |= {label: handle for handle, label in zip(*ax.get_legend_handles_labels(), strict=True)}
    if not all([name_lines(ax) for ax in axes[:, 0]]):
        figure.legend(list(labels.values()), list(labels), loc="outside lower center", ncols=3)
    return figure


def unsupported_reason(run: StoredRun, options: FigureOptions) -> str | None:
    """Say that the run learns no step sizes."""
    return None if len(run.frame("steps")) else f"{run.name} learns no step sizes (only APART does)"


FIGURE = FigureSpec(draw=draw, tables={"steps": stored("steps")}, unsupported_reason=unsupported_reason)
