"""The processes that train one run together: each has a part of every batch, and all have the same weights."""

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

TIMEOUT = timedelta(hours=2)  # of waiting for the others, which may be reading images or writing state
VARIABLES = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")  # as torchrun sets them


class Left(CoProbeError):
    """Another process of the run has ended, which says itself why."""


@dataclass(frozen=True)
class Group:
    """The processes of a run, seen from one of them. Alone, it changes nothing.

    Attributes:
        rank: Number of this process, from 0; 0 writes the run.
        size: Number of processes.
        device: Where this process trains.
    """

    rank: int = 0
    size: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    @property
    def salt(self) -> tuple[int, ...]:
        """What this process adds to seeds, so that it draws other numbers than the others: nothing in the first."""
        return (self.rank,) if self.rank else ()

    @torch.no_grad()
    def average(self, tensors: Sequence[Tensor], weight: float = 1.0) -> Tensor:
        """Replace tensors by their means over all processes, in one message.

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
        """Give all processes the weights and buffers of the first one, whatever machines they are on."""
        for tensor in model.state_dict().values() if self.size > 1 else ():
            with _others():
                dist.broadcast(tensor, 0)

    def require_equal(self, epoch: int, weights: Mapping[str, Tensor], learned: Mapping[str, Any]) -> None:
        """Compare what all processes have in common, by a hash.

        Args:
            epoch: Its number, for the error.
            weights: State dict of the network.
            learned: `Method.parameters()`.

        Raises:
            CoProbeError: They are not the same.
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
                    f"epoch {epoch}: the {what} are no longer the same in all processes. What a method learns must "
                    "come from Method.to_average; machines that differ round differently"
                )

    def wait(self) -> None:
        """Wait until all processes are here."""
        self._reduce(self._scalar(0.0))

    @contextmanager
    def first_leads(self) -> Iterator[None]:
        """Let the first process finish the `with` before the others begin it."""
        if self.rank:
            self.wait()
        yield
        if not self.rank:
            self.wait()

    @contextmanager
    def first_follows(self) -> Iterator[None]:
        """Let all other processes finish the `with` before the first one begins it."""
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
    """(number of this process, number of processes) as torchrun set them; (0, 1) if it did not start this one."""
    if not all(name in os.environ for name in VARIABLES):
        return 0, 1
    return int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])


def join(device: torch.device) -> Group:
    """Join the processes that torchrun started with this one, if it did.

    Args:
        device: Where this process trains; of `cuda` without a number, the GPU of its number on this machine.

    Returns:
        The group, or one of this process alone.

    Raises:
        Left: The others do not answer.
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
    """Let what torch raises when another process is gone be a `Left`."""
    try:
        yield
    except RuntimeError as error:  # torch.distributed.DistError is one
        raise Left("another process of the run has ended, or does not answer: it may say why itself") from error


def _leave() -> None:
    if dist.is_initialized():
        dist.destroy_process_group()
