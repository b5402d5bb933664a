"""When a noisy series changes: as it is seen at the time, and in hindsight."""

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
"""Number of earlier values whose median is the level that a value is compared with."""

NOISE = 20
"""Number of earlier values that the scale of the noise is taken over."""

LEAST = 8
"""Number of earlier values below which nothing is judged."""

MAD = 1.4826  # the median of absolute deviations times this is the standard deviation of normal noise
DIFFERENCES = MAD / math.sqrt(2)  # likewise the median of absolute differences between successive values


def window_size(steps: int) -> int:
    """Number of steps per window for an epoch of `steps` steps: 20 as in the literature, fewer in short epochs."""
    return max(5, min(20, steps // 4))


def window_means(values: ArrayLike, size: int) -> tuple[Floats, Floats]:
    """Average a series in adjoining windows.

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
    """What a value is compared with: the recent level of a series, and its noise.

    Args:
        past: The values before it, at least two, without NaN.
        floor: Least noise, in the unit of the values.
        level: Number of values of the level.
        skipped: Number of newest values that are left out of it, since they may be part of the change already.

    Returns:
        The median of the level, and the standard deviation of the noise, from differences between successive values.
    """
    noise = DIFFERENCES * median(abs(after - before) for before, after in pairwise(past))
    return median(past[-level - skipped : len(past) - skipped]), max(floor, noise)


def scores(values: ArrayLike, direction: int, floor: float) -> Floats:
    """How far each value is from its recent level, in units of the noise before it (`level_and_noise`).

    Only the past is used, so that a score is what an observer would have seen at that moment. `co_probe.Alarm` judges
    by the same, and leaves the newest value out of the level, because it waits for a second one.

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
    """Indices at which scores reach a threshold; those fewer than `apart` after the last are the same alarm.

    Args:
        score: Scores, (n,); NaN is no alarm.
        threshold: Least score of an alarm.
        apart: Number of values without an alarm that separates two.

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
"""Number of epochs by which a series may change before robust accuracy falls, to be counted as the same event."""

STAYS = 0.9
"""Share of the later values that must stay beyond the middle, so that a passing dip is no change."""

CLEAR = 4.0
"""Number of standard deviations of the noise before a change by which the levels must differ."""


@dataclass(frozen=True)
class Change:
    """A change of a series at an event.

    Attributes:
        at: When half of it was made, in epochs.
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
    """When a series had made half of its change from the level before an event to the one in it, in hindsight.

    The levels are medians over the `SPAN` epochs before, and over the second half of as many epochs of the event, when
    the change is over. Half of the way is made at the first value beyond the middle of the levels, from `EARLY` epochs
    before the event on, after which `STAYS` of the values up to there are beyond it too. The noise is that of
    differences between successive values, so that a slow drift is none.

    Args:
        at: When each value was measured, in epochs, increasing, (n,).
        values: The series, (n,); NaN where not measured.
        start: When the event begins, in epochs.
        end: When it ends.
        direction: 1 if only a rise counts, −1 for a fall, 0 for both.
        floor: Least difference of levels that is no noise.
        clear: Least difference in standard deviations of the noise.

    Returns:
        The time of the first such value, and both levels; None if the levels do not differ clearly, or differ the
        other way.
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
