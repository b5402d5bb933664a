"""A data set in memory."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Dataset:
    """Training and test images, in memory or memory-mapped from a file.

    Attributes:
        train_x: Training images, (n, channels, height, width), float32 or float64 within `bounds`, or uint8.
        train_y: Training labels, int64 (n,), from 0.
        test_x: Test images, as `train_x`.
        test_y: Test labels, as `train_y`.
        classes: Names of the classes.
        mean: Mean that models normalise by, one value per channel, in units of a [0, 1] image.
        std: Standard deviation, with `mean`.
        train_at: Function from a size to all training images as memory-mapped squares of that size, for resolution
            stages; None if there is only one size.
        bounds: Least and greatest value of a pixel, which attacks respect: (0, 1) for images, ±∞ for no limit.
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
    """Convert `x` to float32, unless it has a higher precision."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def to_unit(x: Tensor) -> Tensor:
    """Convert images to float32 (float64 stays), bytes to [0, 1], in channels-last layout.

    Convolutions are faster in this layout on CPU and GPU.
    """
    x = x.float().div_(255) if x.dtype == torch.uint8 else at_least_float32(x)
    return x.contiguous(memory_format=torch.channels_last)
