"""Where data lies on this machine, and how processes keep out of each other's way there."""

import fcntl
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from co_probe.errors import UserError

VARIABLE = "CO_PROBE_DATA"


def data_dir() -> Path:
    """The folder of downloads and caches: that of the environment variable CO_PROBE_DATA, or ~/.cache/co-probe."""
    return Path(os.environ.get(VARIABLE) or "~/.cache/co-probe").expanduser()


def make_folder(path: Path) -> Path:
    """`path`, made if need be. Raises UserError if it cannot be."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot make the folder {path}: {error.strerror}; {VARIABLE} names another one") from error
    return path


@contextmanager
def exclusive_lock(path: Path, what: str) -> Iterator[None]:
    """Inside, no other process of this machine is inside with the same `path`; waits for one that is.

    The kernel holds the lock, so it ends with its process; the lock file itself stays. Raises UserError if `path`
    cannot be written.
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
        except OSError:  # a file system without locks: files are replaced whole, so the worst is work done twice
            pass
        yield
