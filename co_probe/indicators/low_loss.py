"""Low-loss examples: images that a model classifies with high confidence."""

import torch
from torch import Tensor, nn

from co_probe.inference.evaluation import outcome

THRESHOLD = 2.0


def low_loss(model: nn.Module, x: Tensor, y: Tensor, *, threshold: float = THRESHOLD) -> Tensor:
    """Return whether the loss of each unperturbed image is below `threshold`.

    The share of these images, in [0, 1], rises during training, and surges at the onset of catastrophic overfitting
    according to the source. Interpret jumps between epochs, not levels: the share depends on the threshold, the data
    set and ε. On digits nearly all images are below the default from the fifth epoch on, and the share *falls* at the
    collapse, when the model forgets clean images for some epochs; choose a threshold near the median loss.

    Cost: 1 forward pass. BatchNorm is in eval mode.

    Args:
        model: Takes (B, C, H, W) images and returns (B, classes) logits. Used in eval mode; its mode is restored.
        x: Images, (n, C, H, W); training images in the source.
        y: Class numbers, (n,).
        threshold: Cross-entropy in nats, at least 0. The loss of guessing among k classes is ln k: 2.3 for ten.

    Returns:
        Bool (n,); its mean is the share.

    Raises:
        ValueError: If `threshold` is negative.

    Example:
        >>> co_probe.indicators.low_loss(model, x, y).float().mean()

    Reference:
        Lin et al. (ICLR 2024), https://arxiv.org/abs/2310.08847 (DOM): 2.0 is the threshold of its released commands
        for FGSM on CIFAR-10 (1.5 for PGD, 0.2 for clean training). The released code takes losses of the augmented
        batch with BatchNorm in train mode, and counts a loss equal to the threshold as low in one of its variants.
    """
    if not threshold >= 0:
        raise ValueError(f"threshold must be at least 0, not {threshold:g}")
    with torch.no_grad():
        return outcome(model, x, y).loss < threshold
