"""What a call computes: its floating-point operations, and its convolutions, to be repeated alone."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

CONVOLUTIONS = (torch.ops.aten.convolution, torch.ops.aten.convolution_backward)


@dataclass
class Work:
    """`flops`: floating-point operations of the call in convolutions and matrix products, by PyTorch's own formulas.

    `convolutions`: what it convolved, forwards and backwards, in order: the operation, and its arguments with a
    `Layout` in place of each tensor.
    """

    flops: int = 0
    convolutions: list[tuple[Any, tuple[Any, ...]]] = field(default_factory=list)

    @property
    def dtype(self) -> torch.dtype:
        """What the convolutions were computed in; float32 if there was none."""
        layouts = (arg for _, args in self.convolutions for arg in args if isinstance(arg, Layout))
        return next((layout.dtype for layout in layouts), torch.float32)

    def alone(self) -> Callable[[], None]:
        """A function that does the same convolutions again, on random numbers, and nothing else."""
        tensors: dict[Layout, Tensor] = {}
        for _, args in self.convolutions:
            for arg in args:
                if isinstance(arg, Layout) and arg not in tensors:
                    tensors[arg] = arg.filled()
        calls = [
            (operation, [tensors[arg] if isinstance(arg, Layout) else arg for arg in args])
            for operation, args in self.convolutions
        ]

        @torch.no_grad()
        def convolve() -> None:
            for operation, args in calls:
                operation(*args)

        return convolve


@dataclass(frozen=True)
class Layout:
    """All of a tensor but its numbers."""

    shape: tuple[int, ...]
    strides: tuple[int, ...]
    dtype: torch.dtype
    device: torch.device

    @classmethod
    def of(cls, tensor: Tensor) -> "Layout":
        return cls(tuple(tensor.shape), tensor.stride(), tensor.dtype, tensor.device)

    def filled(self) -> Tensor:
        """Such a tensor of random numbers."""
        return torch.empty_strided(self.shape, self.strides, dtype=self.dtype, device=self.device).normal_()


class _Recorder(TorchDispatchMode):
    """Sees every operation, those of the backward pass too. (PyTorch's FlopCounterMode cannot see `autograd.grad`.)"""

    def __init__(self) -> None:
        super().__init__()
        self.work = Work()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if formula := flop_registry.get(func._overloadpacket):
            self.work.flops += formula(*args, **(kwargs or {}), out_val=out)
        if func._overloadpacket in CONVOLUTIONS:
            layouts = tuple(Layout.of(arg) if isinstance(arg, Tensor) else arg for arg in args)
            self.work.convolutions.append((func, layouts))
        return out


def work(act: Callable[[], Any]) -> Work:
    """What a call computes."""
    with _Recorder() as recorder:
        act()
    return recorder.work
