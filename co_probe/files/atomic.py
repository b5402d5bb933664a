"""Atomic writes: at any moment a file has either its old or its new content."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from co_probe.errors import UserError


def write_atomic(path: Path, content: bytes) -> None:
    """Write to a temporary file in the same folder, flush to the device, then rename.

    Raises UserError, with the old file untouched, if the disk is full or the folder cannot be written.
    """

    def write(beside: Path) -> None:
        with open(beside, "xb", buffering=0) as file:
            left = memoryview(content)
            while left:
                left = left[file.write(left) :]

    replace_atomic(path, write)


def replace_atomic(path: Path, write: Callable[[Path], None]) -> None:
    """Replace a file atomically by what `write(path)` writes to a temporary path."""
    if path.is_dir():
        raise UserError(f"{path} is a folder: give the name of a file")
    beside = path.with_name(f".{path.name}.partial")
    try:
        beside.unlink(missing_ok=True)  # left by a crash, or a link that must not be followed
        write(beside)
        with open(beside, "rb") as file:
            os.fsync(file.fileno())
        os.replace(beside, path)
        sync_folder(path.parent)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}; its former content is unchanged") from error
    finally:
        with suppress(OSError):
            beside.unlink(missing_ok=True)


def sync_folder(folder: Path) -> None:
    """Flush renames and removals in `folder` to the device. Raises UserError if that fails."""
    with changing(folder):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


@contextmanager
def changing(folder: Path) -> Iterator[None]:
    """Turn OSError into UserError inside the context, where files of `folder` are created or removed."""
    try:
        yield
    except OSError as error:
        raise UserError(f"cannot write to the folder {folder}: {error.strerror or error}") from error
