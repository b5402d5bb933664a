"""Executor of concurrent processes, one per task, that end with their parent."""

import ctypes
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import BrokenExecutor, CancelledError, Future, ThreadPoolExecutor
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from queue import SimpleQueue
from typing import Any

from co_probe.executor import answer

PR_SET_PDEATHSIG = 1  # from <sys/prctl.h>


class Processes:
    """Runs each function in a new process of this machine, so that a killed process affects no other task.

    Args:
        jobs: Number of concurrent processes, which share the cores equally.
        gpus: GPUs to distribute, by their names in CUDA_VISIBLE_DEVICES: each process sees one of them. With more jobs
            than GPUs, several processes share one. If empty, processes see the same GPUs as this one.
    """

    def __init__(self, jobs: int, gpus: Sequence[str] = ()):
        self.jobs = jobs
        self._threads = ThreadPoolExecutor(jobs, "sweep")
        self._gpus = SimpleQueue[str | None]()
        for job in range(jobs):
            self._gpus.put(gpus[job % len(gpus)] if gpus else None)
        self._running: set[SpawnProcess] = set()
        self._lock = threading.Lock()  # over the set, and whether processes may still start
        self._open = True

    def submit(self, function: Callable[..., Any], /, *arguments: Any) -> Future[Any]:
        """Run `function(*arguments)` in a new process as soon as fewer than `jobs` are running."""
        return self._threads.submit(self._in_own_process, function, arguments)

    def shutdown(self) -> None:
        """Cancel waiting tasks, terminate running processes, and wait for their end."""
        with self._lock:
            self._open = False
            for process in self._running:
                process.terminate()
        # Not `cancel_futures=True`: `concurrent.futures.wait` would wait for ever for a future cancelled like that.
        self._threads.shutdown()

    def _in_own_process(self, function: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
        context = multiprocessing.get_context("spawn")  # a fork would inherit threads of torch in an unknown state
        receiving, sending = context.Pipe(duplex=False)
        gpu, threads = self._gpus.get(), max(1, cores() // self.jobs)
        process = context.Process(target=_call, args=(sending, os.getpid(), gpu, threads, function, arguments))
        try:
            with self._lock:
                if not self._open:
                    raise CancelledError
                process.start()
                self._running.add(process)
            sending.close()  # so that reading fails when the other process has ended
            succeeded, result = receiving.recv()
        except EOFError:
            raise BrokenExecutor("its process was killed (out of memory?)") from None
        finally:
            receiving.close()
            if process.pid:
                process.join()
            with self._lock:
                self._running.discard(process)
            self._gpus.put(gpu)
        if not succeeded:
            raise result
        return result


def _call(
    sending: Connection,
    parent: int,
    gpu: str | None,
    threads: int,
    function: Callable[..., Any],
    arguments: tuple[Any, ...],
) -> None:
    """Send the answer of `function(*arguments)` to the parent."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all processes of a terminal; the parent handles it
    end_with(parent)
    os.environ.setdefault("OMP_NUM_THREADS", str(threads))  # read at the import of torch
    if "torch" in sys.modules:
        torch = sys.modules["torch"]
        torch.set_num_threads(min(threads, torch.get_num_threads()))
    if gpu is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = gpu  # read when CUDA is first used
    sending.send(answer(function, arguments))


def cores() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def end_with(parent: int) -> None:
    """End this process when its parent ends for any reason, so that no training goes on without a reader.

    Args:
        parent: Process id of the parent.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    threading.Thread(target=_watch, args=(parent,), daemon=True, name="watch parent").start()


def _watch(parent: int) -> None:
    """End this process when its parent is gone: on other systems, or if it ended before `end_with` was called."""
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)
