"""Per-image input gradients, with one convention for zero gradients in all indicators."""

from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class ImageGradients:
    """Input gradients of a batch, each divided by its largest magnitude, and sums that several indicators need.

    Squares of small gradients (mean over a batch, saturated softmax, half precision) underflow; indicators of direction
    and shape do not depend on the scale. Indicators take a tensor or this object, which computes each sum once.

    Attributes:
        rows: One row per image, float32 (B, numbers), scaled to a largest magnitude of 1; zero gradients stay zero.
        scale: Divisor of each row, float32 (B,).
        nonzero: Whether any component is not 0, bool (B,).
    """

    rows: Tensor
    scale: Tensor
    nonzero: Tensor

    @staticmethod
    def of(gradient: "Gradients") -> "ImageGradients":
        """Return the rows of a gradient (B, ...); an `ImageGradients` is returned as is."""
        if isinstance(gradient, ImageGradients):
            return gradient
        rows = gradient.detach().flatten(1).float()
        largest = rows.abs().amax(1)
        scale = largest.clamp(min=torch.finfo(torch.float32).tiny)
        return ImageGradients(rows / scale.unsqueeze(1), scale, largest != 0)  # NaN is not 0

    def divided(self, factor: Tensor) -> "ImageGradients":
        """Divide the gradients by a positive number."""
        return replace(self, scale=self.scale / factor)

    @cached_property
    def signs(self) -> Tensor:
        """Sign of each component, (B, numbers)."""
        return self.rows.sign()

    @cached_property
    def magnitudes(self) -> Tensor:
        """Magnitude of each component, (B, numbers)."""
        return self.rows.abs()

    @cached_property
    def l1(self) -> Tensor:
        """Sum of the magnitudes in each row, (B,)."""
        return self.magnitudes.sum(1)

    @cached_property
    def squared_l2(self) -> Tensor:
        """Sum of the squares in each row, (B,)."""
        return self.rows.square().sum(1)


Gradients = Tensor | ImageGradients
"""Input gradients of a batch: a tensor (B, ...), or its rows."""


def masked_mean(values: Tensor, valid: Tensor) -> Tensor:
    """Return the mean of `values` (B,) where `valid` (B,) holds; NaN if it holds nowhere. No synchronisation."""
    total = torch.where(valid, values, torch.zeros_like(values)).sum()
    return total / valid.sum()


def masked_share(*gradients: Gradients) -> Tensor:
    """Return the share of images, in [0, 1], for which one of `gradients` (B, ...) is zero in every component.

    Indicators of direction skip these images, since their cosine is undefined. Published code counts it as 1, as 0, or
    skips it. A large share is itself a sign of vanishing gradients.
    """
    return (~nonzero(*gradients)).float().mean()


def nonzero(*gradients: Gradients) -> Tensor:
    """Return which images have a non-zero gradient in every one of `gradients` (B, ...), bool (B,)."""
    return torch.stack([ImageGradients.of(gradient).nonzero for gradient in gradients]).all(0)
