"""Lead and false alarms of step indicators."""

from collections.abc import Sequence
from typing import Any

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure

from co_probe.config.indicators import STEP_INDICATORS
from co_probe.diagnosis.lead import lead
from co_probe.plots.spec import Episodes, FigureOptions, FigureSpec, Frames, Measure, StoredRun
from co_probe.plots.style import BLUE, COLUMN

OURS, BASELINE = BLUE, "0.55"


def table(runs: Sequence[Any], options: FigureOptions, measure: Measure) -> pd.DataFrame:
    """Make the table of `lead`."""
    return lead(runs)


def draw(frames: Frames, episodes: Episodes) -> Figure:
    """Draw a row per indicator: leads of runs that collapse on the left, false alarms on the right."""
    frame = frames["lead"]
    groups = sorted(
        frame.groupby("indicator"),
        key=lambda item: (-item[1]["precision"].iloc[0], -item[1]["lead"].median()),
    )
    fallen = frame.loc[frame["onset"].notna(), "run"].nunique()
    healthy = frame["run"].nunique() - fallen
    figure, (left, right) = plt.subplots(
        1, 2, figsize=(2 * COLUMN, 0.24 * len(groups) + 1.3), sharey=True, width_ratios=(3, 1.3)
    )
    for place, (_, rows) in enumerate(groups):
        color = BASELINE if rows["baseline"].iloc[0] else OURS
        leads = rows["lead"].dropna()
        left.plot(leads, [place] * len(leads), "o", color=color, markersize=4, alpha=0.6, markeredgewidth=0)
        left.plot([leads.median()] * 2, [place - 0.35, place + 0.35], color=color, linewidth=1.6)
        false, precision = int(rows["false_alarms"].sum()), rows["precision"].iloc[0]
        right.barh(place, false, color=color, height=0.6)
        right.annotate(
            f"{false} · {100 * precision:.0f}%",
            (false, place),
            xytext=(3, 0),
            textcoords="offset points",
            va="center",
            fontsize=6.5,
        )
    names = [rows["label"].iloc[0] + (" (baseline)" if rows["baseline"].iloc[0] else "") for _, rows in groups]
    left.set_yticks(range(len(groups)), names)
    for label, (_, rows) in zip(left.get_yticklabels(), groups, strict=True):
        label.set_color("0.4" if rows["baseline"].iloc[0] else "black")
    left.invert_yaxis()
    per_epoch = frame["per_epoch"].median()
    left.axvspan(0, per_epoch, color="0.92", zorder=0, linewidth=0)
    left.annotate(
        "the epoch in which it fell",
        (per_epoch / 2, 1),
        xycoords=("data", "axes fraction"),
        xytext=(0, 2),
        textcoords="offset points",
        ha="center",
        fontsize=6,
        color="0.4",
    )
    left.set_xlim(left=0)
    left.invert_xaxis()
    left.set_xlabel(
        "lead: steps from the alarm to the measured collapse\n(a dot per run, line: median; left = earlier)"
    )
    right.set_xlabel("false alarms · precision\nat recall 1")
    right.margins(x=0.35)
    right.tick_params(axis="y", length=0)
    figure.supxlabel(
        f"Runs that collapse: {fallen}; that do not: {healthy}. Each threshold is the highest at which every collapse "
        "is announced,\nfitted to these runs: it compares indicators and promises nothing for other runs.",
        fontsize=6.5,
        color="0.45",
    )
    return figure


def unsupported_reason(run: StoredRun, options: FigureOptions) -> str | None:
    """Say that the run has no step series."""
    if run.step_series(run.last_epoch).keys() & STEP_INDICATORS.keys():
        return None
    return f"{run.name} has no step indicators: it was imported, or trained by an earlier version or without them"


FIGURE = FigureSpec(draw=draw, tables={"lead": table}, unsupported_reason=unsupported_reason)
