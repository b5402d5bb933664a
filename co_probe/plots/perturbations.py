"""Perturbations before and during a collapse: Figure 1a of arXiv 2010.08034."""

from collections.abc import Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from co_probe.config.labels import NORMS
from co_probe.plots.spec import GENERATOR, Episodes, FigureOptions, FigureSpec, Frames, Span, StoredRun, computed
from co_probe.plots.style import COLUMN

IMAGES = 2  # number of images per run, where several runs are drawn


def draw(frames: Frames, episodes: Episodes) -> Figure:
    """Draw a row per image: the image, then its perturbation at each epoch, in colours from −ε to ε.

    Several runs are stacked, with `IMAGES` images each.

    Args:
        frames: `perturbations` with columns run, epoch, epsilon, image (number), label, accuracy (of the epoch under
            PGD-10), x and delta (arrays (C, H, W); a perturbation in colour is shown as its mean over channels).
        episodes: Episodes by run.
    """
    runs = list(frames["perturbations"].groupby("run", sort=False))
    rows = [frame["image"].nunique() if len(runs) == 1 else min(IMAGES, frame["image"].nunique()) for _, frame in runs]
    columns = 1 + max(frame["epoch"].nunique() for _, frame in runs)
    cell = COLUMN * 0.86 / columns if len(runs) == 1 else min(0.8, COLUMN * 0.86 / columns)
    heights = [0.35 + 0.17 * (len(runs) > 1) + cell * count for count in rows]
    figure = plt.figure(figsize=(COLUMN, sum(heights) + 0.1 * len(runs)))
    parts = figure.subfigures(len(runs), 1, squeeze=False, height_ratios=heights)[:, 0]
    shared = frames["perturbations"]["epsilon"].nunique() == 1
    for (name, frame), part, count in zip(runs, parts, rows, strict=True):
        axes, shown = _draw_run(frame, part, count, columns, episodes.get(str(name), []))
        if not shared or part is parts[-1]:
            bar = part.colorbar(shown, ax=axes, location="bottom", shrink=0.9, aspect=30, pad=0.02)
            epsilon = frame["epsilon"].iloc[0]
            bar.set_ticks([-epsilon, 0, epsilon], labels=["−ε", "0", f"ε = {epsilon:.3g}"])
        if len(runs) > 1:
            part.suptitle(str(name), fontsize=8, fontweight="bold")
    return figure


def _draw_run(frame: pd.DataFrame, part: Any, count: int, columns: int, spans: Sequence[Span]) -> tuple[Any, Any]:
    """Draw the first `count` images of one run in a subfigure with `columns` columns.

    Returns:
        The axes of the perturbations, and one of their pictures, for a colour bar.
    """
    epochs, images = sorted(frame["epoch"].unique()), list(frame["image"].unique())[:count]
    epsilon = frame["epsilon"].iloc[0]
    axes = part.subplots(count, columns, squeeze=False)
    shown = None
    for row, image in zip(axes, images, strict=True):
        rows = frame[frame["image"] == image].set_index("epoch")
        _show_image(row[0], rows["x"].iloc[0])
        row[0].set_ylabel(rows["label"].iloc[0], rotation=0, ha="right", va="center")
        for ax, epoch in zip(row[1:], epochs, strict=False):
            delta = rows.loc[epoch, "delta"].mean(0)
            shown = ax.imshow(delta, cmap="RdBu_r", vmin=-epsilon, vmax=epsilon, interpolation="nearest")
        for place, ax in enumerate(row):
            ax.set(xticks=[], yticks=[])
            ax.spines[:].set_visible(False)
            ax.set_visible(place <= len(epochs))
    axes[0, 0].set_title("image")
    for ax, epoch in zip(axes[0, 1:], epochs, strict=False):
        accuracy = frame.loc[frame["epoch"] == epoch, "accuracy"].iloc[0]
        measured = "" if np.isnan(accuracy) else f"\n(PGD-10: {accuracy:.0%})"
        ax.set_title(f"δ, epoch {epoch}{_when(epoch, spans)}{measured}")
    return axes[:, 1:], shown


def _when(epoch: int, spans: Sequence[Span]) -> str:
    """Return the position of an epoch relative to the episodes of its run, as a line; empty without episodes."""
    if any(start <= epoch <= end for start, end in spans):
        return "\ncollapsed"
    return "" if not spans else "\nbefore the collapse" if epoch < spans[0][0] else "\nrecovered"


def _show_image(ax: Axes, x: np.ndarray) -> None:
    if x.shape[0] == 1:
        ax.imshow(x[0], cmap="gray", vmin=0, vmax=1, interpolation="nearest")
    else:
        ax.imshow(np.moveaxis(x, 0, -1).clip(0, 1), interpolation="nearest")


def unsupported_reason(run: StoredRun, options: FigureOptions) -> str | None:
    """Say that perturbations are not bounded pixel by pixel."""
    if run.norm == "linf":
        return None
    return f"{run.name} has perturbations in an {NORMS[run.norm]} ball, which the colours from −ε to ε do not fit"


FIGURE = FigureSpec(
    draw=draw,
    tables={"perturbations": computed("co_probe.diagnosis.key_epochs:perturbations", generator=GENERATOR)},
    unsupported_reason=unsupported_reason,
)
