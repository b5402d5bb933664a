"""Deletion of weights of epochs, to save space."""

from collections.abc import Collection
from pathlib import Path

from co_probe.files.lock import Lock
from co_probe.store import tree
from co_probe.store.stored_run import StoredRun, epoch_file

WEIGHTY = ("model", "ema", "images")  # groups of an epoch's file that are emptied or removed


def drop_weights(path: str | Path, keep: Collection[int]) -> None:
    """Delete weights and per-image state of a complete run except for some epochs; metrics and tables remain.

    The run stays valid; diagnostics that need deleted weights raise an error.

    Args:
        path: Folder of the run.
        keep: Epochs whose weights are retained.

    Raises:
        UserError: The folder is not a run, or has a writer.
    """
    run = StoredRun(path)
    with Lock(run.path / "run.lock", f"the run {path}"):
        for epoch in run.epochs:
            if epoch in keep or not run.has_weights(epoch):
                continue
            content = run.read_epoch(epoch)
            kept = {name: part for name, part in content.items() if name not in WEIGHTY}
            tree.write(run.path / epoch_file(epoch), {**kept, "model": {}, "images": {}})
