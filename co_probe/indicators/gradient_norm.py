"""Norm of the input gradient."""

import torch
from torch import Tensor, nn

from co_probe.attacks.base import input_gradient
from co_probe.inference.evaluation import batch_size
from co_probe.inference.forward import Forward


def input_gradients(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """Compute ∇ₓL of each example in double precision, so that squares of small gradients do not underflow.

    L is the cross-entropy of one example in nats, not the mean of a batch. The model is used in eval mode.
    Cost: 1 forward-backward pass.

    Args:
        model: Takes (B, C, H, W) images and returns (B, classes) logits.
        x: Images, (n, C, H, W).
        y: Class numbers, (n,).

    Returns:
        Gradients, float64 (n, C·H·W).
    """
    parts = zip(x.split(batch_size(x)), y.split(batch_size(x)), strict=True)
    forward = Forward(model, batchnorm="eval")
    return torch.cat([input_gradient(forward, xs, ys).flatten(1).double() for xs, ys in parts])


def gradient_norm(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """Compute ‖∇ₓL(x)‖₂ of each example, in nats per pixel unit.

    In [0, ∞). It grows by orders of magnitude when a model overfits catastrophically. It is exactly 0 where the
    gradient underflows or the loss is saturated; gradient attacks then overestimate robustness.

    Cost: 1 forward-backward pass.

    Args:
        model: Takes (B, C, H, W) images and returns (B, classes) logits. Used in eval mode; its mode is restored.
        x: Images, (n, C, H, W).
        y: Class numbers, (n,).

    Returns:
        The norms, float64 (n,).

    Example:
        >>> co_probe.indicators.gradient_norm(model, x, y).mean()

    Reference:
        Andriushchenko and Flammarion (2020), "Understanding and improving fast adversarial training", section 4.
    """
    return input_gradients(model, x, y).norm(dim=1)
