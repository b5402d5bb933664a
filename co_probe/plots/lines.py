"""Lines against epochs: what most figures are made of."""

import re
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from co_probe.plots.spec import Onsets
from co_probe.plots.style import DASHES, method_style

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
        look |= style
        rows = rows.sort_values("epoch")
        ax.plot(rows["epoch"], rows["value"] * scale, **look)
        ax.fill_between(
            rows["epoch"],
            rows["low"] * scale,
            rows["high"] * scale,
            color=look["color"],
            alpha=0.18,
            linewidth=0,
        )
    ax.set_xlabel("epoch")
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.margins(x=0.02)


def _kinds(runs: pd.Series) -> list[str]:
    """What is left of the runs' names without their seeds, each once."""
    return list(dict.fromkeys(SEED.sub("", str(run)) for run in runs))


def mark_onsets(frame: pd.DataFrame, ax: Axes, onsets: Onsets, *, name: bool = True) -> None:
    """A dotted upright line at the first epoch of catastrophic overfitting of each run in `frame` that has one.

    `name`: whether to write "onset" beside the first.
    """
    runs = frame[["run", "method"]].drop_duplicates()
    for number, (run, method) in enumerate((r, m) for r, m in runs.itertuples(index=False) if r in onsets):
        ax.axvline(onsets[run], color=method_style(method)["color"], linestyle=":", linewidth=1, zorder=0)
        if number == 0 and name:
            ax.annotate(
                "onset",
                (onsets[run], 1),
                xycoords=("data", "axes fraction"),
                xytext=(2, -1),
                textcoords="offset points",
                va="top",
                fontsize=6.5,
                color=method_style(method)["color"],
            )


def percent_axis(ax: Axes) -> None:
    """0 to 100%, for tables in [0, 1] that were drawn with scale=100."""
    ax.set_ylim(-2, 102)
