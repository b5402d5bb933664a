"""What every data set is once loaded."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Dataset:
    """Images in memory, train and test.

    `train_x`, `test_x`: (n, channels, height, width), float32 in [0, 1] or uint8 in 0..255;
    `train_y`, `test_y`: (n,) int64 class numbers; `classes`: their names; `mean`, `std`: what models normalise by, a
    number a channel, in [0, 1] units.
    """

    train_x: Tensor
    train_y: Tensor
    test_x: Tensor
    test_y: Tensor
    classes: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @property
    def shape(self) -> tuple[int, int, int]:
        """(channels, height, width) of an image."""
        channels, height, width = self.train_x.shape[1:]
        return channels, height, width


def to_unit(x: Tensor) -> Tensor:
    """Images as float32 in [0, 1], laid out channels last (which convolutions prefer on CPU and GPU alike)."""
    x = x.float().div_(255) if x.dtype == torch.uint8 else x.float()
    return x.contiguous(memory_format=torch.channels_last)
