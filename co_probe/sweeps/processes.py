"""Several runs at a time, each in a process of its own."""

import multiprocessing
import os
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, ThreadPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

from co_probe.config import Config
from co_probe.errors import CoProbeError
from co_probe.store.stored_run import EPOCH_FILE

POLL = 0.5  # seconds at most between two looks at the disk


def run_cell(
    settings: Mapping[str, Any], out: str, device: str = "auto", threads: int | None = None, compile: bool = False
) -> str:
    """Train one run to its end: plain settings in, the run's folder out; goes on with what is there.

    It needs nothing of this process, so that any engine (a process pool, a cluster) can call it.
    """
    import torch

    from co_probe.training.loop import epochs

    if threads:
        torch.set_num_threads(min(threads, torch.get_num_threads()))  # fewer if OMP_NUM_THREADS says so
    for _ in epochs(Config.from_dict(settings), out, resume=True, device=device, compile=compile):
        pass
    return out


def run_all(
    cells: Mapping[Path, Config],
    *,
    jobs: int | None = None,
    device: str = "auto",
    compile: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Iterator[tuple[Path, CoProbeError | None]]:
    """Train every cell {folder: settings}, `jobs` at a time (one a core, if not given); cores are shared out evenly.

    Yields each folder as it ends, with its error or None; a failed cell does not stop the others. `progress` is called
    with (epochs finished, epochs planned), counted on disk.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    jobs = min(jobs or cores, len(cells))
    planned = sum(map(_planned, cells.values()))
    with ThreadPoolExecutor(jobs) as threads:
        waiting: dict[Future[str], Path] = {
            threads.submit(_in_own_process, config.to_dict(), str(out), device, max(1, cores // jobs), compile): out
            for out, config in cells.items()
        }
        try:
            while waiting:
                ended, _ = wait(waiting, timeout=POLL, return_when=FIRST_COMPLETED)
                if progress:
                    progress(sum(map(_finished, cells)), planned)
                for future in ended:
                    yield waiting.pop(future), _error(future)
        finally:
            threads.shutdown(wait=False, cancel_futures=True)
            while not all(future.done() for future in waiting):
                # We are being interrupted: stop what still trains, its finished epochs are safe.
                for process in multiprocessing.active_children():
                    process.terminate()
                time.sleep(POLL)


def _in_own_process(*arguments: Any) -> str:
    """`run_cell` in a process that no other cell shares: if it is killed (for memory, say), no other dies."""
    context = multiprocessing.get_context("spawn")  # a fork would inherit torch's threads in an unknown state
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        return pool.submit(run_cell, *arguments).result()


def _planned(config: Config) -> int:
    """How many epochs a cell will have; one with settings that cannot be used fails when its turn comes, not here."""
    from co_probe.runs.build import kept_epochs

    try:
        return kept_epochs(config)
    except CoProbeError:
        return config.epochs


def _finished(out: Path) -> int:
    return sum(1 for p in out.glob("epoch-*.h5") if EPOCH_FILE.fullmatch(p.name))


def _error(future: Future[str]) -> CoProbeError | None:
    error = future.exception()
    if error is None or isinstance(error, CoProbeError):
        return error
    if isinstance(error, BrokenProcessPool):
        return CoProbeError("its process was killed (out of memory?)")
    return CoProbeError(f"{type(error).__name__}: {error}")
