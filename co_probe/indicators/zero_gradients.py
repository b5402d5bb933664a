"""Zero gradients: one convention for every indicator that compares gradients."""

import torch
from torch import Tensor


def per_image(gradient: Tensor) -> Tensor:
    """Return a gradient (B, ...) as float32 rows (B, numbers), each divided by its largest magnitude.

    Gradients of a mean over the batch, of a saturated softmax or in half precision are so small that their squares
    underflow; indicators of direction and of shape do not depend on the scale. A row of zeros stays zeros.
    """
    rows = gradient.detach().flatten(1).float()
    return rows / rows.abs().amax(1, keepdim=True).clamp(min=torch.finfo(torch.float32).tiny)


def masked_mean(values: Tensor, valid: Tensor) -> Tensor:
    """Return the mean of `values` (B,) where `valid` (B,) holds; NaN if it holds nowhere. Nothing is synchronised."""
    total = torch.where(valid, values, torch.zeros_like(values)).sum()
    return total / valid.sum()


def masked_share(*gradients: Tensor) -> Tensor:
    """Return the share of images, in [0, 1], for which one of `gradients` (B, ...) is zero in every component.

    These images are left out by every indicator of direction: 0/0 has no cosine. Published code differs here: some
    count such a cosine as 1, some as 0, some drop it. A large share is a finding of its own (vanishing gradients).
    """
    return (~nonzero(*gradients)).float().mean()


def nonzero(*gradients: Tensor) -> Tensor:
    """Return which images have a non-zero gradient in every one of `gradients` (B, ...), bool (B,)."""
    return torch.stack([gradient.detach().flatten(1).any(1) for gradient in gradients]).all(0)
