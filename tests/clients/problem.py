"""Scanned digits, a small residual network, and the settings that the clients train with."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from co_probe.data.digits import digits
from co_probe.models import MODELS

MEAN, STD = 0.305, 0.376
BATCH, EPOCHS, WARMUP = 32, 16, 5


@dataclass(frozen=True)
class Setting:
    """FGSM at a large ε collapses, at a small one it does not; the loop ends at the alarm, or goes on."""

    epsilon: float
    epochs: int
    peak: float = 0.3  # the greatest learning rate
    stop: bool = True


COLLAPSING, HEALTHY = Setting(0.15, 14, stop=False), Setting(0.05, 5)


def data() -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Training images and classes, and 100 test images and theirs."""
    found = digits()
    return (found.train_x, found.train_y), (found.test_x[:100], found.test_y[:100])


def network() -> nn.Module:
    """A residual network on images that are normalised already."""
    torch.manual_seed(0)
    return MODELS.make("preact_resnet", 1, 10, [0.0], [1.0], width=8, blocks=[1, 1, 1])


def batches(x: Tensor, y: Tensor, epoch: int) -> list[tuple[Tensor, Tensor]]:
    """An epoch of batches, moved by up to a pixel."""
    rng = torch.Generator().manual_seed(epoch)
    padded, made = nn.functional.pad(x, (1, 1, 1, 1)), []
    for index in torch.randperm(len(x), generator=rng).split(BATCH):
        down, right = torch.randint(3, (2,), generator=rng).tolist()
        made.append((padded[index, :, down : down + x.shape[2], right : right + x.shape[3]], y[index]))
    return made


def rate(progress: float, peak: float) -> float:
    """Learning rate at a share of the run, triangular."""
    return peak * min(progress, 1 - progress) * 2
