"""Lead of alarms of step indicators over the collapse, and their false alarms."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from co_probe.config.indicators import STEP_INDICATORS
from co_probe.diagnosis.episodes import Episode
from co_probe.diagnosis.stored import verdict_of
from co_probe.errors import UserError
from co_probe.numerics.change import alarms, scores, window_means, window_size
from co_probe.store import StoredRun

LASTING = 3
"""Least length in epochs of an ended episode that counts as a collapse; shorter dips are excluded."""

HORIZON = 3
"""Number of epochs before the onset in which an alarm counts as true; earlier ones are false."""

SKIPPED = 0.1
"""Share of the run at its start that is excluded, unless the warm-up of ε is longer, since values change fast."""

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class StepScores:
    """Scores of one indicator in one run, per window of steps.

    Attributes:
        run: The run.
        steps: Number of optimizer steps up to the end of each window.
        score: Distance from the recent level in standard deviations of the noise; NaN where excluded.
        per_epoch: Number of steps per epoch.
        onset: First epoch of the collapse, or None; see `collapse_of`.
    """

    run: StoredRun
    steps: Floats
    score: Floats
    per_epoch: float
    onset: int | None

    @property
    def collapse(self) -> float | None:
        """Step at which the collapse was measured: the end of the epoch of the onset."""
        return None if self.onset is None else self.onset * self.per_epoch

    @property
    def horizon(self) -> NDArray[np.bool_]:
        """Windows in which an alarm counts as true; none in a run without a collapse."""
        if self.collapse is None:
            return np.zeros(len(self.steps), bool)
        return (self.steps <= self.collapse) & (self.steps > self.collapse - (HORIZON + 1) * self.per_epoch)

    def first(self, threshold: float) -> float | None:
        """Return the number of steps from the first alarm in the horizon to the collapse; None without either."""
        found = np.flatnonzero(self.horizon & (self.score >= threshold))
        return None if self.collapse is None or not len(found) else float(self.collapse - self.steps[found[0]])

    def false_alarms(self, threshold: float) -> int:
        """Count alarms before the horizon, or anywhere in a run without a collapse."""
        before = np.ones(len(self.steps), bool)
        if self.collapse is not None:
            before = self.steps <= self.collapse - (HORIZON + 1) * self.per_epoch
        return len(alarms(np.where(before, self.score, np.nan), threshold))


def lead(runs: Iterable[StoredRun]) -> pd.DataFrame:
    """Evaluate each step indicator as an alarm, on runs with and without a collapse.

    An indicator is averaged over windows of steps and scored like PertAlign in `co_probe.Alarm`: by its distance from
    the median of earlier windows in standard deviations of its noise (`co_probe.numerics.change.scores`). The threshold
    is the highest at which every collapse is announced within `HORIZON` epochs, so that all indicators have recall 1
    and differ in false alarms only. Thresholds are fitted to the same runs: the result compares indicators, and does
    not predict numbers on other runs.

    The time of the collapse is the end of the epoch after which PGD accuracy has first fallen. It took place up to an
    epoch earlier, so leads are up to an epoch too long, equally for all indicators.

    Args:
        runs: Runs with step series, of which at least one collapses (`collapse_of`). A run that collapses in the
            excluded warm-up is skipped.

    Returns:
        A row per run and indicator, with the columns run, method, seed, indicator, label, baseline, threshold, onset
        (epoch, NaN without one), lead (steps, NaN without one), false_alarms (of this run), precision (of the
        indicator: announced collapses, divided by all alarms), steps (of the run), per_epoch (steps).

    Raises:
        UserError: A run has no step series, or no run collapses.

    Example:
        >>> table = lead([co_probe.open_run(path) for path in paths])
        >>> table.groupby("label")[["lead", "precision"]].median()
    """
    runs = list(runs)
    rows = []
    for name, indicator in STEP_INDICATORS.items():
        judged = [scored for run in runs if (scored := _scored(run, name)) is not None]
        fallen = [each for each in judged if each.onset is not None]
        if not fallen:
            continue
        threshold = float(min(np.nanmax(each.score[each.horizon]) for each in fallen))
        wrong = [each.false_alarms(threshold) for each in judged]
        precision = len(fallen) / (len(fallen) + sum(wrong))
        for each, number in zip(judged, wrong, strict=True):
            ahead = each.first(threshold)
            rows.append(
                {
                    "run": each.run.name,
                    "method": each.run.info.method,
                    "seed": -1 if each.run.info.seed is None else each.run.info.seed,
                    "indicator": name,
                    "label": indicator.label,
                    "baseline": indicator.baseline,
                    "threshold": threshold,
                    "onset": np.nan if each.onset is None else each.onset,
                    "lead": np.nan if ahead is None else ahead,
                    "false_alarms": number,
                    "precision": precision,
                    "steps": int(each.steps[-1]),
                    "per_epoch": each.per_epoch,
                }
            )
    if not rows:
        raise UserError("none of these runs collapses while it has step indicators: there is no collapse to precede")
    return pd.DataFrame(rows)


def _scored(run: StoredRun, name: str) -> StepScores | None:
    """Score an indicator in a run; None if it is undefined or constant."""
    indicator = STEP_INDICATORS[name]
    series = [run.step_series(epoch).get(name) for epoch in run.epochs]
    if not series or any(part is None for part in series):
        return None
    values = np.concatenate([part for part in series if part is not None])
    if np.isnan(values).all() or np.nanmin(values) == np.nanmax(values):
        return None
    per_epoch = len(values) / len(series)
    means, steps = window_means(values, window_size(round(per_epoch)))
    score = scores(indicator.judged(means), indicator.direction, indicator.floor)
    settings = run.info.settings or {}
    judged = steps > max(float(settings.get("epsilon_warmup", 0)), SKIPPED * len(series)) * per_epoch
    collapse, dips = collapse_of(run)
    for dip in dips:
        end = run.last_epoch if dip.end is None else dip.end
        judged &= (steps <= (dip.start - 1 - HORIZON) * per_epoch) | (steps > (end + 1) * per_epoch)
    score = np.where(judged, score, np.nan)
    made = StepScores(run, steps, score, per_epoch, None if collapse is None else collapse.start)
    return None if made.onset is not None and np.isnan(made.score[made.horizon]).all() else made


def collapse_of(run: StoredRun) -> tuple[Episode | None, list[Episode]]:
    """Return the longest episode of a run, if it lasts `LASTING` epochs or to the end, and the others."""
    verdict = verdict_of(run)
    found = [*verdict.episodes, *verdict.dips]

    def length(each: Episode) -> int:
        return (run.last_epoch if each.end is None else each.end) - each.start + 1

    longest = max(found, key=length, default=None)
    if longest is not None and longest.end is not None and length(longest) < LASTING:
        longest = None
    return longest, [each for each in found if each is not longest]
