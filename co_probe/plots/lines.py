"""Lines against epochs: what most figures are made of."""

import re
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from co_probe.plots.spec import Episodes
from co_probe.plots.style import DASHES, method_style

DARKEST = 0.25  # opacity where the shades of all runs lie upon each other
RUN = "run"  # group id of the lines that show a run
NAMED = 6  # lines that are named at their ends at most
LABEL_HEIGHT = 8.0  # points
EPOCHS = "epochs"  # label of axes whose x is the epoch
SEED = re.compile(r"-seed\d+(?=-|$)")  # as sweeps name their runs


def epoch_lines(frame: pd.DataFrame, ax: Axes, *, scale: float = 1.0, **style: Any) -> None:
    """A line with its interval band for each run of a tidy table (columns run, method, epoch, value, low, high).

    Runs of one method share its colour. Those that differ in their seed alone share its entry of the legend too; if
    there are others (at another ε, say), each kind has dashes and an entry of its own. `style` goes to `Axes.plot`.
    """
    named: set[str] = set()
    for (method, run), rows in frame.groupby(["method", "run"], sort=False):
        look = method_style(str(method))
        kinds = _kinds(frame.loc[frame["method"] == method, "run"])
        if len(kinds) > 1:
            kind = SEED.sub("", str(run))
            look |= {"label": kind, "linestyle": DASHES[kinds.index(kind) % len(DASHES)]}
        if look["label"] in named:
            look["label"] = None
        named.add(look["label"])
        look |= {"gid": RUN} | style
        rows = rows.sort_values("epoch")
        ax.plot(rows["epoch"], rows["value"] * scale, **look)
        ax.fill_between(
            rows["epoch"],
            rows["low"] * scale,
            rows["high"] * scale,
            color=look["color"],
            alpha=0.1,
            linewidth=0,
        )
    ax.set_label(EPOCHS)
    ax.set_xlabel("epoch")
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.margins(x=0.02)


def _kinds(runs: pd.Series) -> list[str]:
    """Names of the runs without their seeds, each once."""
    return list(dict.fromkeys(SEED.sub("", str(run)) for run in runs))


def shade_episodes(frame: pd.DataFrame, ax: Axes, episodes: Episodes, *, name: bool = True) -> None:
    """Shade the episodes of catastrophic overfitting of each run in a tidy table, in the colour of its method.

    Where several runs have collapsed, shades add up; the more runs there are, the lighter each is.

    Args:
        frame: Tidy table that the axes show, with the columns run, method and epoch.
        ax: Axes against epochs.
        episodes: Episodes by run.
        name: Whether to write "collapsed" over the earliest.
    """
    runs = frame[["run", "method"]].drop_duplicates()
    fallen = [(run, method_style(method)["color"]) for run, method in runs.itertuples(index=False) if episodes.get(run)]
    first, last = frame["epoch"].min(), frame["epoch"].max()
    alpha = 1 - (1 - DARKEST) ** (1 / max(2, len(fallen)))
    for run, color in fallen:
        for start, end in episodes[run]:
            left, right = max(start - 0.5, first), min(end + 0.5, last)
            ax.axvspan(left, right, color=color, alpha=alpha, linewidth=0, zorder=0)
    if fallen and name:
        run, color = min(fallen, key=lambda each: episodes[each[0]][0][0])
        ax.annotate(
            "collapsed",
            (max(episodes[run][0][0] - 0.5, first), 1),
            xycoords=("data", "axes fraction"),
            xytext=(2, -1),
            textcoords="offset points",
            va="top",
            fontsize=6.5,
            color=color,
        )


def mark_switches(figure: Figure, switches: Mapping[str, float]) -> None:
    """Draw a dotted line in all axes against epochs where the guard of a run has switched to its remedy.

    Args:
        figure: A figure whose axes are final; without axes against epochs, nothing is drawn.
        switches: The moment of each run that has switched, in epochs with a fraction.
    """
    shown = [ax for ax in figure.axes if ax.get_label() == EPOCHS]
    for place, ax in enumerate(shown):
        for epoch in switches.values():
            ax.axvline(epoch, color="0.35", linewidth=1, linestyle=(0, (1, 1.5)), zorder=1)
        if switches and not place:
            ax.annotate(
                "guard",
                (min(switches.values()), 0),
                xycoords=("data", "axes fraction"),
                xytext=(2, 2),
                textcoords="offset points",
                fontsize=6.5,
                color="0.35",
            )


def name_lines(ax: Axes) -> bool:
    """Write the label of each line of `epoch_lines` at its end, in its colour; labels that would overlap move apart.

    Args:
        ax: Axes whose limits are final.

    Returns:
        Whether it did: with more than `NAMED` labels, a legend is easier to read.
    """
    named = [line for line in ax.lines if line.get_gid() == RUN and not str(line.get_label()).startswith("_")]
    points = [np.asarray(line.get_xydata(), dtype=float)[-1] for line in named]
    if len(named) > NAMED:
        return False
    figure = ax.get_figure(root=True)
    assert figure is not None
    low, high = ax.get_ylim()
    apart = LABEL_HEIGHT * (high - low) / (ax.get_position().height * figure.get_figheight() * 72)
    ends = sorted(zip(points, named, strict=True), key=lambda end: end[0][1])
    last = max((x for (x, _), _ in ends), default=0.0)
    heights: list[float] = []
    lowest = -np.inf  # that is free, for labels at the right edge; those of lines that end early are out of the way
    for (x, y), _ in ends:
        heights.append(max(y, lowest) if x == last else y)
        lowest = heights[-1] + apart if x == last else lowest
    over = max(0.0, lowest - apart / 2 - high)
    for height, ((x, _), line) in zip(heights, ends, strict=True):
        ax.annotate(
            str(line.get_label()),
            (x, height - over if x == last else height),
            xytext=(3, 0 if x == last else 6),
            textcoords="offset points",
            va="center",
            fontsize=7,
            color=line.get_color(),
            annotation_clip=False,
        )
    return True


def percent_axis(ax: Axes) -> None:
    """0 to 100%, for tables in [0, 1] that were drawn with scale=100."""
    ax.set_ylim(-2, 102)
