"""Accuracy curves of a run for the SVG chart of a report."""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from co_probe.diagnosis.verdict import Verdict

WIDTH, HEIGHT = 600, 190  # of the plotted area, in units of the chart
NAMES = {"clean": "clean", "fgsm": "training attack", "pgd": "PGD-10", "train": "training images"}


@dataclass(frozen=True)
class Line:
    """A curve.

    Attributes:
        key: Key of `NAMES`.
        name: Name in the legend.
        points: Points in the plotted area, `x,y x,y ...`.
        values: Value at each epoch in [0, 1]; None where not measured.
    """

    key: str
    name: str
    points: str
    values: list[float | None]


@dataclass(frozen=True)
class Chart:
    """Accuracies against epochs.

    Attributes:
        epochs: Logged epochs.
        places: Horizontal position of each epoch.
        lines: Curves, with robust accuracy last.
        bands: (left, width) of each episode.
        ticks: (position, epoch) along the axis.
        alt: Alternative text for screen readers.
    """

    epochs: list[int]
    places: list[float]
    lines: list[Line]
    bands: list[tuple[float, float]]
    ticks: list[tuple[float, int]]
    alt: str
    width: int = WIDTH
    height: int = HEIGHT


def chart(curves: pd.DataFrame, found: Verdict) -> Chart:
    """Lay out the accuracy curves of a run.

    Args:
        curves: Columns epoch, and clean, fgsm, pgd, train in [0, 1] where known; NaN where not measured.
        found: The verdict, whose episodes are shaded.
    """
    epochs = [int(epoch) for epoch in curves["epoch"]]
    first, last = epochs[0], max(epochs[-1], epochs[0] + 1)

    def place(epoch: float) -> float:
        return round(float(np.clip((epoch - first) / (last - first), 0, 1)) * WIDTH, 1)

    lines = []
    for key in ("train", "clean", "fgsm", "pgd"):
        if key not in curves or curves[key].isna().all():
            continue
        values = [None if np.isnan(value) else round(float(value), 4) for value in curves[key]]
        points = [
            f"{place(epoch)},{round((1 - value) * HEIGHT, 1)}"
            for epoch, value in zip(epochs, values, strict=True)
            if value is not None
        ]
        lines.append(Line(key, NAMES[key], " ".join(points), values))
    spans = [(each.start, last if each.end is None else each.end) for each in found.episodes]
    bands = [(place(start - 0.5), round(place(end + 0.5) - place(start - 0.5), 1)) for start, end in spans]
    step = next(size for power in range(9) for size in (10**power, 2 * 10**power, 5 * 10**power) if last / size <= 8)
    marks = sorted({first, *range(step * (first // step + 1), last + 1, step)})
    marks = [mark for mark in marks if mark == first or mark - first > step / 2]
    names = ", ".join(line.name for line in lines)
    shaded = "; episodes of catastrophic overfitting are shaded" if bands else ""
    alt = f"Line chart: accuracy ({names}) against epochs {first} to {epochs[-1]}{shaded}. {found.summary()}"
    return Chart(epochs, [place(e) for e in epochs], lines, bands, [(place(mark), mark) for mark in marks], alt)
