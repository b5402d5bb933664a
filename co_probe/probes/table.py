"""Tables of a probe on one run, and selection of epochs."""

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
        missing: Missing measurements, one entry for each step of `measure`.
    """

    run: StoredRun
    missing: Sequence[Any]

    @abstractmethod
    def rows(self) -> pd.DataFrame:
        """Return all known rows of this selection."""

    @abstractmethod
    def check(self, run: "Run") -> None:
        """Raise UserError if the run or a setting does not allow measuring."""

    @abstractmethod
    def measure(self, run: "Run", device: "torch.device") -> Iterator[str]:
        """Measure missing rows, yielding a label after each step; store them every few seconds and at the end."""

    @abstractmethod
    def store_recorded(self) -> None:
        """Store rows that training has recorded, without measuring."""


def pick_epochs(run: StoredRun, epochs: Epochs) -> list[int]:
    """Return the finished epochs for `all`, `best and last`, `last`, a number or numbers.

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
    """Return the number of the epoch `best`, `last` or N. Raises UserError if the run has no such epoch."""
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
    """Return a stored table with ε; rows of versions without this column get that of the run."""
    if not len(frame):
        return frame
    return frame.assign(epsilon=frame["epsilon"].fillna(run.epsilon) if "epsilon" in frame else run.epsilon)
