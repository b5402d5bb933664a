"""Parts of a resume state that processes other than the first one store."""

import re
from pathlib import Path
from typing import Any

from co_probe.errors import UserError
from co_probe.store import schema, tree
from co_probe.store.stored_run import check_mark

PART_FILE = re.compile(r"resume-(\d{4,})-rank\d+of\d+\.h5")


def write_part(path: Path, run_id: str, epoch: int, rank: int, size: int, state: tree.Tree) -> None:
    """Write the part of process `rank` (from 1) of `size`, before the epoch is complete.

    Raises:
        UserError: The disk is full or cannot be written.
    """
    tree.write(_file(path, epoch, rank, size), {**state, "run_id": run_id, "epoch": epoch})


def read_part(path: Path, run_id: str, epoch: int, rank: int, size: int) -> dict[str, Any]:
    """Read the state written by `write_part`.

    Raises:
        UserError: The file is missing.
        DamagedFile: The file does not verify, or belongs to another run or epoch.
    """
    file = _file(path, epoch, rank, size)
    if not file.exists():
        raise UserError(
            f"{path} cannot be resumed after epoch {epoch}: {file.name} is missing; overwrite=True starts again"
        )
    with tree.opened(file) as opened:
        state = tree.read(opened)
        check_mark(state, run_id, epoch)
        return schema.check_resume(state)


def _file(path: Path, epoch: int, rank: int, size: int) -> Path:
    return path / f"resume-{epoch:04d}-rank{rank}of{size}.h5"
