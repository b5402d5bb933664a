"""Two-layer convolutional network from the theory of robust memorisation."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from typing_extensions import override

from co_probe.models.normalize import Normalize


class TwoLayerCNN(nn.Module):
    """f(x) = Σ_r Σ_j ReLU(⟨w_r⁺, x[j]⟩)^q − Σ_r Σ_j ReLU(⟨w_r⁻, x[j]⟩)^q; the second layer is fixed.

    The input is (B, channels, height, width) with one patch per pixel. The output is (B, 2) logits, the second sum and
    the first one; their cross-entropy is the logistic loss log(1 + exp(−y·f)) with y = −1 for class 0 and +1 for
    class 1. Weights and inputs are float64, because the components learned early and late differ by many orders of
    magnitude.

    Args:
        channels: Dimension of a patch.
        classes: Number of classes, which must be 2.
        mean: Mean per channel, for normalisation.
        std: Standard deviation per channel, for normalisation.
        width: Number of filters of each sign.
        power: Exponent q.
        initial_std: Standard deviation of the Gaussian initialisation.

    Attributes:
        filters: (2, width, channels): w⁻, then w⁺.

    Raises:
        ValueError: If the number of classes is not 2, or a setting is out of range.

    Reference:
        arXiv 2306.01271, the network of its training dynamics.
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
