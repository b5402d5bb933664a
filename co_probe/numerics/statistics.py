"""Intervals and verdicts: plain functions on numbers and arrays."""

from collections.abc import Sequence
from math import sqrt

import numpy as np

Z95 = 1.959963984540054  # two-sided 95% quantile of the normal distribution


def wilson(value: float, n: int) -> tuple[float, float]:
    """95% interval of a proportion.

    `value`: the proportion seen, in [0, 1]; `n`: how many were drawn. Returns (low, high), both in [0, 1].
    Source: Wilson (1927), "Probable inference, the law of succession, and statistical inference".
    """
    if n <= 0:
        raise ValueError("n must be positive")
    centre = (value + Z95**2 / (2 * n)) / (1 + Z95**2 / n)
    half = Z95 / (1 + Z95**2 / n) * sqrt(value * (1 - value) / n + Z95**2 / (4 * n * n))
    # At the ends the two terms are equal, and rounding must not make them a hair's breadth apart.
    return 0.0 if value == 0 else max(0.0, centre - half), 1.0 if value == 1 else min(1.0, centre + half)


def mean_interval(values: np.ndarray) -> tuple[float, float, float]:
    """Mean of a sample and its 95% normal interval: (mean, low, high). `values`: one number an image."""
    values = np.asarray(values, dtype=np.float64)
    mean = float(values.mean())
    half = Z95 * float(values.std(ddof=1)) / sqrt(values.size) if values.size > 1 else 0.0
    return mean, mean - half, mean + half


def onset(pgd: Sequence[float], own: Sequence[float]) -> int | None:
    """Index of the first epoch of catastrophic overfitting, or None.

    `pgd`: accuracy under PGD, one number an epoch, in [0, 1]; `own`: accuracy under the training attack.
    The rule: PGD accuracy is below half of its best so far, accuracy under the training attack is not below half
    of its own best so far, and both stay so to the last epoch. A run that learned nothing has no onset.
    Raises ValueError if the lengths differ.
    """
    strong, weak = np.asarray(pgd, dtype=float), np.asarray(own, dtype=float)
    if strong.shape != weak.shape:
        raise ValueError("pgd and own must have one number for each epoch")
    fallen = (strong < np.maximum.accumulate(strong) / 2) & (weak >= np.maximum.accumulate(weak) / 2)
    if not (len(fallen) and fallen[-1]):
        return None
    standing = np.flatnonzero(~fallen)
    return int(standing[-1]) + 1 if len(standing) else 0


def memorisation_phases(
    signal: Sequence[float], noise: Sequence[float], robust: Sequence[float]
) -> tuple[int, int] | None:
    """Indices of the epochs at which phases II and III of robust memorisation begin, or None for a run without it.

    `signal`, `noise`: the greater component of the two classes, and the mean one of the images, one number an epoch;
    `robust`: robust training accuracy, in [0, 1].
    The rule: a run ends in robust memorisation if at its last epoch it is robust on at least 99% of its training
    images and its noise component is above that of the signal. Of the noise component's rise, from its first value to
    its last, phase II (noise is memorised, the signal stalls) begins when it has made a tenth for good, phase III (all
    is memorised) when it has made nine tenths for good; before is phase I (the signal is learned).
    Raises ValueError if the lengths differ.
    """
    s, n, r = (np.asarray(values, dtype=float) for values in (signal, noise, robust))
    if not s.shape == n.shape == r.shape:
        raise ValueError("signal, noise and robust must have one number for each epoch")
    if not len(n) or r[-1] < 0.99 or n[-1] <= s[-1] or n[-1] <= n[0]:
        return None
    rise = (n - n[0]) / (n[-1] - n[0])
    begins = [int(np.flatnonzero(rise < share)[-1]) + 1 for share in (0.1, 0.9)]
    return begins[0], begins[1]
