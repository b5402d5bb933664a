"""When a series changes: online scores, alarms, and the moment of half the change in hindsight."""

import numpy as np
import pytest

from co_probe.numerics.change import Change, alarms, halfway, scores, window_means, window_size


def test_windows_average_defined_values():
    means, ends = window_means([1, 3, np.nan, 5, np.nan, np.nan, 9], 2)
    assert means[:2].tolist() == [2, 5] and np.isnan(means[2]) and ends.tolist() == [2, 4, 6]
    assert [window_size(steps) for steps in (10, 41, 391)] == [5, 10, 20]


def test_scores_use_only_the_past():
    rng = np.random.default_rng(0)
    values = rng.normal(0.8, 0.02, 60)
    values[40:] -= 0.5
    score = scores(values, -1, 0.001)
    assert np.isnan(score[:8]).all() and np.nanmax(score[:40]) < 5 and score[40] > 10
    np.testing.assert_array_equal(scores(values[:41], -1, 0.001), score[:41])
    np.testing.assert_allclose(scores(values, 1, 0.001)[8:], -score[8:])
    assert (scores(values, 0, 0.001)[8:] >= 0).all()


def test_the_floor_keeps_constant_series_from_alarming():
    values = np.zeros(30)
    values[20] = 1e-3
    assert np.nanmax(scores(values, 1, 0.01)) == pytest.approx(0.1)
    assert np.nanmax(scores(values, 1, 1e-5)) == pytest.approx(100)


def test_alarms_close_together_are_one():
    score = np.full(30, np.nan)
    score[[5, 6, 9, 20, 29]] = 7
    assert alarms(score, 7) == [5, 20, 29] and alarms(score, 7.1) == []


def test_half_of_a_change_is_dated_where_it_lasts():
    at = np.arange(1, 31) / 1.0
    values = np.where(at < 17, 0.8, 0.1)
    values[13] = 0.1  # a passing dip
    dated = {"direction": -1, "floor": 0.01}
    assert halfway(at, values, 15, 30, **dated) == Change(17, 0.8, 0.1)
    assert halfway(at, values, 15, 30, direction=1, floor=0.01) is None
    assert halfway(at, values, 15, 30, direction=0, floor=0.01).at == 17
    assert halfway(at, values, 15, 30, direction=-1, floor=0.9) is None
    assert halfway(at, np.full(30, 0.5), 15, 30, **dated) is None
    assert halfway(at[:2], values[:2], 1, 2, **dated) is None, "too little before it"


def test_a_drift_before_the_event_is_no_noise_and_its_end_no_change():
    at = np.arange(1, 121) / 4
    drift = 0.9 - 0.02 * at + np.random.default_rng(1).normal(0, 0.01, len(at))
    fallen = np.where(at > 15.5, 0.1, drift)
    assert halfway(at, fallen, 15, 30, direction=-1, floor=0.01).at == pytest.approx(15.75)
    noise = np.random.default_rng(1).normal(0.5, 0.2, len(at))
    assert halfway(at, noise, 15, 30, direction=0, floor=0.01) is None
