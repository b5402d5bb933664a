"""Perturbations deteriorate as robustness is lost: Figures 1b and 2a of arXiv 2010.08034."""

from collections.abc import Sequence
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from co_probe.plots.lines import RUN, epoch_lines, name_lines, percent_axis, shade_episodes
from co_probe.plots.spec import Episodes, FigureOptions, FigureSpec, Frames, Measure, StoredRun, probed
from co_probe.plots.style import BASELINE, axes_or_new, panels

BASELINES = {
    "clean": ("no perturbation", "-"),
    "noise": ("uniform noise", "--"),
    "sign-noise": ("random signs ±ε", ":"),
}


def strength(frame: pd.DataFrame, ax: Axes | None = None, episodes: Episodes | None = None, **style: Any) -> Axes:
    """Draw the accuracy of the reference model on each epoch's perturbations, and on noise; lower = stronger.

    Args:
        frame: Table of the probe `strength`, for one reference and one generator.
        ax: Axes to draw on; new ones if None.
        episodes: Epochs in which a run has collapsed, which are shaded.
        **style: Arguments of `Axes.plot`.
    """
    ax = axes_or_new(ax)
    for quantity, (label, dashes) in BASELINES.items():
        values = frame.loc[frame["quantity"] == quantity, "value"]
        if len(values):
            ax.axhline(100 * values.mean(), linestyle=dashes, label=label, **BASELINE)
    epoch_lines(frame[frame["quantity"] == "strength"], ax, scale=100, episodes=episodes, **style)
    shade_episodes(frame, ax, episodes or {}, name=False)
    ax.set_ylabel("accuracy of the reference (%)\nlower = stronger perturbation")
    return ax


def robust_accuracy(
    frame: pd.DataFrame, ax: Axes | None = None, episodes: Episodes | None = None, **style: Any
) -> Axes:
    """Draw test accuracy under PGD-10 against epochs.

    Args:
        frame: The table `metrics`, or that of the probe `gap` to PGD-10.
        ax: Axes to draw on; new ones if None.
        episodes: Epochs in which a run has collapsed, which are shaded.
        **style: Arguments of `Axes.plot`.
    """
    ax = axes_or_new(ax)
    epoch_lines(frame[frame["quantity"].isin(["pgd10", "accuracy"])], ax, scale=100, episodes=episodes, **style)
    shade_episodes(frame, ax, episodes or {})
    percent_axis(ax)
    ax.set_ylabel("test accuracy\nunder PGD-10 (%)")
    return ax


def draw(frames: Frames, episodes: Episodes) -> Figure:
    """Draw robust accuracy above and strength below, on one axis of epochs."""
    figure, (top, bottom) = panels(2, sharex=True)
    robust_accuracy(frames["gap"], top, episodes)
    strength(frames["strength"], bottom, episodes)
    top.set_xlabel("")
    handles, labels = bottom.get_legend_handles_labels()
    if all([name_lines(top), name_lines(bottom)]):
        shown = [(handle, label) for handle, label in zip(handles, labels, strict=True) if handle.get_gid() != RUN]
        handles, labels = [handle for handle, _ in shown], [label for _, label in shown]
    if handles:
        names = ", ".join(map(str, frames["strength"].get("reference", pd.Series(dtype=str)).unique()))
        look: dict[str, Any] = {"title": f"reference: {names}", "title_fontsize": 7} if names else {}
        figure.legend(handles, labels, loc="outside lower center", ncols=3, columnspacing=1, **look)
    return figure


def strength_rows(run: StoredRun, options: FigureOptions) -> pd.DataFrame:
    """Return the stored strength for the reference in `options`, or for the newest."""
    return run.frame("strength", reference=options.reference, generator=options.generator)


def strengths(runs: Sequence[StoredRun], options: FigureOptions, measure: Measure) -> pd.DataFrame:
    """Return the stored strength of several runs; nothing is measured, since the reference model may be missing."""
    return pd.concat([strength_rows(run, options) for run in runs], ignore_index=True)


def unsupported_reason(run: StoredRun, options: FigureOptions) -> str | None:
    """Say that no strength is stored."""
    if len(strength_rows(run, options)):
        return None
    return f"{run.name} has no stored strength: measure it first with strength, against a reference model"


FIGURE = FigureSpec(
    draw=draw,
    tables={"gap": probed("gap"), "strength": strengths},
    unsupported_reason=unsupported_reason,
)
