"""Executors for the tasks of a command: local processes or a Ray cluster."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

from co_probe.executor import Executor
from co_probe.runs.build import pick_device
from co_probe.sweeps.processes import Processes, cores


def local(tasks: int, jobs: int | None = None, device: str = "auto") -> Processes:
    """Return an executor of processes on this machine.

    Args:
        tasks: Number of tasks.
        jobs: Number of concurrent processes. If None, one per GPU, or one per core without a GPU.
        device: With `auto` or `cuda` the processes are distributed over all GPUs; with `cuda:1` all use that one.

    Raises:
        UserError: If the device does not exist.
    """
    gpus = visible_gpus() if device in ("auto", "cuda") else []
    if not gpus and device != "auto" and pick_device(device).type == "cuda":
        jobs = jobs or 1
    return Processes(max(1, min(jobs or len(gpus) or cores(), tasks)), gpus)


def visible_gpus() -> list[str]:
    """Return the GPUs that this process may use, by their names in CUDA_VISIBLE_DEVICES."""
    import torch

    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    return (named.split(",") if named else [str(number) for number in range(count)])[:count]


@contextmanager
def engine(
    name: str,
    tasks: int,
    *,
    jobs: int | None = None,
    device: str = "auto",
    address: str | None = None,
    cpus: float = 1,
    gpus: float | None = None,
) -> Iterator[Executor]:
    """Yield an executor by its name. Tasks that still run at the end of the `with` statement are ended.

    Args:
        name: `local` or `ray`.
        tasks: Number of tasks.
        jobs: As in `local`.
        device: As in `local`. With `ray` and `cpu`, tasks request no GPU.
        address: Address of the cluster, as in `RayCluster`.
        cpus: Cores per task, as in `RayCluster`.
        gpus: GPUs per task, as in `RayCluster`.

    Raises:
        UserError: If the executor cannot be used.
    """
    if name == "ray":
        from co_probe.sweeps.ray_cluster import RayCluster

        with RayCluster(address, cpus=cpus, gpus=0 if device == "cpu" and gpus is None else gpus) as cluster:
            yield cluster
        return
    processes = local(tasks, jobs, device)
    try:
        yield processes
    finally:
        processes.shutdown()
