"""The three phases of robust memorisation: signal first, then noise, then all is memorised (arXiv 2306.01271)."""

from collections.abc import Sequence
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from co_probe.config.labels import attack_label
from co_probe.plots.lines import percent_axis
from co_probe.plots.spec import AGAINST, Episodes, FigureOptions, FigureSpec, Frames, StoredRun, probed
from co_probe.plots.style import GREEN, PINK, axes_or_new, panels
from co_probe.studies.memorisation.generalisation_figure import curves
from co_probe.studies.memorisation.phases import memorisation_phases

COMPONENTS: dict[str, dict[str, Any]] = {
    "signal": {"color": GREEN, "linestyle": "-", "label": "signal, $max_r ⟨w_r, w^*⟩$"},
    "noise": {"color": PINK, "linestyle": (0, (4, 1.2)), "label": "noise, $max_{r,j} ⟨w_r, ξ_i[j]⟩$"},
}
NAMES = ("I: signal", "II: noise", "III: memorised")


def boundaries(frame: pd.DataFrame) -> list[float]:
    """Return the steps at which phases II and III begin, by the rule of `co_probe.studies.memorisation.phases`.

    Args:
        frame: The table `memorisation` of one run.

    Returns:
        The two steps; empty if the run does not end in robust memorisation.
    """
    wide = frame[frame["images"] == ""].pivot(index="epoch", columns="quantity", values="value").sort_index()
    robust = frame.query("quantity == 'accuracy' and view == 'robust' and images == 'train'").set_index("epoch")[
        "value"
    ]
    signal = frame[frame["quantity"] == "signal"].set_index("epoch")["high"]  # best learned class
    begins = memorisation_phases(signal.loc[wide.index], wide["noise"], robust.loc[wide.index])
    return [] if begins is None else [float(wide["step"].iloc[begin]) for begin in begins]


def components(frame: pd.DataFrame, ax: Axes | None = None, **style: Any) -> Axes:
    """Plot signal and noise components of one run against steps, with bands from minimum to maximum.

    Args:
        frame: The table `memorisation` of one run.
        ax: Axes to draw on; new ones if None.
        style: Passed to `Axes.plot`.
    """
    ax = axes_or_new(ax)
    step = _steps(frame)
    for quantity, look in COMPONENTS.items():
        rows = frame[frame["quantity"] == quantity].sort_values("epoch")
        ax.plot(rows["epoch"].map(step), rows["value"], **(look | style))
        ax.fill_between(
            rows["epoch"].map(step), rows["low"], rows["high"], color=look["color"], alpha=0.15, linewidth=0
        )
    ax.set_yscale("log")
    ax.set_ylabel("component of the filters\n(mean, least to greatest)")
    return ax


def views(frame: pd.DataFrame, quantity: str, ax: Axes | None = None, **style: Any) -> Axes:
    """Plot `accuracy` (%) or `loss` (nats) of one run against steps, clean and robust, on train and test images."""
    ax = axes_or_new(ax)
    step = _steps(frame)
    for look, rows in curves(frame, quantity):
        ax.plot(rows["epoch"].map(step), rows["value"] * (100 if quantity == "accuracy" else 1), **(look | style))
    if quantity == "accuracy":
        percent_axis(ax)
    ax.set_ylabel("accuracy (%)" if quantity == "accuracy" else "loss (nats)")
    return ax


def _steps(frame: pd.DataFrame) -> pd.Series:
    return frame[frame["quantity"] == "step"].set_index("epoch")["value"]


def mark_phases(ax: Axes, begins: Sequence[float], *, name: bool = True) -> None:
    """Mark the beginning of phases II and III by dotted vertical lines, and write the names of the phases."""
    for step in begins:
        ax.axvline(step, color="0.3", linestyle=":", linewidth=1, zorder=0)
    if not (begins and name):
        return
    edges = [ax.get_xlim()[0], *begins, ax.get_xlim()[1]]
    for phase, start, end in zip(NAMES, edges, edges[1:], strict=False):
        ax.text((start + end) / 2, 1.02, phase, transform=ax.get_xaxis_transform(), ha="center", fontsize=6.5)


def draw(frames: Frames, episodes: Episodes) -> Figure:
    """Draw components, accuracies and losses of one run on a common axis of steps."""
    frame = frames["memorisation"]
    figure, (top, middle, bottom) = panels(3, height=1.75, sharex=True)
    components(frame, top)
    views(frame, "accuracy", middle)
    views(frame, "loss", bottom)
    top.margins(x=0.02)
    begins = boundaries(frame)
    for ax in (top, middle, bottom):
        mark_phases(ax, begins, name=ax is top)
    top.legend(loc="best")
    bottom.set_xlabel("optimizer step")
    figure.legend(
        *middle.get_legend_handles_labels(),
        loc="outside lower center",
        ncols=2,
        title=f"robust: under {attack_label(frame['against'].iloc[0])}"
        + ("" if begins else "; no robust memorisation"),
        title_fontsize=7,
    )
    return figure


def unsupported_reason(run: StoredRun, options: FigureOptions) -> str | None:
    """Return a reason if the model has no signal and noise components."""
    if run.info.model.name == "two_layer_cnn":
        return None
    return f"{run.name} has no signal and noise components (runs of the preset patches have)"


FIGURE = FigureSpec(
    draw=draw,
    tables={"memorisation": probed("memorisation", against=AGAINST)},
    single=True,
    against="method",
    unsupported_reason=unsupported_reason,
)
