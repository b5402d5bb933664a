from dataclasses import dataclass

import torch

from co_probe.data.dataset import Dataset
from co_probe.methods.fgsm import FGSM


def stripes(*, size: int = 8, count: int = 64) -> Dataset:
    """Horizontal and vertical stripes."""
    rows = (torch.arange(size) % 2).float().repeat(size, 1)
    x = torch.stack([rows, rows.T])[torch.arange(count) % 2, None]
    y = torch.arange(count) % 2
    return Dataset(x, y, x, y, ("vertical", "horizontal"), (0.5,), (0.5,))


@dataclass(eq=False)
class HalfFGSM(FGSM):
    """FGSM of half the size."""

    def perturb(self, *args, **kwargs):
        return super().perturb(*args, **kwargs) / 2
