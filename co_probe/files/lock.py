"""Lock files that admit one writer at a time."""

import fcntl
import json
import os
import socket
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from co_probe.errors import UserError, one_line

BEAT, STALE = 10.0, 120.0  # seconds between touches of the file by its holder; age at which the holder counts as dead


class Lock:
    """A lock file that names the process and host of its holder; a context manager.

    On one machine the kernel's file lock decides: a dead process cannot hold it, so a stale file is taken over. A lock
    of another machine is respected until its holder has not touched the file for two minutes. The clocks of the
    machines must agree.

    Raises:
        UserError: When entered, if another process still holds the lock after `patience` seconds.
    """

    def __init__(self, path: Path, what: str, patience: float = 0.0):
        self.path, self.what, self.patience = path, what, patience
        self._released = threading.Event()
        self._beating: threading.Thread | None = None

    def __enter__(self) -> "Lock":
        end = time.monotonic() + self.patience
        while True:
            try:
                self.handle = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
            except OSError as error:
                raise UserError(f"cannot write to {self.path.parent}: {error.strerror}") from error
            try:
                self._claim()
            except UserError:
                os.close(self.handle)
                if time.monotonic() >= end:
                    raise
                time.sleep(0.02)
                continue
            # The last holder may have removed the file between opening and locking it: try again.
            if self._is_current():
                break
            os.close(self.handle)
        try:
            os.ftruncate(self.handle, 0)
            about = {"pid": os.getpid(), "host": socket.gethostname(), "beats": True}
            os.pwrite(self.handle, json.dumps(about).encode(), 0)
        except OSError as error:
            self.__exit__()
            raise UserError(f"cannot write to {self.path.parent}: {error.strerror}") from error
        self._beating = threading.Thread(target=self._beat, daemon=True, name="holding a lock")
        self._beating.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._released.set()
        if self._beating:
            self._beating.join()  # before the handle may become another file's
        with suppress(OSError):  # a remaining file is harmless: the kernel's lock decides
            self.path.unlink(missing_ok=True)
        os.close(self.handle)

    def _claim(self) -> None:
        try:
            fcntl.flock(self.handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            held = False
        except BlockingIOError:
            held = True
        except OSError:  # a file system without locks
            held = _alive(self._owner().get("pid"))
        owner = self._owner()
        elsewhere = owner.get("host", socket.gethostname()) != socket.gethostname()
        if held or (elsewhere and not self._is_stale(owner)):
            who = one_line(f"process {owner.get('pid', '?')} on {owner.get('host', '?')}")
            raise UserError(f"{self.what} is being written by {who}; if that has ended, delete {self.path}")

    def _beat(self) -> None:
        """Touch the file until it is released."""
        while not self._released.wait(BEAT):
            with suppress(OSError):
                os.utime(self.handle)

    def _is_stale(self, owner: dict[str, Any]) -> bool:
        """Return whether the holder has not touched the file for too long to be alive."""
        return owner.get("beats") is True and time.time() - os.fstat(self.handle).st_mtime > STALE

    def _owner(self) -> dict[str, Any]:
        """Read the holder's process and host from the file; empty if another program wrote it."""
        try:
            owner = json.loads(os.pread(self.handle, 1000, 0))
            fits = type(owner["pid"]) is int and 0 < owner["pid"] < 2**31 and isinstance(owner["host"], str)
        except (OSError, ValueError, TypeError, LookupError, RecursionError):
            return {}
        return owner if fits else {}

    def _is_current(self) -> bool:
        try:
            return os.path.samestat(os.stat(self.path), os.fstat(self.handle))
        except FileNotFoundError:
            return False


def _alive(pid: int | None) -> bool:
    if pid is None:
        return False
    try:
        os.kill(pid, 0)
    except PermissionError:
        return True
    except ProcessLookupError:
        return False
    return True
