"""Confidence intervals."""

from math import sqrt

import numpy as np

Z95 = 1.959963984540054  # two-sided 95% quantile of the normal distribution


def wilson(value: float, n: int) -> tuple[float, float]:
    """Compute the 95% Wilson interval of a proportion.

    Args:
        value: Observed proportion, in [0, 1].
        n: Sample size.

    Returns:
        (low, high), both in [0, 1].

    Reference:
        Wilson (1927), "Probable inference, the law of succession, and statistical inference".
    """
    if n <= 0:
        raise ValueError("n must be positive")
    centre = (value + Z95**2 / (2 * n)) / (1 + Z95**2 / n)
    half = Z95 / (1 + Z95**2 / n) * sqrt(value * (1 - value) / n + Z95**2 / (4 * n * n))
    # At 0 and 1 the two terms are equal; rounding must not separate them.
    return 0.0 if value == 0 else max(0.0, centre - half), 1.0 if value == 1 else min(1.0, centre + half)


def mean_interval(values: np.ndarray) -> tuple[float, float, float]:
    """Compute (mean, low, high) of a sample, with the 95% normal interval of the mean; `values` has shape (n,)."""
    values = np.asarray(values, dtype=np.float64)
    mean = float(values.mean())
    half = Z95 * float(values.std(ddof=1)) / sqrt(values.size) if values.size > 1 else 0.0
    return mean, mean - half, mean + half
