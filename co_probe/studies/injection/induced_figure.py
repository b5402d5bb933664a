"""Figures of arXiv 2206.08242: the phase diagram of induced catastrophic overfitting, and the epochs of one run."""

from collections.abc import Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from co_probe.config.labels import AttackLike, attack_label, attack_name, epsilon_label
from co_probe.diagnosis import verdict_of
from co_probe.plots.lines import epoch_lines, percent_axis, shade_episodes
from co_probe.plots.spec import Episodes, FigureOptions, FigureSpec, Frames, Measure, StoredRun, stored
from co_probe.plots.style import (
    BLACK,
    BLUE,
    COLLAPSED,
    COLUMN,
    GREEN,
    VERMILION,
    axes_or_new,
    method_style,
    panels,
)
from co_probe.studies.injection.settings import Inject

EDGE: dict[str, Any] = {"color": COLLAPSED, "linewidth": 2.0}
VIEWS = {
    "both": ("image and carrier", BLACK, "-"),
    "image": ("image alone", BLUE, (0, (4, 1.2))),
    "carrier": ("carrier alone", VERMILION, (0, (4, 1, 1, 1))),
    "reversed": ("image, carrier reversed", GREEN, (0, (1.2, 1))),
}
ACCURACIES = {
    "clean": ("no perturbation", BLACK, "-"),
    "fgsm": ("FGSM", VERMILION, (0, (4, 1.2))),
    "pgd10": ("PGD-10", BLUE, "-"),
}


def phase_diagram(frame: pd.DataFrame, ax: Axes | None = None, **style: Any) -> Axes:
    """Plot robust accuracy (%) over ε and β, with a contour around the cells that collapsed.

    A cell is the mean over its runs, and has collapsed if at least half of them have.

    Args:
        frame: The table of cells of one method, with columns beta, epsilon, value, onset.
        ax: Axes to draw on; new ones if None.
        style: Passed to `Axes.imshow`.
    """
    ax = axes_or_new(ax)
    groups = frame.assign(fallen=frame["onset"] > 0).groupby(["beta", "epsilon"])
    accuracy = 100 * groups["value"].mean().unstack()
    fallen = (groups["fallen"].mean() >= 0.5).unstack(fill_value=False).to_numpy(dtype=bool)
    look: dict[str, Any] = {"cmap": "cividis", "vmin": 0, "vmax": 100, "origin": "lower", "aspect": "auto"} | style
    ax.imshow(accuracy.to_numpy(), **look)
    for (row, column), value in np.ndenumerate(accuracy.to_numpy()):
        if np.isfinite(value):
            color = "white" if value < 55 else "black"
            ax.text(column, row, f"{value:.0f}", ha="center", va="center", fontsize=7, color=color)
    ax.add_collection(LineCollection(_edges(fallen), capstyle="projecting", clip_on=False, zorder=3, **EDGE))
    for axis, values in ((ax.xaxis, accuracy.columns), (ax.yaxis, accuracy.index)):
        axis.set_ticks(range(len(values)), [epsilon_label(value) for value in values])
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    ax.set_xlabel("ε of training and attack")
    ax.set_ylabel("β of the carrier")
    return ax


def _edges(inside: np.ndarray) -> list[tuple[tuple[float, float], tuple[float, float]]]:
    """Return the boundary of the cells (row, column) in `inside`, as lines ((x, y), (x, y))."""
    wide = np.pad(inside, 1)
    edges = []
    for row, column in np.ndindex(inside.shape[0] + 1, inside.shape[1] + 1):
        x, y = column - 0.5, row - 0.5  # the corner where the cell begins
        if wide[row + 1, column + 1] != wide[row + 1, column]:
            edges.append(((x, y), (x, y + 1)))
        if wide[row + 1, column + 1] != wide[row, column + 1]:
            edges.append(((x, y), (x + 1, y)))
    return edges


def draw(frames: Frames, episodes: Episodes) -> Figure:
    """Draw a phase diagram per method for several runs; for one run, its epochs."""
    if len(frames["cells"]) == 1:
        return _draw_epochs(frames["metrics"], frames["inside"], episodes)
    groups = list(frames["cells"].groupby("method", sort=False))
    most = max(frame["beta"].nunique() for _, frame in groups)
    figure, axes = plt.subplots(len(groups), 1, figsize=(COLUMN, len(groups) * (1.3 + 0.25 * most)), squeeze=False)
    for (method, frame), ax in zip(groups, axes[:, 0], strict=True):
        phase_diagram(frame, ax)
        ax.set_title(method_style(str(method))["label"])
    attack = attack_label(frames["cells"]["attack"].iloc[0])
    bar = figure.colorbar(axes[0, 0].images[0], ax=axes[:, 0], aspect=30)
    bar.set_label(f"accuracy under {attack}\nafter the last epoch (%)")
    if episodes:
        figure.legend([Line2D([], [], **EDGE)], ["catastrophic overfitting"], loc="outside lower center")
    return figure


def _draw_epochs(metrics: pd.DataFrame, inside: pd.DataFrame, episodes: Episodes) -> Figure:
    views = inside[inside["quantity"].isin(VIEWS)]
    figure, axes = panels(3 if len(views) else 2, height=1.8, sharex=True)
    top, middle = axes[:2]
    _lines(metrics, ACCURACIES, top)
    top.set_ylabel("test accuracy (%)")
    epoch_lines(inside[inside["quantity"] == "curvature"], middle, color="black")
    if (inside.loc[inside["quantity"] == "curvature", "value"] > 0).all():
        middle.set_yscale("log")
    middle.set_ylabel("curvature: largest eigenvalue\nof the input Hessian")
    if len(views):
        _lines(views, VIEWS, axes[2])
        axes[2].set_ylabel("test accuracy (%)\nno perturbation")
    for ax in axes:
        shade_episodes(metrics, ax, episodes, name=ax is middle)
        ax.set_xlabel("epoch" if ax is axes[-1] else "")
    return figure


def _lines(frame: pd.DataFrame, looks: dict[str, tuple[str, str, Any]], ax: Axes) -> None:
    """Plot accuracies of one run, a line per quantity, with a legend above the axes."""
    for quantity, (label, color, dashes) in looks.items():
        rows = frame[frame["quantity"] == quantity]
        epoch_lines(rows, ax, scale=100, color=color, linestyle=dashes, label=label)
    percent_axis(ax)
    if ax.lines:
        ax.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=3 if len(looks) == 3 else 2, columnspacing=1)


def cells(runs: Sequence[StoredRun], options: FigureOptions, measure: Measure) -> pd.DataFrame:
    """Return a row per run: β, ε, final accuracy, and onset.

    The accuracy is that of the last epoch under PGD-10 or the attack of the options; the onset is the first epoch of
    catastrophic overfitting, 0 if there is none.
    """
    attack = options.against or "pgd10"
    rows = [
        {
            **run.labels(run.last_epoch, "cells"),
            "beta": _beta(run),
            "epsilon": run.epsilon,
            "attack": attack_name(attack),
            "value": _last_under(run, attack, measure),
            "onset": verdict_of(run).onset or 0,
        }
        for run in runs
    ]
    return pd.DataFrame(rows)


def _beta(run: StoredRun) -> float:
    """Return β of a run, 0 if it has no carriers."""
    return run.config.extension(Inject).beta if run.info.settings else 0.0


def _last_under(run: StoredRun, attack: AttackLike, measure: Measure) -> float:
    """Return the accuracy of the last epoch under an attack: recorded for PGD-10, else measured on all test images."""
    recorded = run.metrics(run.last_epoch)
    if attack == "pgd10" and "pgd10" in recorded:
        return recorded["pgd10"]
    settings: dict[str, Any] = {"attacks": [attack], "epoch": "last"}
    if not len(frame := run.frame("eval", **settings)):
        measure("eval", [run], **settings)
        frame = run.frame("eval", **settings)
    return frame["value"].iloc[-1]


def inside(runs: Sequence[StoredRun], options: FigureOptions, measure: Measure) -> pd.DataFrame:
    """Measure curvature and, with carriers, the accuracies on the views of a single run; empty for several runs."""
    if len(runs) > 1:
        return pd.DataFrame()
    probes = ["curvature", *(["views"] if _beta(runs[0]) else [])]
    return pd.concat([measure(name, runs) for name in probes], ignore_index=True)


FIGURE = FigureSpec(draw=draw, tables={"cells": cells, "inside": inside, "metrics": stored("metrics")})
