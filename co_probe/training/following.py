"""What a process that does not write a run has in place of a `Recorder`: it stores its part of the resume state."""

from pathlib import Path
from typing import Any

from torch import Tensor

from co_probe.store import StoredRun
from co_probe.store.parts import read_part, write_part
from co_probe.training.group import Group
from co_probe.training.recorder import Checkpoint
from co_probe.training.state import snapshot


class Follower:
    """Reads the run that the first process writes, and writes what only this one has: the state of its images.

    Args:
        path: The folder of the run, which all processes see.
        group: The processes.

    Raises:
        UserError: The folder is not there: machines have to share it.
    """

    def __init__(self, path: str | Path, group: Group):
        stored = StoredRun(path)
        self.path, self.info, self.index = stored.path, stored.info, stored.probe_set
        self.last = max(stored.epochs, default=0)
        self._group = group

    def step(self, **values: float | Tensor) -> None:
        """Nothing: the first process records."""

    def epoch(self, checkpoint: Checkpoint) -> None:
        """Write this process's part of the resume state of a finished epoch to the disk.

        Raises:
            UserError: It cannot be written.
        """
        if checkpoint.resume is not None:
            parts = {name: snapshot(group) for name, group in checkpoint.resume.items()}
            write_part(self.path, self.info.run_id, checkpoint.epoch, self._group.rank, self._group.size, parts)

    def resume_state(self) -> dict[str, Any]:
        """Return what `epoch` was given as `resume` with the newest finished epoch.

        Raises:
            UserError: Its file is missing.
            DamagedFile: The file does not verify, or is of another run or epoch.
        """
        return read_part(self.path, self.info.run_id, self.last, self._group.rank, self._group.size)
