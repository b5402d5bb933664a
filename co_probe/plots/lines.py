"""Lines against epochs, which most figures consist of."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from matplotlib.ticker import MaxNLocator

from co_probe.plots.spec import Episodes
from co_probe.plots.style import COLLAPSED, DASHES, method_style

DARKEST = 0.25  # opacity where the shades of all runs overlap
BAND = 0.15  # opacity of the interval of a single run, or of one that has collapsed
COLLAPSED_WIDTH = 2.0  # points
RUN = "run"  # group id of the lines that show a run
NAMED = 6  # greatest number of lines that are labelled at their ends
LABEL_HEIGHT = 8.0  # points
EPOCHS = "epochs"  # label of axes whose x is the epoch
SEED = re.compile(r"-seed\d+(?=-|$)")  # as sweeps name their runs


def epoch_lines(
    frame: pd.DataFrame, ax: Axes, *, scale: float = 1.0, episodes: Episodes | None = None, **style: Any
) -> None:
    """Draw a line with its interval for each run of a tidy table.

    Runs of one method share its colour. Runs that differ in their seed alone share one legend entry; other differences
    (another ε, say) get dashes and an entry each. Intervals are lighter the more runs there are; runs that collapsed
    are drawn last, with a wider line and a darker interval.

    Args:
        frame: Columns run, method, epoch, value, low and high.
        ax: Axes to draw on.
        scale: Factor of value, low and high.
        episodes: Episodes by run.
        **style: Arguments of `Axes.plot`.
    """
    named: set[str] = set()
    light = BAND / max(1, frame["run"].nunique())
    for (method, run), rows in frame.groupby(["method", "run"], sort=False):
        collapsed = bool((episodes or {}).get(str(run)))
        look = method_style(str(method))
        kinds = _kinds(frame.loc[frame["method"] == method, "run"])
        if len(kinds) > 1:
            kind = SEED.sub("", str(run))
            look |= {"label": kind, "linestyle": DASHES[kinds.index(kind) % len(DASHES)]}
        if look["label"] in named:
            look["label"] = None
        named.add(look["label"])
        look |= {"gid": RUN} | ({"linewidth": COLLAPSED_WIDTH, "zorder": 3} if collapsed else {}) | style
        rows = rows.sort_values("epoch")
        ax.plot(rows["epoch"], rows["value"] * scale, **look)
        ax.fill_between(
            rows["epoch"],
            rows["low"] * scale,
            rows["high"] * scale,
            color=look["color"],
            alpha=BAND if collapsed else light,
            linewidth=0,
        )
    ax.set_label(EPOCHS)
    ax.set_xlabel("epoch")
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.margins(x=0.02)


def _kinds(runs: pd.Series) -> list[str]:
    """Return the distinct names of runs without their seeds, in order."""
    return list(dict.fromkeys(SEED.sub("", str(run)) for run in runs))


def shade_episodes(frame: pd.DataFrame, ax: Axes, episodes: Episodes, *, name: bool = True) -> None:
    """Shade the episodes of catastrophic overfitting of each run in a tidy table, all in one colour.

    Where several runs have collapsed, shades add up; the more runs there are, the lighter each is.

    Args:
        frame: Tidy table that the axes show, with the columns run, method and epoch.
        ax: Axes against epochs.
        episodes: Episodes by run.
        name: Whether to write "collapsed" above the axes where the first episode starts. If one or two of several
            methods collapse, each is named, where its first episode starts.
    """
    runs = frame[["run", "method"]].drop_duplicates()
    fallen = [(run, method_style(method)["label"]) for run, method in runs.itertuples(index=False) if episodes.get(run)]
    if not fallen:
        return
    first, last = frame["epoch"].min(), frame["epoch"].max()
    alpha = 1 - (1 - DARKEST) ** (1 / max(2, len(fallen)))
    for run, _ in fallen:
        for start, end in episodes[run]:
            left, right = max(start - 0.5, first), min(end + 0.5, last)
            ax.axvspan(left, right, color=COLLAPSED, alpha=alpha, linewidth=0, zorder=0)
    if name:
        starts: dict[str, int] = {}
        for run, label in fallen:
            starts[label] = min(starts.get(label, episodes[run][0][0]), episodes[run][0][0])
        if runs["method"].nunique() == 1 or len(starts) > 2:
            starts = {"": min(starts.values())}
        for row, (label, start) in enumerate(sorted(starts.items(), key=lambda item: item[1])):
            left = max(start - 0.5, first)
            late = left - first > 0.5 * (last - first)  # text to its right would leave the axes
            ax.annotate(
                f"{label} collapsed".strip(),
                (last if late else left, 1),
                xycoords=("data", "axes fraction"),
                xytext=(0, 2 + LABEL_HEIGHT * row),
                textcoords="offset points",
                va="bottom",
                ha="right" if late else "left",
                fontsize=6.5,
                color=COLLAPSED,
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
                (min(switches.values()), 1),
                xycoords=("data", "axes fraction"),
                xytext=(-2, -1),
                textcoords="offset points",
                ha="right",
                va="top",
                fontsize=6.5,
                color="0.35",
            )


def name_lines(ax: Axes) -> bool:
    """Write the label of each line of `epoch_lines` at its end, in its colour.

    Labels at the right edge that would overlap move apart; thin lines then join them to their ends.

    Args:
        ax: Axes whose limits are final.

    Returns:
        True if the labels were written, False if there are more than `NAMED`: then a legend is easier to read.
    """
    named = [line for line in ax.lines if line.get_gid() == RUN and not str(line.get_label()).startswith("_")]
    points = [np.asarray(line.get_xydata(), dtype=float)[-1] for line in named]
    if len(named) > NAMED:
        return False
    figure = ax.get_figure(root=True)
    assert figure is not None
    low, high = ax.get_ylim()
    unit = ax.get_position().height * figure.get_figheight() * 72 / (high - low)  # points
    apart = LABEL_HEIGHT / unit
    last = max((x for x, _ in points), default=0.0)
    ends = sorted(zip(points, named, strict=True), key=lambda end: end[0][1])
    places = _spread([y for (x, y), _ in ends if x == last], apart, low, high)
    for (x, y), line in ends:
        height, crowded = places.pop(0) if x == last else (y, False)
        color = line.get_color()
        joint = {"arrowstyle": "-", "color": color, "linewidth": 0.5, "shrinkA": 1, "shrinkB": 1, "relpos": (0, 0.5)}
        ax.annotate(
            str(line.get_label()),
            (x, y),
            xytext=(9 if crowded else 3, unit * (height - y) if x == last else 6),
            textcoords="offset points",
            va="center",
            fontsize=7,
            color=color,
            annotation_clip=False,
            path_effects=[withStroke(linewidth=1.5, foreground="white")],
            arrowprops=joint if crowded else None,
        )
    return True


def _spread(values: Sequence[float], apart: float, low: float, high: float) -> list[tuple[float, bool]]:
    """Move increasing values between `low` and `high` so that neighbours differ by at least `apart`.

    Returns:
        Each new value, and whether one of its neighbours had to move by more than half of `apart`.
    """
    groups: list[list[float]] = []  # of values that would overlap

    def lowest(group: list[float]) -> float:
        half = apart * (len(group) - 1) / 2
        return min(max(sum(group) / len(group), low + half), high - half) - half

    for value in values:
        groups.append([value])
        while len(groups) > 1 and lowest(groups[-2]) + apart * len(groups[-2]) > lowest(groups[-1]):
            groups[-2:] = [groups[-2] + groups[-1]]
    spread = []
    for group in groups:
        places = [lowest(group) + apart * place for place in range(len(group))]
        crowded = any(abs(new - old) > apart / 2 for new, old in zip(places, group, strict=True))
        spread += [(place, crowded) for place in places]
    return spread


def percent_axis(ax: Axes) -> None:
    """Show 0 to 100%, for tables in [0, 1] that were drawn with scale=100."""
    ax.set_ylim(-2, 102)
