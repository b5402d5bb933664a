"""The gap to a stronger attack: Figures 2b and 5c of arXiv 2010.08034."""

from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from co_probe.config.labels import attack_label
from co_probe.plots.lines import epoch_lines, name_lines, shade_episodes
from co_probe.plots.spec import AGAINST, GENERATOR, Episodes, FigureSpec, Frames, probed
from co_probe.plots.style import axes_or_new


def gap(
    frame: pd.DataFrame, ax: Axes | None = None, episodes: Episodes | None = None, *, name: bool = True, **style: Any
) -> Axes:
    """Draw L(δ_B) − L(δ_A) in nats against epochs, with its 95% interval.

    Larger = weaker δ_A; about 0 for a healthy run.

    Args:
        frame: Table of the probe `gap`, for one attack B.
        ax: Axes to draw on; new ones if None.
        episodes: Epochs in which a run has collapsed, which are shaded.
        name: Whether to write "collapsed" above the axes.
        **style: Arguments of `Axes.plot`.
    """
    ax = axes_or_new(ax)
    against = attack_label(frame["against"].iloc[0])
    epoch_lines(frame[frame["quantity"] == "gap"], ax, episodes=episodes, **style)
    shade_episodes(frame, ax, episodes or {}, name=name)
    ax.axhline(0, color="0.8", linewidth=0.8, zorder=0)
    ax.set_ylabel(f"gap to {against} (nats)\n$L(δ_B) - L(δ_A)$\nlarger = weaker $δ_A$")
    return ax


def draw(frames: Frames, episodes: Episodes) -> Figure:
    """Draw the gap of runs over the epochs, one line per run."""
    ax = gap(frames["gap"], episodes=episodes)
    figure = ax.get_figure(root=True)
    assert figure is not None
    if not name_lines(ax):
        figure.legend(loc="outside lower center", ncols=4, columnspacing=1, handlelength=1.6)
    return figure


FIGURE = FigureSpec(draw=draw, tables={"gap": probed("gap", against=AGAINST, generator=GENERATOR)})
