"""Deleting the weights of epochs that nobody will measure again."""

from collections.abc import Collection
from pathlib import Path

from co_probe.files.lock import Lock
from co_probe.store import tree
from co_probe.store.stored_run import StoredRun, epoch_file

WEIGHTY = ("model", "ema", "images")  # groups of an epoch's file that are emptied or left out


def drop_weights(path: str | Path, keep: Collection[int]) -> None:
    """Delete the weights and the state of images of a complete run, but for some epochs. Metrics and tables remain.

    The run stays valid; a diagnostic that needs the weights of another epoch says that they are gone.

    Args:
        path: The folder of the run.
        keep: Epochs whose weights stay.

    Raises:
        UserError: It is no folder of a run, or somebody writes to it.
    """
    run = StoredRun(path)
    with Lock(run.path / "run.lock", f"the run {path}"):
        for epoch in run.epochs:
            if epoch in keep or not run.has_weights(epoch):
                continue
            content = run.read_epoch(epoch)
            kept = {name: part for name, part in content.items() if name not in WEIGHTY}
            tree.write(run.path / epoch_file(epoch), {**kept, "model": {}, "images": {}})
