"""A first layer that lets low frequencies through, so that training and attacks see it."""

import torch
from torch import Tensor, nn
from typing_extensions import override

from co_probe.numerics.dct import dct_matrix


class LowPass(nn.Module):
    """`network` behind a filter that keeps the `width`×`width` lowest frequencies of an image's cosine transform.

    Takes and returns what the network does; it has no weights of its own. As the constant is kept, it makes no
    difference whether images are normalised before or after it.
    Source: arXiv 2206.08242, whose code filters normalised images.
    """

    def __init__(self, network: nn.Module, width: int):
        super().__init__()
        self.network = network
        self.width = width
        self._kept: dict[tuple[int, torch.device, torch.dtype], Tensor] = {}

    @override
    def forward(self, x: Tensor) -> Tensor:
        rows, columns = (self._filter(size, x) for size in x.shape[-2:])
        return self.network((rows @ x @ columns).contiguous(memory_format=torch.channels_last))

    def _filter(self, size: int, like: Tensor) -> Tensor:
        """The projection on the lowest frequencies of `size` pixels in line, made once for each kind of tensor."""
        key = (size, like.device, like.dtype)
        if key not in self._kept:
            lowest = dct_matrix(size)[: self.width]
            self._kept[key] = (lowest.T @ lowest).to(like)
        return self._kept[key]
