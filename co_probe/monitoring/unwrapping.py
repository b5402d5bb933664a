"""Unwrapping of networks, and a module for measurements."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from typing_extensions import override

from co_probe.models.foreign import logits_of
from co_probe.models.normalize import Normalize


def unwrapped(model: nn.Module) -> nn.Module:
    """Return the network inside `DataParallel`, `DistributedDataParallel` or a compiled module."""
    while True:
        if isinstance(model, nn.DataParallel | nn.parallel.DistributedDataParallel):
            model = model.module
        elif isinstance(inner := getattr(model, "_orig_mod", None), nn.Module):
            model = inner
        else:
            return model


class MeasuredModel(nn.Module):
    """A network for measurements: from images within the bounds to float32 logits (B, classes).

    Args:
        network: Network of the training loop, which is not changed.
        mean: Mean that images are normalised by before the network, one value per channel, or None.
        std: Standard deviation, with `mean`.

    Attributes:
        classes: Number of classes, known after the first pass; 0 before.
    """

    def __init__(self, network: nn.Module, mean: Sequence[float] | None = None, std: Sequence[float] | None = None):
        super().__init__()
        self.network = network
        self.normalize = nn.Identity() if mean is None or std is None else Normalize(mean, std)
        weight = next((p for p in network.parameters() if p.is_floating_point()), torch.empty(0))
        self.to(weight.device)
        self.dtype, self.classes = weight.dtype, 0

    @override
    def forward(self, x: Tensor) -> Tensor:
        logits = logits_of(self.network(self.normalize(x).to(self.dtype)))
        self.classes = logits.shape[1]
        return logits.to(torch.promote_types(logits.dtype, torch.float32))
