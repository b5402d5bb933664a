"""Several runs at a time, each in a process of its own that ends with this one."""

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
    """Runs functions in processes of this machine, a fresh process for each: a killed one takes no other along.

    Args:
        jobs: Number of processes at a time; each computes with its share of the cores.
        gpus: GPUs to deal out, as CUDA_VISIBLE_DEVICES names them: each process sees one of them, the first one free.
            With more jobs than GPUs, several processes share one. Empty: processes see what this one sees.
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
        gpu, threads = self._gpus.get(), max(1, cores() // self.jobs)
        process = context.Process(target=_call, args=(sending, os.getpid(), gpu, threads, function, arguments))
        try:
            with self._lock:
                if not self._open:
                    raise CancelledError
                process.start()
                self._running.add(process)
            sending.close()  # the end of this process: reading fails when that of the other one is gone
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
    """Send back the answer of `function(*arguments)`."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all processes of a terminal; the parent decides
    end_with(parent)
    os.environ.setdefault("OMP_NUM_THREADS", str(threads))  # read when torch is imported, and by then it may be
    if "torch" in sys.modules:
        torch = sys.modules["torch"]
        torch.set_num_threads(min(threads, torch.get_num_threads()))
    if gpu is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = gpu  # read when CUDA is first used
    sending.send(answer(function, arguments))


def cores() -> int:
    """The number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


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
