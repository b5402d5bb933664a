"""Writing a file so that, at any moment, its name shows the old content or the new one, whole."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from co_probe.errors import UserError


def write_atomic(path: Path, content: bytes) -> None:
    """Write beside the final name, flush to the device, then rename.

    Raises UserError, with the old file untouched, if the disk is full or the folder cannot be written.
    """

    def write(beside: Path) -> None:
        with open(beside, "xb", buffering=0) as file:
            left = memoryview(content)
            while left:
                left = left[file.write(left) :]

    replace_atomic(path, write)


def replace_atomic(path: Path, write: Callable[[Path], None]) -> None:
    """`write_atomic` for content that `write` puts, piece by piece, into the new file whose name it is given."""
    if path.is_dir():
        raise UserError(f"{path} is a folder: give the name of a file")
    beside = path.with_name(f".{path.name}.partial")
    try:
        beside.unlink(missing_ok=True)  # a crash left it, or somebody else's link to write through
        write(beside)
        with open(beside, "rb") as file:
            os.fsync(file.fileno())
        os.replace(beside, path)
        sync_folder(path.parent)
    except OSError as error:
        raise UserError(
            f"cannot write {path}: {error.strerror or error}; what was there before is unchanged"
        ) from error
    finally:
        with suppress(OSError):
            beside.unlink(missing_ok=True)


def sync_folder(folder: Path) -> None:
    """Make renames and removals in `folder` survive a power cut. Raises UserError if that cannot be."""
    with changing(folder):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


@contextmanager
def changing(folder: Path) -> Iterator[None]:
    """Let what the system refuses inside, where files of `folder` are made or removed, be a UserError."""
    try:
        yield
    except OSError as error:
        raise UserError(f"cannot write to the folder {folder}: {error.strerror or error}") from error
