"""Changes of a run's indicators at a collapse."""

import math
from dataclasses import dataclass, replace

import pandas as pd

from co_probe.config.indicators import EPOCH_INDICATORS, STEP_INDICATORS, Indicator
from co_probe.diagnosis.verdict import Verdict
from co_probe.numerics.change import CLEAR, Change
from co_probe.store import StoredRun

Span = tuple[int, int]

CURVES = {
    "pgd": Indicator(label="PGD accuracy", direction=-1),
    "fgsm": Indicator(label="accuracy under the training attack", direction=1),
    "train": Indicator(label="training accuracy", direction=1, baseline=True),
}
"""Accuracy curves that a log may have, by column."""


@dataclass(frozen=True)
class IndicatorChange:
    """An indicator around a collapse.

    Attributes:
        name: Name of the step series or curve, or `probe/quantity`.
        indicator: Label and expected direction.
        change: Time of the change and levels before and after; None without a clear change.
        before: Median before the collapse; NaN if unknown.
        after: Median in the collapse; NaN if unknown.
    """

    name: str
    indicator: Indicator
    change: Change | None
    before: float
    after: float


def main_episode(verdict: Verdict) -> Span | None:
    """Return first and last epoch of the longest episode; None if there is none."""
    last = verdict.last_epoch or 0
    spans = [(each.start, last if each.end is None else each.end) for each in verdict.episodes]
    return max(spans, key=lambda span: span[1] - span[0], default=None)


def movements(verdict: Verdict, curves: pd.DataFrame, run: StoredRun | None = None) -> list[IndicatorChange]:
    """Find the changes of all recorded indicators around the longest episode, in order of time.

    Args:
        verdict: The verdict.
        curves: Accuracies, with the column epoch and known columns of `CURVES`.
        run: The run, if available.

    Returns:
        Indicators that changed, then the others; empty without an episode.
    """
    span = main_episode(verdict)
    if span is None:
        return []
    series: list[tuple[str, Indicator, pd.DataFrame]] = []
    for name, indicator in CURVES.items():
        if name in curves and not curves[name].isna().all():
            series.append((name, indicator, curves[["epoch", name]].rename(columns={name: "value"}).dropna()))
    if run is not None:
        for name, rows in run.frame("step-indicators").groupby("indicator", sort=False):
            if name != "train_accuracy" or "train" not in curves:
                series.append((str(name), STEP_INDICATORS[str(name)], rows))
        for (probe, quantity), rows in run.frame("epoch-indicators").groupby(["probe", "quantity"], sort=False):
            series.append((f"{probe}/{quantity}", EPOCH_INDICATORS[str(probe), str(quantity)], rows))
    known = [each for each in series if each[2]["value"].notna().any()]
    found = [_of_episode(_moved(*each, span), verdict) for each in known]
    return sorted(found, key=lambda each: math.inf if each.change is None else each.change.at)


def _of_episode(moved: IndicatorChange, verdict: Verdict) -> IndicatorChange:
    """Replace levels of PGD accuracy by those of the verdict, so that a diagnosis has consistent numbers."""
    if moved.name != "pgd":
        return moved
    span = main_episode(verdict)
    episode = next(each for each in verdict.episodes if span and each.start == span[0])
    return replace(moved, before=episode.level, after=episode.lowest)


def _moved(name: str, indicator: Indicator, rows: pd.DataFrame, span: Span) -> IndicatorChange:
    change = indicator.change(rows["epoch"], rows["value"], span, clear=0 if name == "pgd" else CLEAR)
    at = rows["epoch"]
    before, after = rows["value"][at < span[0]].tail(8), rows["value"][(at >= span[0]) & (at <= span[1])]
    if change is not None:
        return IndicatorChange(
            name, indicator, change, indicator.unjudged(change.before), indicator.unjudged(change.after)
        )
    return IndicatorChange(name, indicator, None, float(before.median()), float(after.median()))


def relation(at: float, lost: float | None) -> str:
    """Return whether a change came `before`, in the `same` epoch as, or `after` the loss of robust accuracy.

    Robust accuracy is measured after each epoch: a loss that is measured after epoch 17 took place in that epoch. Empty
    if the time of the loss is unknown.
    """
    if lost is None:
        return ""
    epoch, other = math.ceil(at), math.ceil(lost)
    return "before" if epoch < other else "same" if epoch == other else "after"
