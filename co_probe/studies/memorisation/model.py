"""The network of the theory of robust memorisation."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from typing_extensions import override

from co_probe.models.normalize import Normalize


class TwoLayerCNN(nn.Module):
    """f(x) = Σ_r Σ_j ReLU(⟨w_r⁺, x[j]⟩)^q − Σ_r Σ_j ReLU(⟨w_r⁻, x[j]⟩)^q; the second layer is fixed.

    Takes (B, channels, height, width), a patch a pixel, and returns (B, 2) logits: the second sum and the first, whose
    cross-entropy is the logistic loss log(1 + exp(−y·f)) of y = −1 (class 0) or +1 (class 1). Weights are float64
    and inputs are taken as such: what is learned first differs from what is learned last by many orders of magnitude.
    `width`: filters of each sign; `power`: q; `initial_std`: standard deviation of the Gaussian that weights start
    from. `filters`: (2, width, channels), w⁻ and then w⁺.
    Raises ValueError for another number of classes than 2, or a setting out of range.
    Source: arXiv 2306.01271, the network of its training dynamics.
    """

    def __init__(
        self,
        channels: int,
        classes: int,
        mean: Sequence[float],
        std: Sequence[float],
        *,
        width: int = 20,
        power: int = 3,
        initial_std: float = 0.01,
    ):
        super().__init__()
        if classes != 2:
            raise ValueError(f"it tells two classes apart, and the data set has {classes}")
        if width < 1 or power < 1 or not initial_std > 0:
            raise ValueError(
                f"width, power and initial_std must be greater than 0, not {width}, {power} and {initial_std:g}"
            )
        self.power = power
        self.normalize = Normalize(mean, std).double()
        self.filters = nn.Parameter(initial_std * torch.randn(2, width, channels, dtype=torch.float64))

    @override
    def forward(self, x: Tensor) -> Tensor:
        x = self.normalize(x.double()).flatten(2).transpose(1, 2)  # (B, patches, channels)
        inner = x @ self.filters.flatten(0, 1).T
        return inner.relu().pow(self.power).unflatten(2, self.filters.shape[:2]).sum((1, 3))
