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
