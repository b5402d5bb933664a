"""A data set in memory."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Dataset:
    """Images, train and test: tensors in memory, or mapped from the disk and read as they are indexed.

    `train_x`, `test_x`: (n, channels, height, width), float32 or float64 within `bounds` or uint8 in 0..255;
    `train_y`, `test_y`: (n,) int64 class numbers; `classes`: their names; `mean`, `std`: what models normalise by, a
    number a channel, in [0, 1] units.
    `train_at`: gives all training images as mapped squares of a size, for resolution stages; None if they have but one.
    `bounds`: the least and the greatest value of a pixel, which attacks keep to: (0, 1) for images, ±∞ without limit.
    """

    train_x: Tensor
    train_y: Tensor
    test_x: Tensor
    test_y: Tensor
    classes: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    train_at: Callable[[int], Tensor] | None = None
    bounds: tuple[float, float] = (0.0, 1.0)

    @property
    def shape(self) -> tuple[int, int, int]:
        """(channels, height, width) of an image."""
        channels, height, width = self.train_x.shape[1:]
        return channels, height, width


def at_least_float32(x: Tensor) -> Tensor:
    """`x` as float32, unless it is in a higher precision."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def to_unit(x: Tensor) -> Tensor:
    """Images as float32 (or float64, if they are), bytes as [0, 1], laid out channels last.

    Convolutions prefer that layout on CPU and GPU alike.
    """
    x = x.float().div_(255) if x.dtype == torch.uint8 else at_least_float32(x)
    return x.contiguous(memory_format=torch.channels_last)
