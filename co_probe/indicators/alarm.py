"""The alarm: a fall of PertAlign against the run's own recent past."""

import math
from collections import deque
from dataclasses import dataclass, field
from statistics import fmean, median

from co_probe.numerics.change import LEAST, LEVEL, NOISE, level_and_noise

JUDGED = ("alignment", "train_loss", "loss_gain")


@dataclass
class Alarm:
    """Decides, during training, that an episode of catastrophic overfitting is beginning.

    Values are averaged over windows of updates. A window is judged by how far its alignment (PertAlign, or another
    indicator that falls) lies below the baseline, the median of the windows before: in shares of the baseline, and in
    standard deviations of the noise between windows. It fires at once for a large fall, and for a smaller one that the
    next window confirms, unless the training loss or what the attack adds to it has risen: alignment also falls while ε
    is raised, but then the attack becomes stronger, and in a collapse it becomes weaker. Nothing depends on the level
    of a healthy run, which differs between data sets (0.75 to 0.9 on CIFAR-10, 0.4 to 0.8 on digits), nor on its slow
    drift.

    Args:
        window: Number of updates that are averaged.
        small: Share of the baseline by which two successive windows must lie below it.
        large: Share of the baseline by which a single window must lie below it.
        deviations: Number of standard deviations that both falls must exceed.
        baseline: Number of windows of the baseline. It ends one window before the one that is judged.
        history: Number of windows that the noise is estimated from.
        warmup: Number of windows before the alarm is armed.
        settled: Baseline below which it is not armed: at random weights, alignment starts near 0.
        floor: Standard deviation of a window's mean that is assumed at least.

    Attributes:
        fired: Whether it has fired since the start, or since `reset`; the object itself is true then.
        step: The step at which it fired, or None.
        reason: What was seen, in one sentence with numbers; empty before that.

    Example:
        >>> alarm = Alarm()
        >>> for step, alignment in log:
        ...     if alarm.update(step=step, alignment=alignment):
        ...         print(alarm.reason)

    Reference:
        That the cosine falls before the collapse: SORA (arXiv 2606.00738). A drop against the median of five windows of
        20 updates, with a threshold per data set: the repository adversarial-robustness-co-monitor.
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
        """Forget the alarm and the past, after a remedy: a new baseline is collected before it can fire again."""
        self.fired, self.step, self.reason = False, None, ""
        self._past = deque[tuple[float, ...]](maxlen=max(self.history, self.baseline + 1))  # windows, of `JUDGED`
        self._doubtful = False  # whether the newest window lay below the baseline by a small fall
        self._started = self._now
        self._values: dict[str, list[float]] = {}
        self._before: dict[str, float] = {}  # means of the window before, for the reason

    def update(
        self,
        *,
        step: int | None = None,
        alignment: float = math.nan,
        train_loss: float = math.nan,
        loss_gain: float = math.nan,
        **others: float,
    ) -> bool:
        """Take the values of one update, or the means of a window of updates.

        Args:
            step: Number of the update, or of the last one of the window; one more than before if None.
            alignment: PertAlign, in [-1, 1]; NaN or left out if there is none.
            train_loss: Loss on the perturbed images, in nats.
            loss_gain: By how much the attack has raised it, in nats. Without the two, an ε that is raised during
                training sets off the alarm.
            **others: What else was measured (`train_accuracy`, `abnormal`); it is part of the reason, and has no part
                in the decision.

        Returns:
            True once, when it fires.

        Raises:
            ValueError: `step` is not greater than the one before.
        """
        now = (self._now or 0) + 1 if step is None else step
        gap = now - (self._now if self._now is not None else now - 1)
        if gap <= 0:
            raise ValueError(f"steps must increase, and {now} comes after {self._now}")
        if gap > 5 * self.window:  # a part of the log is missing: what came before is no baseline
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
        """Judge a window and make it part of the past. Returns whether the alarm fires."""
        window, past = tuple(means.get(name, math.nan) for name in JUDGED), list(self._past)
        self._past.append(window)
        if len(past) < self.warmup:
            return False
        base, noise = level_and_noise([alignment for alignment, *_ in past], self.floor, self.baseline, skipped=1)
        baseline = [median(values) for values in zip(*past[-self.baseline - 1 : -1], strict=True)]
        value = window[0]
        fall = base - value
        # False for what is not given. Medians of NaN are arbitrary, and not used then.
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
