"""The alarm: a fall of PertAlign below its recent level in the same run."""

import math
from collections import deque
from dataclasses import dataclass, field
from statistics import fmean, median

from co_probe.numerics.change import LEAST, LEVEL, NOISE, level_and_noise

JUDGED = ("alignment", "train_loss", "loss_gain")


@dataclass
class Alarm:
    """Online detector of the beginning of an episode of catastrophic overfitting.

    Values are averaged over windows of updates. The alignment of a window (PertAlign, or another indicator that falls)
    is compared with a baseline, the median of earlier windows: as a share of the baseline, and in standard deviations
    of the noise between windows. The alarm fires at once on a large fall, and on a smaller one if the next window
    confirms it, unless the training loss or the loss gain of the attack has risen. Alignment also falls while ε is
    raised, but then the attack becomes stronger; in a collapse it becomes weaker. The rule does not depend on the level
    of a healthy run (0.75 to 0.9 on CIFAR-10, 0.4 to 0.8 on digits) or on its slow drift.

    Args:
        window: Number of updates per window.
        small: Fall of two successive windows that is needed, as a share of the baseline.
        large: Fall of a single window that is needed, as a share of the baseline.
        deviations: Number of standard deviations that either fall must exceed.
        baseline: Number of windows of the baseline. They end one window before the current one.
        history: Number of windows that the noise is estimated from.
        warmup: Number of windows before the alarm is armed.
        settled: Least baseline at which the alarm is armed; alignment starts near 0 at random weights.
        floor: Least standard deviation of a window's mean.

    Attributes:
        fired: Whether it has fired since the start or `reset`; also the truth value of the object.
        step: The step at which it fired, or None.
        reason: The observed changes in one sentence with numbers; empty before it fires.

    Example:
        >>> alarm = Alarm()
        >>> for step, alignment in log:
        ...     if alarm.update(step=step, alignment=alignment):
        ...         print(alarm.reason)

    Reference:
        SORA (arXiv 2606.00738) reports that the cosine falls before the collapse. The repository
        adversarial-robustness-co-monitor compares with the median of five windows of 20 updates, with a threshold per
        data set.
    """

    window: int = 20
    small: float = 0.15
    large: float = 0.2
    deviations: float = 5.0
    baseline: int = LEVEL
    history: int = NOISE
    warmup: int = LEAST
    settled: float = 0.2
    floor: float = 0.01
    fired: bool = field(default=False, init=False)
    step: int | None = field(default=None, init=False)
    reason: str = field(default="", init=False)

    def __post_init__(self) -> None:
        if self.window < 1:
            raise ValueError(f"window must be at least 1 update, not {self.window}")
        if not 0 < self.small <= self.large < 1:
            raise ValueError(f"0 < small <= large < 1 must hold, not {self.small:g} and {self.large:g}")
        self._now: int | None = None  # the newest step
        self.reset()

    def __bool__(self) -> bool:
        return self.fired

    def reset(self) -> None:
        """Clear the alarm and its history, after a remedy; it can fire again once it has a new baseline."""
        self.fired, self.step, self.reason = False, None, ""
        self._past = deque[tuple[float, ...]](maxlen=max(self.history, self.baseline + 1))  # windows, of `JUDGED`
        self._doubtful = False  # whether the newest window showed a small fall
        self._started = self._now
        self._values: dict[str, list[float]] = {}
        self._before: dict[str, float] = {}  # means of the previous window, for the reason

    def update(
        self,
        *,
        step: int | None = None,
        alignment: float = math.nan,
        train_loss: float = math.nan,
        loss_gain: float = math.nan,
        **others: float,
    ) -> bool:
        """Process the values of one update, or the means of a window of updates.

        Args:
            step: Number of the update, or of the last one in the window; one more than the previous if None.
            alignment: PertAlign, in [-1, 1]; NaN or omitted if undefined.
            train_loss: Loss on the perturbed images, in nats.
            loss_gain: Increase of the loss by the attack, in nats. Without both losses, a warm-up of ε may set off the
                alarm.
            **others: Other measurements (`train_accuracy`, `abnormal`), which appear in the reason and do not affect
                the decision.

        Returns:
            True at the update at which the alarm fires.

        Raises:
            ValueError: `step` is not greater than the previous one.
        """
        now = (self._now or 0) + 1 if step is None else step
        gap = now - (self._now if self._now is not None else now - 1)
        if gap <= 0:
            raise ValueError(f"steps must increase, and {now} comes after {self._now}")
        if gap > 5 * self.window:  # part of the log is missing, so the earlier windows are no baseline
            self._past.clear()
            self._doubtful, self._values = False, {}
        self._now = now
        if self._started is None:
            self._started = now - gap
        values = {"alignment": alignment, "train_loss": train_loss, "loss_gain": loss_gain, **others}
        for name, value in values.items():
            if math.isfinite(value):
                self._values.setdefault(name, []).append(value)
        if now - self._started < self.window and 2 * gap < self.window:
            return False
        means = {name: fmean(values) for name, values in self._values.items()}
        self._started, self._values = now, {}
        fires = not self.fired and "alignment" in means and self._judge(means)
        self._before = means
        return fires

    def _judge(self, means: dict[str, float]) -> bool:
        """Compare a window with the baseline, add it to the history, and return whether the alarm fires."""
        window, past = tuple(means.get(name, math.nan) for name in JUDGED), list(self._past)
        self._past.append(window)
        if len(past) < self.warmup:
            return False
        base, noise = level_and_noise([alignment for alignment, *_ in past], self.floor, self.baseline, skipped=1)
        baseline = [median(values) for values in zip(*past[-self.baseline - 1 : -1], strict=True)]
        value = window[0]
        fall = base - value
        # False for missing values, whose medians are NaN and unused.
        stronger = any(now > before for now, before in zip(window[1:], baseline[1:], strict=True))
        clear = base > self.settled and fall > self.deviations * noise and not stronger
        doubtful, self._doubtful = self._doubtful, clear and fall > self.small * base
        if not (clear and (fall > self.large * base or (doubtful and self._doubtful))):
            return False
        self.fired, self.step = True, self._now
        told = [f"alignment fell from {base:.2f} to {value:.2f} ({fall / noise:.0f} standard deviations)"]
        for name, before in self._before.items():
            if name != "alignment" and name in means:
                told.append(f"{name.replace('_', ' ')} {before:.2f} to {means[name]:.2f}")
        self.reason = f"step {self._now}: " + ", ".join(told)
        return True
