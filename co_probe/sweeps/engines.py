"""What runs the tasks of a command: processes of this machine, or a Ray cluster."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

from co_probe.executor import Executor
from co_probe.runs.build import pick_device
from co_probe.sweeps.processes import Processes, cores


def local(tasks: int, jobs: int | None = None, device: str = "auto") -> Processes:
    """Processes of this machine.

    Args:
        tasks: Number of tasks there are.
        jobs: Number of processes at a time; if None, one for each GPU, or else for each core.
        device: With `auto` or `cuda` every process has a GPU of its own, as long as there are enough; with `cuda:1`
            all have that one.

    Raises:
        UserError: There is no such device.
    """
    gpus = visible_gpus() if device in ("auto", "cuda") else []
    if not gpus and device != "auto" and pick_device(device).type == "cuda":
        jobs = jobs or 1
    return Processes(max(1, min(jobs or len(gpus) or cores(), tasks)), gpus)


def visible_gpus() -> list[str]:
    """The GPUs that this process may use, as CUDA_VISIBLE_DEVICES names them."""
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
    """An engine by its name, for the length of a `with`; what still runs at its end is ended.

    Args:
        name: `local` or `ray`.
        tasks: Number of tasks there are.
        jobs: As in `local`.
        device: As in `local`. With `ray` and `cpu`, tasks take no GPU.
        address: Of the cluster, as in `RayCluster`.
        cpus: Per task, as in `RayCluster`.
        gpus: Per task, as in `RayCluster`.

    Raises:
        UserError: It cannot be used.
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
