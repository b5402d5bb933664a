import numpy as np
import pytest

from co_probe.numerics.statistics import mean_interval, onset, wilson


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


@pytest.mark.parametrize(
    ("pgd", "own", "expected"),
    [
        ([0.1, 0.4, 0.5, 0.1, 0.0, 0.0], [0.2, 0.5, 0.6, 0.9, 0.9, 0.9], 3),  # rise and fall
        ([0.1, 0.4, 0.5, 0.1, 0.4, 0.0], [0.2, 0.5, 0.6, 0.9, 0.9, 0.9], 5),  # recovers, then falls for good
        ([0.1, 0.4, 0.5, 0.1, 0.0, 0.4], [0.2, 0.5, 0.6, 0.9, 0.9, 0.9], None),  # recovers at the end
        ([0.1, 0.4, 0.5, 0.1, 0.0, 0.0], [0.2, 0.5, 0.6, 0.1, 0.0, 0.0], None),  # all is lost: not this failure
        ([0.1, 0.4, 0.5, 0.3, 0.26, 0.3], [0.2, 0.5, 0.6, 0.7, 0.7, 0.7], None),  # robust overfitting, not below half
        ([0.0, 0.0, 0.0], [0.1, 0.2, 0.9], None),  # never was robust
        ([], [], None),
    ],
)
def test_onset(pgd, own, expected):
    assert onset(pgd, own) == expected


def test_onset_needs_one_number_an_epoch():
    with pytest.raises(ValueError, match="each epoch"):
        onset([0.1], [0.1, 0.2])
