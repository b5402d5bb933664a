"""Perturbations before and during a collapse: Figure 1a of arXiv 2010.08034."""

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from co_probe.config.labels import NORMS
from co_probe.plots.spec import GENERATOR, Episodes, FigureOptions, FigureSpec, Frames, Span, StoredRun, computed
from co_probe.plots.style import COLUMN


def draw(frames: Frames, episodes: Episodes) -> Figure:
    """A row for each image: the image, then its perturbation at each epoch, all on one colour scale of ±ε.

    `frames["perturbations"]`: columns run, epoch, epsilon, image (number), label, accuracy of that epoch under PGD-10,
    x and delta (arrays (C, H, W); a perturbation in colour is shown as its mean over channels).
    """
    frame = frames["perturbations"]
    epochs, images = sorted(frame["epoch"].unique()), list(frame["image"].unique())
    epsilon, spans = frame["epsilon"].iloc[0], episodes.get(frame["run"].iloc[0], [])
    columns = 1 + len(epochs)
    figure, axes = plt.subplots(
        len(images), columns, squeeze=False, figsize=(COLUMN, 0.35 + COLUMN * 0.86 / columns * len(images))
    )
    shown = None
    for row, image in zip(axes, images, strict=True):
        rows = frame[frame["image"] == image].set_index("epoch")
        _show_image(row[0], rows["x"].iloc[0])
        row[0].set_ylabel(rows["label"].iloc[0], rotation=0, ha="right", va="center")
        for ax, epoch in zip(row[1:], epochs, strict=True):
            delta = rows.loc[epoch, "delta"].mean(0)
            shown = ax.imshow(delta, cmap="RdBu_r", vmin=-epsilon, vmax=epsilon, interpolation="nearest")
        for ax in row:
            ax.set(xticks=[], yticks=[])
            ax.spines[:].set_visible(False)
    axes[0, 0].set_title("image")
    for ax, epoch in zip(axes[0, 1:], epochs, strict=True):
        accuracy = frame.loc[frame["epoch"] == epoch, "accuracy"].iloc[0]
        measured = "" if np.isnan(accuracy) else f"\n(PGD-10: {accuracy:.0%})"
        ax.set_title(f"δ, epoch {epoch}{_when(epoch, spans)}{measured}")
    assert shown is not None
    bar = figure.colorbar(shown, ax=axes[:, 1:], location="bottom", shrink=0.9, aspect=30, pad=0.02)
    bar.set_ticks([-epsilon, 0, epsilon], labels=["−ε", "0", f"ε = {epsilon:.3g}"])
    return figure


def _when(epoch: int, spans: Sequence[Span]) -> str:
    """Where an epoch lies among the episodes of a run, as a line of its own; nothing if there are none."""
    if any(start <= epoch <= end for start, end in spans):
        return "\ncollapsed"
    return "" if not spans else "\nbefore the collapse" if epoch < spans[0][0] else "\nrecovered"


def _show_image(ax: Axes, x: np.ndarray) -> None:
    if x.shape[0] == 1:
        ax.imshow(x[0], cmap="gray", vmin=0, vmax=1, interpolation="nearest")
    else:
        ax.imshow(np.moveaxis(x, 0, -1).clip(0, 1), interpolation="nearest")


def unsupported_reason(run: StoredRun, options: FigureOptions) -> str | None:
    """Perturbations that are not bounded pixel by pixel."""
    if run.norm == "linf":
        return None
    return f"{run.name} has perturbations in an {NORMS[run.norm]} ball, which the colours from −ε to ε do not fit"


FIGURE = FigureSpec(
    draw=draw,
    tables={"perturbations": computed("co_probe.diagnosis.telling:perturbations", generator=GENERATOR)},
    single=True,
    unsupported_reason=unsupported_reason,
)
