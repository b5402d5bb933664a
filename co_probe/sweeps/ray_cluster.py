"""Tasks on a Ray cluster."""

import logging
import os
import socket
from collections.abc import Callable
from concurrent.futures import BrokenExecutor, Future
from typing import Any

from co_probe.errors import UserError, one_line
from co_probe.executor import answer

RETRIES = 5  # of a task whose worker or node died


class RayCluster:
    """Runs functions as tasks of a Ray cluster. Use it in a `with` statement.

    co-probe and the user's own code must be installed on the nodes. A task is restarted if its worker or node dies, but
    not if it raises an error.

    Args:
        address: `auto` or HOST:6379 for the cluster of this machine, `ray://HOST:10001` for a remote one. If None, a
            cluster of this machine alone is started, and shut down at the end of the `with` statement.
        cpus: Cores per task.
        gpus: GPUs per task. A value below 1 is a share: 0.25 puts four tasks on each GPU. If None, 1 if the cluster
            has GPUs, else 0. A task sees only its own GPUs.
        retries: Number of restarts of a task.

    Raises:
        UserError: If Ray is not installed, no cluster answers, or it has too few cores or GPUs for a task.

    Example:
        >>> with RayCluster("auto", gpus=0.25) as executor:
        ...     runs = co_probe.sweep(grid, "/shared/sweep", executor=executor)
    """

    def __init__(
        self, address: str | None = None, *, cpus: float = 1, gpus: float | None = None, retries: int = RETRIES
    ):
        try:
            import ray
        except ImportError as error:
            raise UserError('Ray is missing: pip install "co-probe[ray]"') from error
        self._ray, self._own = ray, not ray.is_initialized()
        self._attempts, self._open = retries + 1, dict[Future[Any], Any]()
        if self._own:
            _require_answer(address)
            try:
                ray.init(address, logging_level=logging.ERROR, log_to_driver=False)
            except (ConnectionError, RuntimeError, ValueError, TimeoutError) as error:
                raise UserError(f"no Ray cluster at {address}: {one_line(error)}") from error
        total = ray.cluster_resources()
        self.gpus = float("GPU" in total) if gpus is None else gpus
        if total.get("CPU", 0) < cpus or total.get("GPU", 0) < self.gpus:
            has = f"{total.get('CPU', 0):g} cores and {total.get('GPU', 0):g} GPUs"
            self._leave()
            raise UserError(f"a task takes {cpus:g} cores and {self.gpus:g} GPUs, and the cluster has {has}")
        self._task = ray.remote(_answer).options(
            num_cpus=cpus, num_gpus=self.gpus, max_retries=retries, retry_exceptions=False
        )

    def __enter__(self) -> "RayCluster":
        return self

    def __exit__(self, *_: object) -> None:
        for future in [*self._open]:
            future.cancel()
        self._leave()

    def submit(self, function: Callable[..., Any], /, *arguments: Any) -> Future[Any]:
        """Run `function(*arguments)` on a node with free resources. Cancelling the future ends the task."""
        reference = self._task.remote(self.gpus > 0, function, arguments)
        future = _Task(lambda: self._ray.cancel(reference, force=True))
        self._open[future] = reference
        reference.future().add_done_callback(lambda ended: self._settle(future, ended))
        return future

    def _settle(self, future: "_Task", ended: Future[Any]) -> None:
        """Set the outcome of the task on `future`, with error messages that do not mention the internals of Ray."""
        self._open.pop(future, None)
        if future.done():
            return
        if error := ended.exception():
            lost = isinstance(error, self._ray.exceptions.RayError)
            reason = one_line(str(error).strip().partition("\n")[0])
            often = f"its worker or node died {self._attempts} times, at last with: {reason}"
            future.set_exception(BrokenExecutor(often) if lost else error)
            return
        succeeded, result = ended.result()
        if succeeded:
            future.set_result(result)
        else:
            future.set_exception(result)

    def _leave(self) -> None:
        if self._own:
            self._ray.shutdown()


class _Task(Future[Any]):
    """A future whose task can be cancelled while it runs."""

    def __init__(self, end: Callable[[], None]):
        super().__init__()
        self._end = end

    def cancel(self) -> bool:
        """End the task, and wake up the threads that wait for this future."""
        if not super().cancel():
            return False
        self._end()
        self.set_running_or_notify_cancel()
        return True


def _require_answer(address: str | None) -> None:
    """Raise UserError if HOST:PORT does not answer. Ray itself would wait for minutes."""
    host, colon, port = (address or "").removeprefix("ray://").rpartition(":")
    if not (colon and port.isdecimal()):
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()
    except (OSError, OverflowError) as error:
        raise UserError(
            f"no Ray cluster answers at {address} ({error}): is it running, and reachable from here?"
        ) from error


def _answer(with_gpu: bool, function: Callable[..., Any], arguments: tuple[Any, ...]) -> tuple[bool, Any]:
    """Run `answer` on a node, without access to GPUs unless the task has requested some."""
    if not with_gpu:
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    return answer(function, arguments)
