"""Spatial frequencies of a run's perturbations at each epoch: figures of arXiv 2206.08242."""

from collections.abc import Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colorbar import Colorbar
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from co_probe.plots.lines import epoch_lines, percent_axis, shade_episodes
from co_probe.plots.spec import GENERATOR, Episodes, FigureSpec, Frames, Span, probed
from co_probe.plots.style import BLUE, COLUMN, VERMILION, axes_or_new

SHARES = {"low": (BLUE, "-"), "high": (VERMILION, (0, (4, 1.2)))}
RANGE, RANGE_EACH = (0.1, 100), (0.01, 10)  # of colour scales: percent of the energy in a band, in a frequency


def bands(frame: pd.DataFrame, ax: Axes | None = None, **style: Any) -> Axes:
    """Draw the share of the energy in each band of frequencies against epochs, in percent.

    The band of a frequency is the larger of its row and column.

    Args:
        frame: Table of the probe `spectrum` of one run.
        ax: Axes to draw on; new ones if None.
        **style: Arguments of `Axes.pcolormesh`.
    """
    ax = axes_or_new(ax)
    energy = frame[frame["quantity"] == "energy"]
    band = energy[["row", "column"]].max(axis=1).rename("band")
    shares = 100 * energy.groupby([band, "epoch"])["value"].sum().unstack()
    look: dict[str, Any] = {"cmap": "magma", "norm": LogNorm(*RANGE), "shading": "nearest"} | style
    mesh = ax.pcolormesh(shares.columns, shares.index, shares.clip(lower=RANGE[0]), **look)
    figure = ax.get_figure(root=True)
    assert figure is not None
    _scale(figure.colorbar(mesh, ax=ax, aspect=12), RANGE)
    ax.set_xlabel("epoch")
    ax.set_ylabel("frequency (larger\nof down and across)")
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    return ax


def draw(frames: Frames, episodes: Episodes) -> Figure:
    """Draw maps of all frequencies at up to four epochs, bands against epochs, and the shares of low and high bands."""
    frame = frames["spectrum"]
    spans = episodes.get(frame["run"].iloc[0], [])
    figure = plt.figure(figsize=(COLUMN, 4.6))
    parts: Any = figure.subfigures(3, 1, height_ratios=(1.15, 1.15, 1.3))
    top, middle, bottom = parts
    _maps(frame[frame["quantity"] == "energy"], spans, top)
    ax = bands(frame, middle.add_subplot())
    for edge in (edge for start, end in spans for edge in (start - 0.5, end + 0.5)):  # shade would hide the colours
        if edge < frame["epoch"].max():
            ax.axvline(edge, color="white", linestyle=":", linewidth=1)
    ax.set_xlabel("")
    ax = bottom.add_subplot()
    side = int(frame.loc[frame["quantity"] == "low", "row"].iloc[0])
    names = {"low": f"the {side}×{side} lowest", "high": "all others"}
    for quantity, (color, dashes) in SHARES.items():
        rows = frame[frame["quantity"] == quantity]
        epoch_lines(rows, ax, scale=100, color=color, linestyle=dashes, label=names[quantity])
    shade_episodes(frame, ax, episodes)
    percent_axis(ax)
    ax.set_ylabel("share of\nthe energy (%)")
    bottom.legend(*ax.get_legend_handles_labels(), loc="outside lower center", ncols=2, title="frequencies")
    return figure


def _maps(energy: pd.DataFrame, spans: Sequence[Span], figure: Any) -> None:
    """Draw the share of each frequency at the first, last and middle epochs, or around the start of an episode."""
    epochs = sorted(int(epoch) for epoch in energy["epoch"].unique())
    middle = epochs[len(epochs) // 2]
    start = spans[0][0] if spans else middle
    wanted = {epochs[0], start, epochs[-1]} | ({max(1, start - 1)} if spans else set())
    shown = sorted(wanted & set(epochs))
    axes = figure.subplots(1, len(shown), squeeze=False)[0]
    image = None
    for ax, epoch in zip(axes, shown, strict=True):
        shares = 100 * energy[energy["epoch"] == epoch].pivot(index="row", columns="column", values="value").to_numpy()
        image = ax.imshow(np.maximum(shares, RANGE_EACH[0]), cmap="magma", norm=LogNorm(*RANGE_EACH))
        ax.set(xticks=[], yticks=[])
        ax.set_title(f"epoch {epoch}" + ("\n(collapsed)" if any(a <= epoch <= b for a, b in spans) else ""), fontsize=7)
    axes[0].set_ylabel("frequency\ndown")
    axes[0].set_xlabel("frequency across")
    assert image is not None
    _scale(figure.colorbar(image, ax=axes, aspect=12, shrink=0.9), RANGE_EACH)


def _scale(bar: Colorbar, ends: tuple[float, float]) -> None:
    """Label a colour scale in percent with powers of ten between both `ends`."""
    low, high = ends
    ticks = [10.0**power for power in range(-3, 3) if low <= 10.0**power <= high]
    bar.set_ticks(ticks, labels=[f"{tick:g}" for tick in ticks])
    bar.set_label("share of\nthe energy (%)")


FIGURE = FigureSpec(draw=draw, tables={"spectrum": probed("spectrum", generator=GENERATOR)}, single=True)
