"""State of a run during training, for a live view."""

import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd

from co_probe.diagnosis.stored import curves_of, verdict_of
from co_probe.diagnosis.verdict import Verdict
from co_probe.reporting.chart import NAMES
from co_probe.store import StoredRun
from co_probe.store.stored_run import epoch_file

BLOCKS = "▁▂▃▄▅▆▇█"
RECENT = 5  # number of epochs that predict the duration of the next one
PATIENCE = 4.0  # durations of an epoch without a new one after which a run may have stopped
LEAST_PATIENCE = 60.0  # seconds


@dataclass(frozen=True)
class View:
    """State of a run at one moment.

    Attributes:
        name: Name of the run.
        about: Method, data set and ε in a few words.
        epochs: Finished epochs.
        planned: Number of epochs of the finished run; None if unknown.
        curves: Accuracies by epoch: columns epoch, pgd, and clean, fgsm, train where measured.
        gap: Gap of the last epoch in nats; None if not measured.
        verdict: Verdict so far; None before the first epoch.
        per_epoch: Seconds per epoch; None if unknown.
        idle: Seconds since the last epoch; None before the first.
    """

    name: str
    about: str
    epochs: tuple[int, ...]
    planned: int | None
    curves: pd.DataFrame = field(repr=False)
    gap: float | None
    verdict: Verdict | None
    per_epoch: float | None
    idle: float | None

    @property
    def finished(self) -> bool:
        """Whether the last planned epoch is finished."""
        return bool(self.epochs) and self.planned is not None and self.epochs[-1] >= self.planned

    @property
    def remaining(self) -> float | None:
        """Seconds until the run is finished; None if unknown."""
        if self.per_epoch is None or self.planned is None or self.idle is None:
            return None
        return max(0.0, (self.planned - self.epochs[-1]) * self.per_epoch - min(self.idle, self.per_epoch))

    @property
    def stalled(self) -> bool:
        """Whether a new epoch is long overdue."""
        if self.finished or self.idle is None or self.per_epoch is None:
            return False
        return self.idle > max(PATIENCE * self.per_epoch, LEAST_PATIENCE)

    def latest(self) -> dict[str, float]:
        """Return measured accuracies of the last epoch by curve."""
        if not len(self.curves):
            return {}
        last = self.curves.iloc[-1]
        known = {curve: float(last[curve]) for curve in ("clean", "fgsm", "pgd", "train") if curve in last}
        return {curve: value for curve, value in known.items() if not np.isnan(value)}

    def line(self) -> str:
        """Format the view as one line."""
        if not self.epochs:
            return f"{self.name}: no finished epoch yet"
        parts = [f"{NAMES[curve]} {100 * value:.1f}%" for curve, value in self.latest().items()]
        if self.gap is not None:
            parts.append(f"gap {self.gap:z.2f}")
        state = "finished" if self.finished else f"{duration(self.remaining)} left" if self.remaining else ""
        parts += [self.verdict.headline] if self.verdict else []
        parts += [state] if state else []
        return f"{self.name}: epoch {self.epochs[-1]}{f'/{self.planned}' if self.planned else ''}: {', '.join(parts)}"


class Watch:
    """Follows a run that another process writes, without a lock; reads each epoch once.

    Args:
        path: Folder or packed file of the run.

    Raises:
        UserError: The run does not exist.

    Example:
        >>> Watch("runs/fgsm").look().line()
        'fgsm: epoch 12/30: clean 93.5%, training attack 52.0%, PGD-10 32.0%, ...'
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)
        self._run = StoredRun(path)

    def look(self) -> View:
        """Return the current state.

        Raises:
            UserError: The run does not exist any more.
            DamagedFile: The run cannot be read.
        """
        fresh = StoredRun(self.path)
        if fresh.info.run_id != self._run.info.run_id:  # the run was started again
            self._run = fresh
        run = self._run
        epochs = tuple(run.epochs)
        info = run.info
        last = run.metrics(epochs[-1]) if epochs else {}
        times = [when for epoch in epochs[-RECENT - 1 :] if (when := self._written(epoch)) is not None]
        between = np.diff(times)
        return View(
            name=run.name,
            about=f"{info.method} on {info.data}, ε = {info.epsilon:.3g}",
            epochs=epochs,
            planned=info.planned,
            curves=curves_of(run),
            gap=last.get("gap"),
            verdict=verdict_of(run) if epochs else None,
            per_epoch=float(np.median(between)) if len(between) else None,
            idle=max(0.0, time.time() - times[-1]) if times else None,
        )

    def _written(self, epoch: int) -> float | None:
        """Return the time at which an epoch was written, in seconds since 1970; None for a packed run."""
        if self._run.packed:
            return None
        try:
            return (self.path / epoch_file(epoch)).stat().st_mtime
        except OSError:
            return None  # deleted in the meantime


def sparkline(values: pd.Series, width: int) -> str:
    """Draw shares as a row of blocks, ▁ for 0 and █ for 1.

    Args:
        values: Shares in [0, 1]; NaN is shown as a blank.
        width: Number of characters. A character shows the mean of successive values, or a value takes several.
    """
    numbers = values.to_numpy(dtype=float)
    if not len(numbers) or width < 1:
        return ""
    if len(numbers) < width:
        numbers = numbers[np.arange(width) * len(numbers) // width]
    letters = []
    for group in np.array_split(numbers, width):
        known = group[~np.isnan(group)]
        letters.append(BLOCKS[min(int(known.mean() * len(BLOCKS)), len(BLOCKS) - 1)] if len(known) else " ")
    return "".join(letters)


def duration(seconds: float | None) -> str:
    """Format a duration: `40 s`, `3 min`, `1 h 20 min`."""
    if seconds is None:
        return "unknown"
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"
