"""Reading accuracy curves from a training log: a CSV file, a data frame, or TensorBoard events."""

import gzip
import io
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from co_probe.diagnosis.columns import find_columns
from co_probe.diagnosis.episodes import Floats
from co_probe.diagnosis.tensorboard import holds_events, read_events
from co_probe.errors import UserError
from co_probe.store import refuse_folder_of_runs

TIDY = {"epoch", "quantity", "value"}  # columns of co-probe's tables, with a row per quantity and epoch


@dataclass(frozen=True)
class AccuracyLog:
    """Accuracy curves of one run, read from a log.

    Attributes:
        name: Name of the run: that of the file, or of the run in a log of several.
        epochs: Epoch numbers from 1, increasing.
        curves: Accuracies in [0, 1] by curve (`clean`, `fgsm`, `pgd`, `train`), one value per epoch, NaN if missing.
        columns: Column of the log that each curve and `epoch` were read from.
        notes: Remarks on how the log was read.
        images: Number of images of the accuracies, if the log has it.
        unread: Unused columns of the log.
    """

    name: str
    epochs: NDArray[np.int64]
    curves: Mapping[str, Floats]
    columns: Mapping[str, str]
    notes: tuple[str, ...] = field(default=())
    images: int | None = None
    unread: tuple[str, ...] = ()


def read_logs(
    source: str | Path | pd.DataFrame | Mapping[str, Any], columns: Mapping[str, str | None] | None = None
) -> list[AccuracyLog]:
    """Read the accuracy curves in a log.

    Accuracies may be shares or percentages; if any exceeds 1, all are percentages. Of several values of an epoch, the
    last one is used, since resumed runs append to logs. Epochs that start at 0 are shifted; without a column of epochs,
    rows are epochs.

    Args:
        source: A CSV file (separated by commas, semicolons, tabs or blanks; may be compressed by gzip), a folder of
            TensorBoard events, a data frame, or a mapping of columns. A column `run` separates several runs. A tidy
            table of co-probe (columns epoch, quantity, value) is a log as well.
        columns: Columns (for TensorBoard: tags) that are not recognised by name: {"clean": "val_acc", "pgd":
            "pgd_acc"}. The curves are `epoch`, `clean`, `fgsm`, `pgd`, `train`. None omits a curve.

    Returns:
        One log per run, in the order of the file.

    Raises:
        UserError: The log cannot be read, has no accuracy under PGD, or has values that are not accuracies.

    Example:
        >>> log = read_logs({"val_acc": [61.0, 70.2], "pgd10": [30.5, 33.1]})[0]
        >>> log.curves["pgd"], log.notes
        (array([0.305, 0.331]), ('accuracies are read as percentages',))
    """
    notes: list[str] = []
    if isinstance(source, pd.DataFrame | Mapping):
        where, name = "the log", "log"
        frame = _frame(source)
    else:
        path = Path(source)
        where, name = str(path), path.name
        if holds_events(path):
            frame, notes = read_events(path, columns)
        else:
            frame = _read_csv(path)
    frame.columns = [str(column).strip() for column in frame.columns]
    if not len(frame):
        raise UserError(f"{where} has no rows")
    run_column = next((column for column in frame.columns if column.lower() == "run"), None)
    if run_column is None or frame[run_column].nunique() <= 1:
        return [_log(frame, name, where, notes, columns)]
    return [
        _log(rows, str(run), f"{where}, run {run}", notes, columns)
        for run, rows in frame.groupby(run_column, sort=False)
    ]


def _log(
    frame: pd.DataFrame, name: str, where: str, notes: list[str], chosen: Mapping[str, str | None] | None
) -> AccuracyLog:
    """Read the curves of one run."""
    images = None
    if frame.columns.is_unique and set(frame.columns) >= TIDY:
        images = _images(frame)
        frame = frame.pivot_table(index="epoch", columns="quantity", values="value", aggfunc="last").reset_index()
    if not frame.columns.is_unique:
        twice = frame.columns[frame.columns.duplicated()][0]
        raise UserError(f"{where} has two columns named {twice}")
    columns = find_columns([column for column in frame if not _is_empty(frame[column])], chosen, where=where)
    numbers = pd.DataFrame({curve: _numbers(frame[column], where) for curve, column in columns.items()})
    notes = list(notes)
    header = _repeated_header(frame, columns)
    numbers = numbers[~header]
    if "epoch" not in numbers:
        numbers.insert(0, "epoch", np.arange(1, len(numbers) + 1))
    else:
        numbers = _whole_epochs(numbers, columns["epoch"], where, notes)
    curves, percent = numbers.drop(columns="epoch"), _in_percent(frame, numbers, columns, where)
    if percent:
        curves = curves / 100
        notes.append("accuracies are read as percentages")
        for curve in curves:
            if curves[curve].max() <= 0.01:
                notes.append(
                    f"{columns[str(curve)]} never exceeds 1, and is read as percentages like the other columns"
                )
    return AccuracyLog(
        name=name,
        epochs=numbers["epoch"].to_numpy(np.int64),
        curves={str(curve): curves[curve].to_numpy(np.float64) for curve in curves},
        columns=columns,
        notes=tuple(notes),
        images=images,
        unread=tuple(str(column) for column in frame if column not in {*columns.values(), "run"}),
    )


def _whole_epochs(numbers: pd.DataFrame, column: str, where: str, notes: list[str]) -> pd.DataFrame:
    """Reduce to one row per epoch, numbered from 1; append changes to `notes`."""
    missing = numbers["epoch"].isna()
    if missing.any():
        notes.append(f"{missing.sum()} rows without an epoch are left out")
        numbers = numbers[~missing]
    epochs = numbers["epoch"]
    if not len(epochs) or (epochs != epochs.round()).any() or (epochs < 0).any() or epochs.max() > 1e9:
        raise UserError(f"{where}: column {column} must hold whole numbers of epochs, not negative")
    if epochs.duplicated().any():
        notes.append("of several rows of an epoch, the last value counts")
        numbers = numbers.groupby("epoch", as_index=False).last()
    numbers = numbers.sort_values("epoch")
    if numbers["epoch"].iloc[0] == 0:
        notes.append("epochs are counted from 1; the log counts from 0")
        numbers = numbers.assign(epoch=numbers["epoch"] + 1)
    return numbers


def _in_percent(frame: pd.DataFrame, numbers: pd.DataFrame, columns: Mapping[str, str], where: str) -> bool:
    """Return whether accuracies are percentages, for all columns, since a collapsed one may stay below 1%."""
    signs = False
    highest = 0.0
    for curve, column in columns.items():
        if curve == "epoch":
            continue
        values = numbers[curve]
        if values.min() < 0 or values.max() > 100:
            wrong = values.min() if values.min() < 0 else values.max()
            raise UserError(f"{where}: column {column} holds {wrong:g}, which is no accuracy")
        highest = max(highest, float(values.max()))
        signs = signs or bool(frame[column].astype(str).str.endswith("%").any())
    return signs or highest > 1 + 1e-6


def _numbers(values: pd.Series, where: str) -> pd.Series:
    """Convert a column to numbers; percent signs and repeated headers are allowed, infinite values become NaN."""
    if not pd.api.types.is_numeric_dtype(values):
        text = values.astype("string").str.strip()
        text = text.mask(text.str.lower() == str(values.name).lower())
        text = text.mask(text.str.lower().isin(["", "nan", "none", "null", "na", "n/a", "-", "--"]))
        numbers = pd.to_numeric(text.str.removesuffix("%"), errors="coerce").astype("Float64")
        wrong = text[text.notna() & numbers.isna()]
        if len(wrong):
            raise UserError(f"{where}: column {values.name} holds {wrong.iloc[0]!r}, which is no number")
        values = numbers
    return values.astype("Float64").astype(np.float64).replace([np.inf, -np.inf], np.nan)


def _repeated_header(frame: pd.DataFrame, columns: Mapping[str, str]) -> pd.Series:
    """Find rows that repeat the header, as resumed runs may write them."""
    same = [frame[column].astype("string").str.strip() == column for column in columns.values()]
    return pd.concat(same, axis=1).fillna(False).astype(bool).all(axis=1)


def _is_empty(values: pd.Series) -> bool:
    return bool(values.isna().all())


def _images(frame: pd.DataFrame) -> int | None:
    """Return the number of test images in column `n` of a tidy table, from rows of PGD accuracy."""
    if "n" not in frame:
        return None
    rows = frame.loc[frame["quantity"].astype(str).str.startswith("pgd"), "n"]
    return int(rows.iloc[-1]) if len(rows) and rows.iloc[-1] > 0 else None


def _frame(source: pd.DataFrame | Mapping[str, Any]) -> pd.DataFrame:
    if isinstance(source, pd.DataFrame):
        named = isinstance(source.index.name, str) and source.index.name not in source
        return source.reset_index(drop=not named)
    try:
        return pd.DataFrame(dict(source))
    except ValueError as error:
        raise UserError(f"the columns of the log do not fit together: {error}") from None


def _read_csv(path: Path) -> pd.DataFrame:
    """Read a CSV file with a header, whose separator is taken from the first line."""
    if not path.exists():
        raise UserError(f"{path} does not exist")
    if path.is_dir():
        refuse_folder_of_runs(path)
        raise UserError(f"{path} is neither a run nor a folder of TensorBoard events")
    try:
        data = path.read_bytes()
        text = (gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data).decode("utf-8-sig")
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read as a CSV log: {error}") from None
    first = text.lstrip().split("\n", 1)[0]
    separator = next((letter for letter in ",;\t|" if letter in first), r"\s+")
    try:
        return pd.read_csv(
            io.StringIO(text),
            sep=separator,
            decimal="," if separator == ";" and "," in text else ".",
            skipinitialspace=True,
            index_col=False,
            on_bad_lines="error",
        )
    except (ValueError, pd.errors.ParserError) as error:  # ValueError for an empty file
        reason = (str(error).splitlines() or [type(error).__name__])[-1]
        raise UserError(f"{path} cannot be read as CSV with a line of names: {reason}") from None
