"""Substitute for a `Recorder` in processes that do not write the run."""

from pathlib import Path
from typing import Any

from torch import Tensor

from co_probe.store import StoredRun
from co_probe.store.parts import read_part, write_part
from co_probe.training.group import Group
from co_probe.training.recorder import Checkpoint
from co_probe.training.state import snapshot


class Follower:
    """Reads the run of the first process, and writes the part of the resume state that only this process has.

    Args:
        path: Folder of the run, shared by all processes.
        group: The processes.

    Raises:
        UserError: The folder does not exist: machines must share it.
    """

    def __init__(self, path: str | Path, group: Group):
        stored = StoredRun(path)
        self.path, self.info, self.index = stored.path, stored.info, stored.probe_set
        self.last = max(stored.epochs, default=0)
        self._group = group

    def step(self, **values: float | Tensor) -> None:
        """Do nothing, since the first process records."""

    def epoch(self, checkpoint: Checkpoint) -> None:
        """Write this process's part of the resume state of a finished epoch to the disk.

        Raises:
            UserError: It cannot be written.
        """
        if checkpoint.resume is not None:
            parts = {name: snapshot(group) for name, group in checkpoint.resume.items()}
            write_part(self.path, self.info.run_id, checkpoint.epoch, self._group.rank, self._group.size, parts)

    def resume_state(self) -> dict[str, Any]:
        """Return the `resume` state of this process at the newest finished epoch.

        Raises:
            UserError: Its file is missing.
            DamagedFile: The file does not verify, or is of another run or epoch.
        """
        return read_part(self.path, self.info.run_id, self.last, self._group.rank, self._group.size)
