"""A low-pass filter as the first layer of a network, which training and attacks differentiate through."""

import torch
from torch import Tensor, nn
from typing_extensions import override

from co_probe.numerics.dct import dct_matrix


class LowPass(nn.Module):
    """A network behind a filter that passes the `width`×`width` lowest frequencies of the image's cosine transform.

    The filter has no weights. It passes the constant frequency, so it commutes with the normalisation of images.

    Args:
        network: Takes the filtered images, in the same shape.
        width: Number of frequencies per axis.

    Reference:
        arXiv 2206.08242, whose code filters normalised images.
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
        """Return the projection on the lowest frequencies of `size` pixels, cached per device and dtype."""
        key = (size, like.device, like.dtype)
        if key not in self._kept:
            lowest = dct_matrix(size)[: self.width]
            self._kept[key] = (lowest.T @ lowest).to(like)
        return self._kept[key]
