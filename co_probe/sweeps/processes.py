"""Several runs at a time, each in a process of its own that ends with this one."""

import ctypes
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import BrokenExecutor, CancelledError, Future, ThreadPoolExecutor
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from typing import Any

from co_probe.config import Config
from co_probe.config.plugins import allow
from co_probe.errors import CoProbeError

PR_SET_PDEATHSIG = 1  # from <sys/prctl.h>


def run_cell(
    settings: Mapping[str, Any],
    out: str,
    device: str = "auto",
    threads: int | None = None,
    compile: bool = False,
    allowed: Iterable[str] = (),
) -> str:
    """Train one run to its end, or go on with it. Any engine (a process pool, a cluster) can call it.

    Args:
        settings: The settings of the run as plain data.
        out: Its folder.
        device: `auto`, `cpu`, `cuda`, `cuda:1`.
        threads: Threads to compute with at most; torch's number if None.
        compile: Run training steps through torch.compile.
        allowed: Names of the user's own code that the settings may have.

    Returns:
        The folder.
    """
    import torch

    from co_probe.training.loop import epochs

    allow(*allowed)
    if threads:
        torch.set_num_threads(min(threads, torch.get_num_threads()))  # fewer if OMP_NUM_THREADS says so
    for _ in epochs(Config.from_dict(settings), out, resume=True, device=device, compile=compile):
        pass
    return out


class Processes:
    """Runs functions in processes of this machine, a fresh process for each: a killed one takes no other along.

    Args:
        jobs: Number of processes at a time.
    """

    def __init__(self, jobs: int):
        self.jobs = jobs
        self._threads = ThreadPoolExecutor(jobs, "sweep")
        self._running: set[SpawnProcess] = set()
        self._lock = threading.Lock()  # over the set, and whether processes may still start
        self._open = True

    def submit(self, function: Callable[..., Any], /, *arguments: Any) -> Future[Any]:
        """Run `function(*arguments)` in a process of its own when one of the `jobs` is free."""
        return self._threads.submit(self._in_own_process, function, arguments)

    def shutdown(self) -> None:
        """Cancel what has not begun, end the processes that run, and wait until they are gone."""
        with self._lock:
            self._open = False
            for process in self._running:
                process.terminate()
        # Not `cancel_futures=True`: who waits for a future that it cancels (`concurrent.futures.wait`) waits for ever.
        self._threads.shutdown()

    def _in_own_process(self, function: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
        context = multiprocessing.get_context("spawn")  # a fork would inherit torch's threads in an unknown state
        receiving, sending = context.Pipe(duplex=False)
        process = context.Process(target=_call, args=(sending, os.getpid(), function, arguments))
        with self._lock:
            if not self._open:
                raise CancelledError
            process.start()
            self._running.add(process)
        sending.close()  # the end of this process: reading fails when that of the other one is gone
        try:
            succeeded, result = receiving.recv()
        except EOFError:
            raise BrokenExecutor("the process ended without a result") from None
        finally:
            receiving.close()
            process.join()
            with self._lock:
                self._running.discard(process)
        if not succeeded:
            raise result
        return result


def _call(sending: Connection, parent: int, function: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    """Send back (True, the result) or (False, the exception) of `function(*arguments)`."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all processes of a terminal; the parent decides
    end_with(parent)
    try:
        answer = (True, function(*arguments))
    except Exception as error:  # of any kind: the parent reports it
        answer = (False, error if isinstance(error, CoProbeError) else CoProbeError(f"{type(error).__name__}: {error}"))
    sending.send(answer)


def end_with(parent: int) -> None:
    """Let this process end when its parent does, however that ends: nothing may train on without anybody waiting.

    Args:
        parent: Process id of the parent.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    threading.Thread(target=_watch, args=(parent,), daemon=True, name="watch parent").start()


def _watch(parent: int) -> None:
    """End this process when its parent is gone: elsewhere than on Linux, or if it went before `end_with` was called."""
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)
