"""Indicators of one run as small multiples, in the order in which they moved."""

import math

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, NullFormatter

from co_probe.config.indicators import EPOCH_INDICATORS, STEP_INDICATORS, Indicator
from co_probe.plots.lines import EPOCHS
from co_probe.plots.spec import Episodes, FigureOptions, FigureSpec, Frames, Span, StoredRun, stored
from co_probe.plots.style import BLUE, COLLAPSED, COLUMN, SKY, VERMILION

COLUMNS = 3
LEGEND = (
    "Shaded: robust accuracy has collapsed. Dashed line and number: epoch at which the indicator had made half of its "
    "change;\npanels are in this order. Dotted: the same for PGD-10 accuracy, measured per epoch. Arrows: direction "
    "expected\nat a collapse. Grey titles: baselines that every training log has."
)
ACCURACY = Indicator(label="robust accuracy", direction=-1)
LINE, MARK, TEXT = BLUE, VERMILION, "0.45"
ACCURACIES = {  # metric of a run: name at the line, colour
    "clean": ("clean", "0.6"),
    "train_attack": ("training attack", SKY),
    "pgd10": ("PGD-10", VERMILION),
}


def moved_at(rows: pd.DataFrame, indicator: Indicator, span: Span | None, **clear: float) -> float | None:
    """Return the epoch at which an indicator had made half of its change at a collapse; None if it did not change."""
    change = None if span is None else indicator.change(rows["epoch"], rows["value"], span, **clear)
    return None if change is None else change.at


def draw(frames: Frames, episodes: Episodes) -> Figure:
    """Draw accuracies, then the indicators in the order in which they moved, and last those that did not move."""
    metrics, steps, epochs = frames["metrics"], frames["steps"], frames["epochs"]
    spans = next(iter(episodes.values()), [])
    main = max(spans, key=lambda span: span[1] - span[0], default=None)
    series = [(STEP_INDICATORS[str(name)], rows) for name, rows in steps.groupby("indicator", sort=False)]
    series += [(EPOCH_INDICATORS[key], rows) for key, rows in epochs.groupby(["probe", "quantity"], sort=False)]
    panels = [(moved_at(rows, each, main), each, rows) for each, rows in series if _varies(rows)]
    panels.sort(key=lambda panel: math.inf if panel[0] is None else panel[0])
    accuracy = metrics[metrics["quantity"].isin(ACCURACIES)] if len(metrics) else metrics
    lost = moved_at(accuracy[accuracy["quantity"] == "pgd10"], ACCURACY, main, clear=0) if len(accuracy) else None

    first = int(len(accuracy) > 0)
    count = first + len(panels)
    lines = math.ceil(count / COLUMNS)
    figure, grid = plt.subplots(lines, COLUMNS, figsize=(2 * COLUMN, 1.3 * lines + 0.6), sharex=True, squeeze=False)
    axes = list(grid.flat)
    if first:
        _accuracies(accuracy, axes[0])
    for ax, panel in zip(axes[first:], panels, strict=False):
        _panel(*panel, collapsed=main is not None, ax=ax)
    for number, ax in enumerate(axes):
        if number >= count:
            ax.set_axis_off()
            continue
        ax.set_label(EPOCHS)
        for start, end in spans:
            ax.axvspan(start - 1, end, color=COLLAPSED, alpha=0.13, linewidth=0, zorder=0)
        if lost is not None:
            ax.axvline(lost, color="black", linewidth=0.8, linestyle=(0, (1, 1.5)), zorder=1)
        ax.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6))
        ax.margins(x=0.02)
        if number + COLUMNS >= count:
            ax.set_xlabel("epoch")
            ax.tick_params(labelbottom=True)
    if main is not None:
        figure.supxlabel(LEGEND, fontsize=6.5, color=TEXT)
    return figure


def _varies(rows: pd.DataFrame) -> bool:
    """Tell whether a series is defined and not zero throughout."""
    values = rows["value"].dropna()
    return len(values) > 1 and bool((values != 0).any())


def _panel(moved: float | None, indicator: Indicator, rows: pd.DataFrame, *, collapsed: bool, ax: Axes) -> None:
    few = len(rows) <= rows["epoch"].max()  # a value per epoch
    ax.plot(rows["epoch"], rows["value"], color=LINE, linewidth=0.9, marker="." if few else "", markersize=3)
    if indicator.log and (rows["value"].dropna() > 0).all():
        ax.set_yscale("log")
        ax.yaxis.set_minor_formatter(NullFormatter())
    arrow = {1: " ↑", -1: " ↓", 0: ""}[indicator.direction]
    ax.set_title(
        indicator.label + arrow, fontsize=7, loc="left", pad=3, color="0.35" if indicator.baseline else "black"
    )
    if moved is not None:
        ax.axvline(moved, color=MARK, linewidth=1, linestyle=(0, (3, 1.5)))
        ax.set_title(f"{moved:.1f}", fontsize=7, loc="right", pad=3, color=MARK)
    elif collapsed:
        ax.set_title("did not move", fontsize=6, loc="right", pad=3, color=TEXT)


def _accuracies(frame: pd.DataFrame, ax: Axes) -> None:
    """Draw accuracies on clean images, under the training attack and under PGD-10, with a legend at the top."""
    wide = 100 * frame.pivot_table(index="epoch", columns="quantity", values="value")
    for name, (label, color) in ACCURACIES.items():
        if name in wide:
            ax.plot(wide.index, wide[name], color=color, linewidth=1.1, label=label)
    ax.set_ylim(-3, 130)
    ax.set_yticks([0, 50, 100])
    ax.set_title("test accuracy (%)", fontsize=7, loc="left", pad=3)
    ax.legend(
        loc="upper center", ncols=3, fontsize=6, labelcolor="linecolor", handlelength=1, columnspacing=0.8, borderpad=0
    )


def unsupported_reason(run: StoredRun, options: FigureOptions) -> str | None:
    """Say that the run has neither step series nor tables of probes."""
    known = run.step_series(run.last_epoch).keys() & STEP_INDICATORS.keys()
    if known or "gap" in run.metrics(run.last_epoch) or any(len(run.frame(probe)) for probe, _ in EPOCH_INDICATORS):
        return None
    return f"{run.name} has no indicators stored: measure some first (alignment, curvature, local-linearity, ...)"


FIGURE = FigureSpec(
    draw=draw,
    tables={
        "metrics": stored("metrics"),
        "steps": stored("step-indicators"),
        "epochs": stored("epoch-indicators"),
    },
    single=True,
    unsupported_reason=unsupported_reason,
)
