"""Folder of downloads and caches, and locks between processes that use it."""

import fcntl
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from co_probe.errors import UserError

VARIABLE = "CO_PROBE_DATA"


def data_dir() -> Path:
    """Return the folder of downloads and caches: environment variable CO_PROBE_DATA, or ~/.cache/co-probe."""
    return Path(os.environ.get(VARIABLE) or "~/.cache/co-probe").expanduser()


def make_folder(path: Path) -> Path:
    """Create `path` if needed and return it. Raises UserError if that fails."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot make the folder {path}: {error.strerror}; {VARIABLE} names another one") from error
    return path


@contextmanager
def exclusive_lock(path: Path, what: str) -> Iterator[None]:
    """Hold an exclusive lock on `path` among the processes of this machine inside the context; wait for it.

    The kernel releases the lock when its process ends; the lock file remains. Raises UserError if `path` cannot be
    written.
    """
    try:
        file = open(path, "a")  # noqa: SIM115 (closed below)
    except OSError as error:
        raise UserError(f"cannot write to {path.parent}: {error.strerror}; {VARIABLE} names another folder") from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print(f"Waiting for another process, which is {what} ...", file=sys.stderr, flush=True)
            fcntl.flock(file, fcntl.LOCK_EX)
        except OSError:  # a file system without locks: files are replaced atomically, so at worst work is repeated
            pass
        yield
