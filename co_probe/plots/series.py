"""All quantities of a probe against epochs: the default figure of a probe."""

from collections.abc import Sequence

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from co_probe.plots.lines import epoch_lines, name_lines, percent_axis, shade_episodes
from co_probe.plots.spec import Episodes, FigureSpec, Frames, probed
from co_probe.plots.style import panels


def series(probe: str, shares: Sequence[str] = (), details: Sequence[str] = ()) -> FigureSpec:
    """Make the figure of a probe with its default settings: a panel per quantity, a line per run.

    Args:
        probe: The probe's name.
        shares: Quantities in [0, 1], which are drawn in percent.
        details: Quantities to leave out.
    """

    def draw(frames: Frames, episodes: Episodes) -> Figure:
        frame = frames[probe]
        frame = frame[(frame["epoch"] > 0) & ~frame["quantity"].isin(details)]
        quantities = list(frame["quantity"].unique())
        figure, axes = panels(len(quantities), height=1.8, squeeze=False, sharex=True)
        for quantity, ax in zip(quantities, axes[:, 0], strict=True):
            _panel(frame[frame["quantity"] == quantity], ax, quantity, episodes, percent=quantity in shares)
            shade_episodes(frame, ax, episodes, name=ax is axes[0, 0])
            ax.set_xlabel("epoch" if ax is axes[-1, 0] else "")
        if not all([name_lines(ax) for ax in axes[:, 0]]):
            handles = axes[0, 0].get_legend_handles_labels()
            figure.legend(*handles, loc="outside lower center", ncols=4, columnspacing=1)
        return figure

    return FigureSpec(draw=draw, tables={probe: probed(probe)})


def _panel(frame: pd.DataFrame, ax: Axes, quantity: str, episodes: Episodes, *, percent: bool) -> None:
    epoch_lines(frame, ax, scale=100 if percent else 1, episodes=episodes)
    if percent:
        percent_axis(ax)
    ax.set_ylabel(f"{quantity} (%)" if percent else quantity)
