"""Reading training logs of other programs."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from co_probe.errors import UserError, listing

NAMES = {
    "epoch": ("epoch", "epochs"),
    "train_loss": ("train_loss", "loss", "training_loss", "trainloss"),
    "train_accuracy": ("train_accuracy", "train_acc", "training_accuracy", "trainacc", "accuracy", "acc"),
    "learning_rate": ("learning_rate", "lr", "learningrate"),
}


@dataclass(frozen=True)
class TrainingLog:
    """Metrics in the log of a training script.

    Attributes:
        metrics: {epoch, from 1: metrics}, with train_loss (nats), train_accuracy (in [0, 1]) and learning_rate where
            known and finite.
        note: One line on the columns that were read.
    """

    metrics: dict[int, dict[str, float]] = field(default_factory=dict)
    note: str = ""


def read_training_log(log: str | Path | pd.DataFrame | Mapping[str, Any] | None) -> TrainingLog:
    """Read the metrics in a training log.

    Args:
        log: A CSV file, a data frame, or a mapping of columns, one row per epoch. Columns, all optional: epoch (the
            order of rows if missing; shifted if it starts at 0), train_loss, train_accuracy (in [0, 1], or percent),
            learning_rate, or common abbreviations of these. Other columns are ignored.

    Raises:
        UserError: The file cannot be read, has none of the columns, or has values that are not numbers.

    Example:
        >>> read_training_log({"train_loss": [2.1, 1.7]}).metrics
        {1: {'train_loss': 2.1}, 2: {'train_loss': 1.7}}
    """
    if log is None:
        return TrainingLog()
    frame = _frame(log)
    columns = {name: _column(frame, aliases) for name, aliases in NAMES.items()}
    found = {name: column for name, column in columns.items() if column is not None and name != "epoch"}
    if not found:
        raise UserError(
            f"the training log has none of train_loss, train_accuracy and learning_rate: its columns are "
            f"{', '.join(map(str, frame.columns))}; accuracy per epoch is measured, and diagnose reads it from a log"
        )
    values = {name: _numbers(frame, column) for name, column in found.items()}
    notes = [", ".join(found)]
    unread = [str(column) for column in frame.columns if column not in columns.values()]
    if "train_accuracy" in values and np.nanmax(values["train_accuracy"], initial=0) > 1:
        if np.nanmax(values["train_accuracy"]) > 100:
            raise UserError(f"{found['train_accuracy']} of the training log is above 100: it is no accuracy")
        values["train_accuracy"] = values["train_accuracy"] / 100
        notes.append("accuracy in percent")
    column = columns["epoch"]
    epochs = np.arange(1, len(frame) + 1) if column is None else _numbers(frame, column)
    if not (np.isfinite(epochs).all() and (epochs == np.round(epochs)).all()):
        raise UserError(f"column {column} of the training log must hold whole numbers, one row per epoch")
    if len(epochs) and epochs.min() == 0:
        epochs, notes = epochs + 1, [*notes, "its epoch 0 as epoch 1"]
    metrics: dict[int, dict[str, float]] = {}
    for row, epoch in enumerate(epochs):  # the last row of an epoch is used, since resumed runs append to logs
        known = {name: float(series[row]) for name, series in values.items() if np.isfinite(series[row])}
        metrics[int(epoch)] = known
    left = f" Not read: {listing(unread)}." if unread else ""
    return TrainingLog(metrics, f"Read from the training log: {'; '.join(notes)}.{left}")


def _frame(log: str | Path | pd.DataFrame | Mapping[str, Any]) -> pd.DataFrame:
    if isinstance(log, pd.DataFrame):
        return log.reset_index(drop=True)
    try:
        if isinstance(log, Mapping):
            return pd.DataFrame(dict(log))
        return pd.read_csv(log, sep=None, engine="python", skipinitialspace=True)
    except FileNotFoundError:
        raise UserError(f"the training log {log} does not exist") from None
    except (OSError, ValueError, UnicodeDecodeError) as error:  # pandas' own errors are ValueErrors
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(f"the training log cannot be read as CSV with a line of column names: {reason}") from error


def _column(frame: pd.DataFrame, aliases: tuple[str, ...]) -> str | None:
    """Find the column of the first matching alias; spellings such as `Train Loss` are accepted."""
    spelled = {str(name).strip().lower().replace(" ", "_").replace("-", "_"): name for name in frame.columns}
    return next((spelled[alias] for alias in aliases if alias in spelled), None)


def _numbers(frame: pd.DataFrame, column: str) -> np.ndarray:
    try:
        return pd.to_numeric(frame[column]).to_numpy(dtype=np.float64)
    except (ValueError, TypeError) as error:
        raise UserError(f"column {column} of the training log has values that are no numbers: {error}") from error
