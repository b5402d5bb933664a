"""The first layer of every model."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from typing_extensions import override


class Normalize(nn.Module):
    """(x − mean) / std per channel, so that ε outside the model always refers to pixels in [0, 1]."""

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Sequence[float], std: Sequence[float]):
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean).view(1, -1, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(1, -1, 1, 1))

    @override
    def forward(self, x: Tensor) -> Tensor:
        return (x - self.mean) / self.std
