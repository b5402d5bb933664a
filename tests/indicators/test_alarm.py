"""The alarm on made-up series, where it is known when it has to fire and when it must not."""

import math
import random

import pytest

from co_probe.indicators.alarm import Alarm


def fired_at(alarm: Alarm, values, every: int = 1) -> int | None:
    """The step at which the alarm fires on these values, given one by one."""
    for number, value in enumerate(values, 1):
        if alarm.update(step=number * every, alignment=value):
            return number * every
    return None


def healthy(level: float, count: int, noise: float = 0.02, drift: float = 0.0) -> list[float]:
    rng = random.Random(0)
    return [level - drift * number / count + rng.gauss(0, noise) for number in range(count)]


@pytest.mark.parametrize("level", [0.35, 0.6, 0.9])
def test_it_fires_soon_after_a_fall_at_any_level(level):
    fall = [level * max(0.0, 1 - step / 60) for step in range(200)]
    step = fired_at(Alarm(), healthy(level, 800, noise=0.05) + fall)
    assert step is not None and 800 < step <= 860


@pytest.mark.parametrize("drift", [0.0, 0.15])
def test_it_stays_silent_on_noise_and_slow_drift(drift):
    assert fired_at(Alarm(), healthy(0.8, 8000, noise=0.1, drift=drift)) is None


def test_the_rise_from_random_weights_is_not_the_baseline():
    start = [0.0, 0.6, 0.1, 0.05, 0.5, 0.0] * 10
    assert fired_at(Alarm(), start) is None


def test_windows_of_values_are_as_good_as_single_values():
    series = healthy(0.8, 800) + [0.2] * 100
    windows = [sum(series[i : i + 20]) / 20 for i in range(0, len(series), 20)]
    assert fired_at(Alarm(), series) == fired_at(Alarm(), windows, every=20) == 820


def test_a_small_fall_has_to_be_seen_twice():
    calm = [0.8, 0.81] * 10
    assert fired_at(Alarm(), [*calm, 0.67, *calm], every=20) is None
    assert fired_at(Alarm(), [*calm, 0.67, 0.67], every=20) == 20 * 22


@pytest.mark.parametrize("name", ["train_loss", "loss_gain"])
def test_a_fall_while_the_attack_becomes_stronger_is_that_of_a_growing_epsilon(name):
    calm, fall = [(0.8, 1.0)] * 20, [(0.8 - 0.04 * k, 1 + 0.02 * k) for k in range(1, 12)]
    for losses, fires in ((1, False), (-1, True), (0, True)):
        alarm = Alarm()
        series = [(value, 1 + losses * (loss - 1)) for value, loss in [*calm, *fall]]
        assert (
            any([alarm.update(alignment=a, step=20 * k, **{name: loss}) for k, (a, loss) in enumerate(series, 1)])
            is fires
        )


def test_values_before_a_gap_are_not_the_baseline():
    alarm = Alarm()
    assert fired_at(alarm, [0.9] * 40, every=20) is None
    assert not any(alarm.update(step=5000 + 20 * k, alignment=0.6) for k in range(40))
    assert alarm.update(step=5820, alignment=0.1)


def test_missing_values_neither_fire_nor_count():
    assert fired_at(Alarm(), [math.nan] * 1000) is None
    assert fired_at(Alarm(), [*healthy(0.8, 400), *([math.nan] * 100), *([0.1] * 40)]) is not None
    assert not any(Alarm().update(train_accuracy=1.0) for _ in range(500))


def test_the_reason_is_given_once_and_the_alarm_can_be_reset():
    alarm = Alarm()
    assert not alarm and alarm.reason == ""
    for step in range(1, 401):
        alarm.update(step=step, alignment=0.8, train_accuracy=0.4)
    fired = [alarm.update(step=step, alignment=0.1, train_accuracy=0.7) for step in range(401, 441)]
    assert sum(fired) == 1 and alarm and alarm.step == 420
    assert "alignment fell from 0.80 to 0.10" in alarm.reason and "train accuracy 0.40 to 0.70" in alarm.reason
    alarm.reset()
    assert not alarm and not any(alarm.update(alignment=0.1) for _ in range(400))


def test_arguments_are_checked():
    with pytest.raises(ValueError, match="window"):
        Alarm(window=0)
    with pytest.raises(ValueError, match="small <= large"):
        Alarm(small=0.5, large=0.2)
    alarm = Alarm()
    alarm.update(step=5, alignment=0.5)
    with pytest.raises(ValueError, match="steps must increase"):
        alarm.update(step=5, alignment=0.5)
