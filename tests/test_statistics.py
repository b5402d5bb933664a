import numpy as np
import pytest

from co_probe.numerics.statistics import mean_interval, wilson


def test_wilson_against_published_values():
    # Newcombe (1998), Table I, method 3: 81/263, 15/148, 0/20, 1/29
    for k, n, low, high in (
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ):
        assert wilson(k / n, n) == pytest.approx((low, high), abs=1e-4)
    for n in range(1, 2000, 7):
        assert wilson(0.0, n)[0] == 0 and wilson(1.0, n)[1] == 1  # to the last bit: tables show them
    with pytest.raises(ValueError):
        wilson(0.5, 0)


def test_mean_interval():
    mean, low, high = mean_interval(np.array([1.0, 2.0, 3.0, 4.0]))
    assert mean == 2.5
    assert high - mean == pytest.approx(1.959964 * np.sqrt(5 / 3) / 2) and mean - low == pytest.approx(high - mean)
    assert mean_interval(np.array([7.0])) == (7.0, 7.0, 7.0)
