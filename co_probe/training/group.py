"""Processes that train one run together, with a part of every batch each and the same weights."""

import atexit
import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from co_probe.errors import CoProbeError

TIMEOUT = timedelta(hours=2)  # of waiting for other processes, which may be reading images or writing state
VARIABLES = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")  # as torchrun sets them


class ProcessLost(CoProbeError):
    """Another process of the run has ended; it reports the reason."""


@dataclass(frozen=True)
class Group:
    """The processes of a run, from the view of one of them. With one process, methods have no effect.

    Attributes:
        rank: Number of this process, from 0; process 0 writes the run.
        size: Number of processes.
        device: Device of this process.
    """

    rank: int = 0
    size: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    @property
    def salt(self) -> tuple[int, ...]:
        """Numbers to add to seeds, so that processes draw different numbers; empty in the first process."""
        return (self.rank,) if self.rank else ()

    @torch.no_grad()
    def average(self, tensors: Sequence[Tensor], weight: float = 1.0) -> Tensor:
        """Replace tensors by their means over all processes, in one communication.

        Args:
            tensors: Floating-point tensors, of the same shapes in all processes.
            weight: Weight of this process, such as its number of images.

        Returns:
            The sum of the weights, a scalar.
        """
        flat = torch.cat([*(tensor.detach().reshape(-1).to(self.device) for tensor in tensors), self._scalar(1.0)])
        flat *= weight
        self._reduce(flat)
        flat[:-1] /= flat[-1]
        for tensor, mean in zip(tensors, flat[:-1].split([t.numel() for t in tensors]), strict=True):
            tensor.detach().copy_(mean.view(tensor.shape))
        return flat[-1]

    def sum(self, tensor: Tensor) -> None:
        """Replace a tensor by its sum over all processes."""
        self._reduce(tensor)

    def average_statistics(self, *models: nn.Module) -> None:
        """Replace BatchNorm's running statistics by their means over all processes."""
        named = [pair for model in models for pair in model.named_buffers()]
        running = [buffer for name, buffer in named if name.endswith(("running_mean", "running_var"))]
        if self.size > 1 and running:
            self.average(running)

    def start_equal(self, model: nn.Module) -> None:
        """Broadcast the weights and buffers of the first process to all processes."""
        for tensor in model.state_dict().values() if self.size > 1 else ():
            with _others():
                dist.broadcast(tensor, 0)

    def require_equal(self, epoch: int, weights: Mapping[str, Tensor], learned: Mapping[str, Any]) -> None:
        """Compare the shared state of all processes by a hash.

        Args:
            epoch: Number of the epoch, for the error.
            weights: State dict of the network.
            learned: `Method.parameters()`.

        Raises:
            CoProbeError: The states differ.
        """
        if self.size == 1:
            return
        digest = hashlib.sha256()
        for tensor in weights.values():
            digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
        weights_hash, method_hash = digest.digest(), hashlib.sha256(repr(learned).encode()).digest()
        for what, found in (("weights", weights_hash), ("learned parameters of the method", method_hash)):
            number = torch.tensor([int.from_bytes(found[:7])], dtype=torch.int64, device=self.device)
            least, most = number.clone(), number.clone()
            with _others():
                dist.all_reduce(least, dist.ReduceOp.MIN)
                dist.all_reduce(most, dist.ReduceOp.MAX)
            if least != most:
                raise CoProbeError(
                    f"epoch {epoch}: the {what} are no longer the same in all processes. Learned parameters of methods "
                    "must come from Method.to_average; different machines round differently"
                )

    def wait(self) -> None:
        """Wait until all processes have reached this call."""
        self._reduce(self._scalar(0.0))

    @contextmanager
    def first_leads(self) -> Iterator[None]:
        """Run the context in the first process before the others."""
        if self.rank:
            self.wait()
        yield
        if not self.rank:
            self.wait()

    @contextmanager
    def first_follows(self) -> Iterator[None]:
        """Run the context in all other processes before the first one."""
        if not self.rank:
            self.wait()
        yield
        if self.rank:
            self.wait()

    def _scalar(self, value: float) -> Tensor:
        return torch.full((1,), value, device=self.device)

    def _reduce(self, tensor: Tensor) -> None:
        if self.size > 1:
            with _others():
                dist.all_reduce(tensor)


ALONE = Group()


def launched() -> tuple[int, int]:
    """Return (rank, number of processes) as set by torchrun; (0, 1) if torchrun did not start this process."""
    if not all(name in os.environ for name in VARIABLES):
        return 0, 1
    return int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])


def join(device: torch.device) -> Group:
    """Join the processes that torchrun started, if any.

    Args:
        device: Device of this process; `cuda` without a number is the GPU of its local rank.

    Returns:
        The group; of one process if torchrun did not start it.

    Raises:
        ProcessLost: The other processes do not respond.
    """
    if launched()[1] == 1:
        return Group(device=device)
    if device.type == "cuda" and device.index is None:
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)) % torch.cuda.device_count())
    if device.type == "cuda":
        torch.cuda.set_device(device)
    if not dist.is_initialized():
        with _others():
            dist.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=TIMEOUT)
        atexit.register(_leave)
    return Group(dist.get_rank(), dist.get_world_size(), device)


@contextmanager
def _others() -> Iterator[None]:
    """Turn errors of torch about lost processes into `ProcessLost`."""
    try:
        yield
    except RuntimeError as error:  # a base class of torch.distributed.DistError
        raise ProcessLost("another process of the run has ended, or does not answer: it may say why itself") from error


def _leave() -> None:
    if dist.is_initialized():
        dist.destroy_process_group()
