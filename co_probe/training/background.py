"""Writing an epoch to the disk while the next one trains."""

import time
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import torch

from co_probe.store import RunWriter
from co_probe.training.state import copying_stream


class Commits:
    """Commits epochs through `writer` in a thread, one at a time, for the length of a `with` (which waits for it).

    `paused`: for how many seconds the caller of the training loop held it up since the last commit was begun; `stream`:
    for the snapshots that are committed.
    """

    def __init__(self, writer: RunWriter, device: torch.device):
        self.writer, self.paused = writer, 0.0
        self._thread = ThreadPoolExecutor(1, "writing an epoch")
        self._devices = [device] if device.type == "cuda" else []
        self.stream = copying_stream(device)
        self._under_way: tuple[dict[str, float], Future[None]] | None = None

    def __enter__(self) -> "Commits":
        return self

    def __exit__(self, *_: object) -> None:
        # An error of its own that nobody has asked for yet gives way to the one that ends training.
        self._thread.shutdown()

    def begin(self, metrics: dict[str, float], checkpoint: Mapping[str, Any], resume: Mapping[str, Any] | None) -> None:
        """Begin to write the epoch `metrics["epoch"]`; what is given must not change any more.

        The epoch before must be finished: its `done(wait=True)` taken to the end.
        """
        assert self._under_way is None
        future = self._thread.submit(self.writer.commit, int(metrics["epoch"]), checkpoint, resume)
        self._under_way, self.paused = (metrics, future), 0.0

    def done(self, wait: bool = False) -> Iterator[dict[str, float]]:
        """The metrics of the epoch that was begun, once, if it is safely on the disk by now (or by then, if `wait`).

        Raises UserError if it could not be written. What the caller draws at random meanwhile leaves no trace.
        """
        if self._under_way and (wait or self._under_way[1].done()):
            (metrics, future), self._under_way = self._under_way, None
            future.result()
            started = time.perf_counter()
            with torch.random.fork_rng(self._devices):
                yield metrics
            self.paused += time.perf_counter() - started
