"""Functions that processes of a sweep call in tests; a module of its own, which other interpreters can import."""

import os
import signal
import time
from concurrent.futures import Future
from pathlib import Path

from co_probe.errors import NotAllowed


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def refuse() -> None:
    raise NotAllowed("model", "mine:Net")


def sleep(path: str) -> None:
    """Say which process this is, and wait."""
    Path(path + ".new").write_text(str(os.getpid()))
    os.replace(path + ".new", path)
    time.sleep(1000)


def visible_gpu(seconds: float = 0.0) -> str | None:
    time.sleep(seconds)
    return os.environ.get("CUDA_VISIBLE_DEVICES")


def wait(path: str) -> None:
    Path(path).touch()
    time.sleep(1000)


class Here:
    """An executor that runs cells in this process, as an engine of one worker would: no interpreter has to start."""

    def submit(self, function, /, *arguments) -> Future:
        future: Future = Future()
        try:
            future.set_result(function(*arguments))
        except Exception as error:
            future.set_exception(error)
        return future
