"""Reading scalars of TensorBoard events to a table with one row per epoch."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd

from co_probe.diagnosis.columns import find_columns
from co_probe.errors import DamagedFile, UserError

EVENTS = "*tfevents*"
PER_EPOCH = 10  # greatest typical distance of steps that count as epochs


def holds_events(path: Path) -> bool:
    """Return whether a path is an event file or a folder that contains event files."""
    if path.is_dir():
        return next(path.rglob(EVENTS), None) is not None
    return "tfevents" in path.name and path.exists()


def read_events(path: Path, columns: Mapping[str, str | None] | None = None) -> tuple[pd.DataFrame, list[str]]:
    """Read the accuracies in TensorBoard events.

    A row is a step at which accuracy under PGD was logged, with the newest values of other tags since the previous row.
    Steps are epochs if they are close together or if there is a tag `epoch`, as in Lightning; otherwise rows are
    numbered.

    Args:
        path: A folder of event files, or one event file. Tags in subfolders, which `SummaryWriter.add_scalars` makes,
            are named `subfolder/tag`.
        columns: Tags given by the user, as in `find_columns`.

    Returns:
        A table with a column of epochs (`epoch`, or its tag) and a column per curve, and remarks on the conversion.

    Raises:
        UserError: tensorboard is not installed, or the folder holds several runs or no accuracy under PGD.
        DamagedFile: A file cannot be read.
    """
    series = _scalars(path)
    chosen = find_columns(list(series), columns, where=str(path))
    base = series[chosen["pgd"]]
    frame = pd.DataFrame({chosen["pgd"]: base})
    for curve, tag in chosen.items():
        if curve == "epoch":
            frame[tag] = series[tag].reindex(base.index, method="ffill")
        elif curve != "pgd":
            before = np.searchsorted(base.index, series[tag].index, side="left")
            within = series[tag][before < len(base)]
            rows = base.index[before[before < len(base)]]
            frame[tag] = within.groupby(rows).last().reindex(base.index)
    if "epoch" in chosen:
        return frame.reset_index(drop=True), []
    steps = frame.index.to_numpy()
    if len(steps) < 2 or np.median(np.diff(steps)) <= PER_EPOCH:
        return frame.rename_axis("epoch").reset_index(), ["the steps of TensorBoard are taken as epochs"]
    numbered = frame.reset_index(drop=True).assign(epoch=np.arange(1, len(frame) + 1))
    return numbered, [f"epochs are the values of {chosen['pgd']} in their order: epoch 1 is step {steps[0]}"]


def _scalars(path: Path) -> dict[str, pd.Series]:
    """Return all scalars by tag, indexed by increasing steps, with the newest value of repeated steps."""
    if path.is_file():
        return _read(path)
    folders = sorted({file.parent for file in path.rglob(EVENTS)})
    read = {folder: _read(folder) for folder in folders}
    alone = [folder for folder in folders if folder != path and _has_pgd(read[folder])]
    if path not in read and len(alone) > 1:
        names = ", ".join(str(folder.relative_to(path)) for folder in alone[:5])
        raise UserError(f"{path} holds the events of several runs ({names}{', ...' * (len(alone) > 5)}): name one")
    return {
        tag if folder == path or len(folders) == 1 else f"{folder.relative_to(path)}/{tag}": values
        for folder in folders
        for tag, values in read[folder].items()
    }


def _has_pgd(series: Mapping[str, pd.Series]) -> bool:
    try:
        find_columns(list(series))
    except UserError:
        return False
    return True


def _read(path: Path) -> dict[str, pd.Series]:
    """Read the scalars of one folder of event files, or of one file."""
    try:
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
        from tensorboard.util.tensor_util import make_ndarray
    except ImportError:
        raise UserError(f"{path} holds TensorBoard events; to read them: pip install 'co-probe[tensorboard]'") from None

    everything = 0  # TensorBoard's value for no limit
    events = EventAccumulator(str(path), size_guidance={"scalars": everything, "tensors": everything})
    found: dict[str, dict[int, float]] = {}
    try:
        events.Reload()
        tags = events.Tags()
        for tag in tags["scalars"]:
            found[tag] = {event.step: float(event.value) for event in events.Scalars(tag)}
        for tag in tags["tensors"]:  # TensorFlow 2 writes scalars as tensors
            arrays = {event.step: make_ndarray(event.tensor_proto) for event in events.Tensors(tag)}
            if all(array.size == 1 and array.dtype.kind in "biuf" for array in arrays.values()):
                found[tag] = {step: float(array.item()) for step, array in arrays.items()}
    except (OSError, ValueError, TypeError, RuntimeError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise DamagedFile(f"{path} cannot be read as TensorBoard events: {reason}") from error
    return {tag: pd.Series(values, dtype=np.float64).sort_index() for tag, values in found.items() if values}
