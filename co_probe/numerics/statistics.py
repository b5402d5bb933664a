"""Intervals: plain functions on numbers and arrays."""

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
