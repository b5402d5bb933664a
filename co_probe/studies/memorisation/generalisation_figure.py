"""Clean and robust accuracy on train and test: clean generalisation with robust overfitting (arXiv 2306.01271)."""

from collections.abc import Iterator
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from co_probe.config.labels import attack_label
from co_probe.plots.lines import percent_axis
from co_probe.plots.spec import AGAINST, Episodes, FigureSpec, Frames, probed
from co_probe.plots.style import BLUE, VERMILION, axes_or_new, method_style, panels

CLEAN, ROBUST = BLUE, VERMILION
LOOKS: dict[tuple[str, str], dict[str, Any]] = {
    # (view, images): one colour per view; dashed for training images.
    ("clean", "train"): {"color": CLEAN, "linestyle": (0, (4, 1.2)), "label": "clean, train"},
    ("clean", "test"): {"color": CLEAN, "linestyle": "-", "label": "clean, test"},
    ("robust", "train"): {"color": ROBUST, "linestyle": (0, (4, 1.2)), "label": "robust, train"},
    ("robust", "test"): {"color": ROBUST, "linestyle": "-", "label": "robust, test"},
}


def curves(frame: pd.DataFrame, quantity: str = "accuracy") -> Iterator[tuple[dict[str, Any], pd.DataFrame]]:
    """Yield the line style and the rows of each of the four combinations of view and images."""
    frame = frame[frame["quantity"] == quantity].sort_values("epoch")
    for (view, images), look in LOOKS.items():
        yield look, frame[(frame["view"] == view) & (frame["images"] == images)]


def generalisation(frame: pd.DataFrame, ax: Axes | None = None, **style: Any) -> Axes:
    """Plot accuracies of one run against epochs, with 95% bands.

    Args:
        frame: The table `memorisation` of one run.
        ax: Axes to draw on; new ones if None.
        style: Passed to `Axes.plot`.
    """
    ax = axes_or_new(ax)
    for look, rows in curves(frame):
        ax.plot(rows["epoch"], 100 * rows["value"], **(look | style))
        ax.fill_between(
            rows["epoch"], 100 * rows["low"], 100 * rows["high"], color=look["color"], alpha=0.12, linewidth=0
        )
    ax.set_xlabel("epoch")
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.margins(x=0.02)
    percent_axis(ax)
    ax.set_ylabel("accuracy (%)")
    return ax


def draw(frames: Frames, episodes: Episodes) -> Figure:
    """Draw one panel per run."""
    frame = frames["memorisation"]
    groups = list(frame.groupby(["method", "run"], sort=False))
    figure, axes = panels(len(groups), squeeze=False, sharex=True)
    for ((method, run), rows), ax in zip(groups, axes[:, 0], strict=True):
        generalisation(rows, ax)
        name = method_style(method)["label"]
        ax.set_title(name if run == method else f"{name} ({run})")
        ax.set_xlabel("epoch" if ax is axes[-1, 0] else "")
    legend(figure, axes[0, 0], frame)
    return figure


def legend(figure: Figure, ax: Axes, frame: pd.DataFrame) -> None:
    """Add a legend below the figure, titled with the attack."""
    figure.legend(
        *ax.get_legend_handles_labels(),
        loc="outside lower center",
        ncols=2,
        title=f"robust: under {attack_label(frame['against'].iloc[0])}",
        title_fontsize=7,
    )


FIGURE = FigureSpec(draw=draw, tables={"memorisation": probed("memorisation", against=AGAINST)}, against="pgd20")
