"""Clean accuracy against robust accuracy at several ε: Figure 4 of arXiv 2010.08034."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from co_probe.config.labels import chosen_label, epsilon_label
from co_probe.errors import UserError
from co_probe.plots.spec import Episodes, FigureOptions, FigureSpec, Frames, Measure, StoredRun
from co_probe.plots.style import axes_or_new, method_style, panels

ATTACKS = ("clean", "pgd20")  # of the x and y axis
MARKERS = "osD^vP"
LABEL = 6.5  # points
AROUND = ((0.9, 0.8), (-0.9, 0.8), (0.9, -0.8), (-0.9, -0.8), (0, 1.1), (0, -1.1), (1.2, 0), (-1.2, 0))
# Offsets of labels from their points, in label heights, best first; distant labels are joined to their points.
PLACES = [(dx * far, dy * far) for far in (1.0, 1.7, 2.6) for dx, dy in AROUND]


def trade_off(frame: pd.DataFrame, ax: Axes | None = None, **style: Any) -> Axes:
    """Draw accuracy under PGD-20 against clean accuracy: a line per method, with a point per ε in increasing order.

    A point is the mean over runs of a method and ε, with bars of one standard deviation (n − 1) if there are several.

    Args:
        frame: Table `eval`, with one epoch per run.
        ax: Axes to draw on; new ones if None.
        **style: Arguments of `Axes.errorbar`.
    """
    ax = axes_or_new(ax)
    points = _points(frame)
    for number, (method, rows) in enumerate(points.groupby("method", sort=False)):
        look = method_style(str(method)) | {"marker": MARKERS[number % len(MARKERS)]} | style
        bars = {"xerr": rows["clean_sd"], "yerr": rows["pgd20_sd"]} if rows["runs"].max() > 1 else {}
        ax.errorbar(rows["clean"], rows["pgd20"], **bars, markersize=3.2, elinewidth=0.6, **look)
    ax.margins(0.13)
    ax.set_xlabel("clean accuracy (%)")
    ax.set_ylabel("accuracy under PGD-20 (%)")
    labels = [epsilon_label(epsilon) for epsilon in points["epsilon"]]
    if _in_grey_levels(points):
        labels = [label.removesuffix("/255") for label in labels]
    _place_labels(ax, points[["clean", "pgd20"]].to_numpy(), labels, [str(m) for m in points["method"]])
    return ax


def _points(frame: pd.DataFrame) -> pd.DataFrame:
    """Return a row for each method and ε: runs, mean and standard deviation of both accuracies, in percent."""
    accuracies = frame[frame["quantity"] == "accuracy"]
    wide = accuracies.pivot_table(index=["method", "epsilon", "run"], columns="attack", values="value") * 100
    groups = wide.reset_index().groupby(["method", "epsilon"])
    mean, spread = groups[["clean", "pgd20"]].mean(), groups[["clean", "pgd20"]].std().fillna(0)
    return mean.join(spread.add_suffix("_sd")).assign(runs=groups.size()).reset_index()


def _place_labels(ax: Axes, points: np.ndarray, labels: Sequence[str], methods: Sequence[str]) -> None:
    """Write each label next to its point, where it covers the least of lines, points and other labels."""
    figure = ax.get_figure(root=True)
    assert figure is not None
    figure.canvas.draw()  # positions of points depend on the layout
    unit = LABEL * figure.dpi / 72
    at = ax.transData.transform(points)
    ink = [at]
    for method in dict.fromkeys(methods):
        corners = at[[name == method for name in methods]]
        ink += [np.linspace(a, b, 40) for a, b in pairwise(corners)]
    taken = np.concatenate(ink)
    for place, (x0, y0), label, method in zip(at, points, labels, methods, strict=True):
        half = unit * np.array([0.3 * len(label), 0.45])
        spots = [place + unit * np.array([dx * (0.4 + 0.3 * len(label)), dy]) for dx, dy in PLACES]
        covered = [int((np.abs(taken - spot) < half + unit * 0.15).all(1).sum()) for spot in spots]
        best = int(np.argmin(covered))
        x, y = ax.transData.inverted().transform(spots[best])
        color = method_style(method)["color"]
        near = best < len(AROUND)
        ax.annotate(
            label,
            (x0, y0),
            (x, y),
            ha="center",
            va="center",
            fontsize=LABEL,
            color=color,
            arrowprops=None
            if near
            else {"arrowstyle": "-", "color": color, "linewidth": 0.4, "shrinkA": 0, "shrinkB": 2},
        )
        grid = np.stack(np.meshgrid(np.linspace(-1, 1, 9), np.linspace(-1, 1, 5)), -1).reshape(-1, 2)
        taken = np.concatenate([taken, spots[best] + grid * half])


def draw(frames: Frames, episodes: Episodes) -> Figure:
    """Draw the figure; the legend comes first, since it changes the layout in which labels are placed."""
    frame = frames["eval"]
    figure, ax = panels(height=2.7)
    methods = sorted(frame["method"].unique())
    figure.legend(
        [
            Line2D([], [], marker=MARKERS[n % len(MARKERS)], markersize=3.2, **method_style(m))
            for n, m in enumerate(methods)
        ],
        [method_style(method)["label"] for method in methods],
        loc="outside lower center",
        ncols=4,
        columnspacing=1,
        handlelength=2.4,
        title="numbers: "
        + ("255 ε" if _in_grey_levels(frame) else "ε")
        + f"; on {_sizes(frame)} test images"
        + (f"\n{chosen_label(frame['chosen_on'])}" if "chosen_on" in frame else ""),
        title_fontsize=7,
    )
    trade_off(frame, ax)
    return figure


def _sizes(frame: pd.DataFrame) -> str:
    sizes = frame.loc[frame["quantity"] == "accuracy", "n"]
    return f"{sizes.min()}" if sizes.min() == sizes.max() else f"{sizes.min()} to {sizes.max()}"


def _in_grey_levels(frame: pd.DataFrame) -> bool:
    return all(epsilon_label(epsilon).endswith("/255") for epsilon in frame["epsilon"])


def best_epochs(runs: Sequence[StoredRun], options: FigureOptions, measure: Measure) -> pd.DataFrame:
    """Return the accuracies of each run's best epoch, each on the greatest number of images it was measured on.

    Missing ones are measured on all test images. Raises UserError for runs on different images, whose accuracies are
    not comparable.
    """
    if len({(run.info.data, run.norm, str(run.config.extensions) if run.info.settings else "") for run in runs}) > 1:
        raise UserError("trade-off compares runs on the same images and in balls of one norm: name such runs")
    if missing := [run for run in runs if len(_stored_rows(run)) < len(ATTACKS)]:
        measure("eval", missing, attacks=ATTACKS)
    return pd.concat([_stored_rows(run).assign(chosen_on=run.chosen_on) for run in runs], ignore_index=True)


def _stored_rows(run: StoredRun) -> pd.DataFrame:
    return run.frame("eval", attacks=ATTACKS)


FIGURE = FigureSpec(draw=draw, tables={"eval": best_epochs})
