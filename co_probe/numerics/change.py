"""Detection of changes in a noisy series, online and in hindsight."""

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import median

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]

LEVEL = 6
"""Number of earlier values whose median is the level of a series."""

NOISE = 20
"""Number of earlier values from which the noise is estimated."""

LEAST = 8
"""Least number of earlier values for a score."""

MAD = 1.4826  # the median of absolute deviations times this is the standard deviation of normal noise
DIFFERENCES = MAD / math.sqrt(2)  # the same for the median of absolute differences between successive values


def window_size(steps: int) -> int:
    """Return the number of steps per window in an epoch of `steps` steps: 20, as in the literature, or fewer."""
    return max(5, min(20, steps // 4))


def window_means(values: ArrayLike, size: int) -> tuple[Floats, Floats]:
    """Average a series over successive windows.

    Args:
        values: Series, (n,); NaN where not defined.
        size: Number of values per window; a shorter last window is left out.

    Returns:
        The means, NaN where a window has no number, and the number of values up to the end of each window.
    """
    array = np.asarray(values, np.float64)
    count = len(array) // size
    cut = array[: count * size].reshape(count, size)
    known = ~np.isnan(cut)
    sums, numbers = np.where(known, cut, 0).sum(1), known.sum(1)
    means = np.divide(sums, numbers, out=np.full(count, np.nan), where=numbers > 0)
    return means, size * np.arange(1, count + 1, dtype=np.float64)


def level_and_noise(
    past: Sequence[float], floor: float, level: int = LEVEL, *, skipped: int = 0
) -> tuple[float, float]:
    """Estimate the recent level of a series and its noise.

    Args:
        past: The earlier values, at least two, without NaN.
        floor: Least noise, in the unit of the values.
        level: Number of values that the level is the median of.
        skipped: Number of newest values to exclude from the level, since they may be part of the change.

    Returns:
        The median of the level, and the standard deviation of the noise, from differences between successive values.
    """
    noise = DIFFERENCES * median(abs(after - before) for before, after in pairwise(past))
    return median(past[-level - skipped : len(past) - skipped]), max(floor, noise)


def scores(values: ArrayLike, direction: int, floor: float) -> Floats:
    """Compute the distance of each value from its recent level in standard deviations of the noise.

    Only earlier values are used (`level_and_noise`), so each score could have been computed online. `co_probe.Alarm`
    uses the same estimate without the newest value, because it waits for a second one.

    Args:
        values: Series, (n,); NaN where not measured.
        direction: 1 if a rise counts, −1 for a fall, 0 for both.
        floor: Least noise, in the unit of the values.

    Returns:
        Scores, (n,); NaN where a value is missing or there is too little before it.
    """
    array = np.asarray(values, np.float64)
    result = np.full(len(array), np.nan)
    past = deque[float](maxlen=NOISE)
    for i, value in enumerate(array.tolist()):
        if math.isnan(value):
            continue
        if len(past) >= LEAST:
            level, noise = level_and_noise(list(past), floor)
            result[i] = ((value - level) * direction if direction else abs(value - level)) / noise
        past.append(value)
    return result


def alarms(score: ArrayLike, threshold: float, apart: int = LEVEL) -> list[int]:
    """Find the indices at which scores reach a threshold; nearby ones count as one alarm.

    Args:
        score: Scores, (n,); NaN is no alarm.
        threshold: Least score of an alarm.
        apart: Least distance of two alarms, in values.

    Returns:
        The first index of each alarm, increasing.
    """
    found: list[int] = []
    last = -apart
    for i in np.flatnonzero(np.asarray(score, np.float64) >= threshold):
        if i - last >= apart:
            found.append(int(i))
        last = int(i)
    return found


SPAN = 8
"""Number of epochs before and after a change over which levels are taken."""

EARLY = 3
"""Number of epochs before the fall of robust accuracy in which a change counts as part of the same event."""

STAYS = 0.9
"""Share of the later values that must stay beyond the midpoint, so that a brief dip is not a change."""

CLEAR = 4.0
"""Number of standard deviations of the noise before a change by which the levels must differ."""


@dataclass(frozen=True)
class Change:
    """A change of a series at an event.

    Attributes:
        at: Epoch, as a fraction, at which half of the change was made.
        before: Level before the event.
        after: Level when the change is over.
    """

    at: float
    before: float
    after: float


def halfway(
    at: ArrayLike,
    values: ArrayLike,
    start: float,
    end: float,
    *,
    direction: int,
    floor: float,
    clear: float = CLEAR,
) -> Change | None:
    """Find when a series had made half of its change at an event, in hindsight.

    The level before is the median over `SPAN` epochs; the level after is the median over the second half of up to
    `SPAN` epochs of the event. The result is the first value beyond the midpoint of the two levels, at most `EARLY`
    epochs before the event, after which a share of `STAYS` of the values stays beyond it. Noise is estimated from
    differences between successive values, so a slow drift does not count as noise.

    Args:
        at: When each value was measured, in epochs, increasing, (n,).
        values: The series, (n,); NaN where not measured.
        start: When the event begins, in epochs.
        end: When it ends.
        direction: 1 if only a rise counts, −1 for a fall, 0 for both.
        floor: Least difference between the levels.
        clear: Least difference between the levels, in standard deviations of the noise.

    Returns:
        The epoch of that value and both levels; None if the levels do not differ enough, or differ in the other
        direction.
    """
    times, series = np.asarray(at, np.float64), np.asarray(values, np.float64)
    known = ~np.isnan(series)
    times, series = times[known], series[known]
    before = series[(times > start - SPAN) & (times <= start)]
    end = min(end, start + SPAN)
    after = series[(times > (start + end) / 2) & (times <= end)]
    if len(before) < 3 or not len(after):
        return None
    level, later = float(np.median(before)), float(np.median(after))
    way = 1 if later > level else -1
    noise = DIFFERENCES * float(np.median(np.abs(np.diff(before))))
    if (direction and way != direction) or abs(later - level) < max(floor, clear * noise):
        return None
    beyond = way * (series - (level + later) / 2) > 0
    for i in np.flatnonzero((times > start - EARLY) & (times <= end)):
        if beyond[i] and beyond[i:][times[i:] <= end].mean() >= STAYS:
            return Change(float(times[i]), level, later)
    return None
