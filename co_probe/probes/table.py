"""The table of a probe on one run, which is read, measured and stored; and the epochs that it may be of."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import pandas as pd

from co_probe.errors import UserError
from co_probe.store import StoredRun

if TYPE_CHECKING:
    import torch

    from co_probe.runs import Run

Epochs = str | int | Sequence[int]


class Table(ABC):
    """The rows of one probe, with its settings, on one run.

    Attributes:
        run: The run.
        missing: What is still to be measured: one entry for each step of `measure`.
    """

    run: StoredRun
    missing: Sequence[Any]

    @abstractmethod
    def rows(self) -> pd.DataFrame:
        """All rows that were asked for and are known."""

    @abstractmethod
    def check(self, run: "Run") -> None:
        """Raise UserError if the run or a setting does not allow measuring."""

    @abstractmethod
    def measure(self, run: "Run", device: "torch.device") -> Iterator[str]:
        """Measure what is missing, yielding a label after each step; store it every few seconds and at the end."""

    @abstractmethod
    def store_recorded(self) -> None:
        """Store rows that are known without measuring, because the run has recorded them itself."""


def pick_epochs(run: StoredRun, epochs: Epochs) -> list[int]:
    """The finished epochs that `all`, `best and last`, `last`, a number or numbers name.

    Raises:
        UserError: There is no such epoch.
    """
    if epochs == "all":
        return run.epochs
    if epochs == "last":
        return run.epochs[-1:]
    if epochs == "best and last":
        return sorted({run.best_epoch, run.last_epoch}) if run.epochs else []
    if isinstance(epochs, str):
        raise UserError(f"epochs must be all, best and last, last, a number or numbers, not '{epochs}'")
    wanted = [epochs] if isinstance(epochs, int) else list(epochs)
    if unknown := sorted(set(wanted) - set(run.epochs)):
        raise UserError(f"{run.name} has no epoch {unknown[0]}; its last is {run.last_epoch}")
    return wanted


def pick_epoch(run: StoredRun, epoch: int | str) -> int:
    """The number of the epoch `best`, `last` or N. Raises UserError if the run has no such epoch."""
    if epoch == "best":
        return run.best_epoch
    if epoch == "last":
        return run.last_epoch
    try:
        number = int(epoch)
    except ValueError:
        raise UserError(f"epoch must be best, last or a number, not '{epoch}'") from None
    if number not in run.epochs:
        raise UserError(f"{run.name} has no epoch {number}; its last is {run.last_epoch}")
    return number


def with_epsilon(frame: pd.DataFrame, run: StoredRun) -> pd.DataFrame:
    """A stored table; rows that were written before results were told apart by ε have the run's."""
    if not len(frame):
        return frame
    return frame.assign(epsilon=frame["epsilon"].fillna(run.epsilon) if "epsilon" in frame else run.epsilon)
