"""Local linearity error: deviation of the loss from linearity between two random points of the ε-ball."""

import torch
from torch import Tensor, nn

from co_probe.attacks.base import lengths
from co_probe.inference.evaluation import outcome
from co_probe.numerics.rng import make_rng


def local_linearity_error(
    model: nn.Module, x: Tensor, y: Tensor, *, epsilon: float, norm: str = "linf", seed: int = 0
) -> Tensor:
    """Compute (L(x_c) − (1 − a) L(x_a) − a L(x_b))² of each example, with x_c = (1 − a) x_a + a x_b.

    x_a and x_b are drawn uniformly from the ε-ball around x and not clipped, a ~ U(0, 1) once per example. In [0, ∞),
    in nats²: 0 for a loss that is linear within the ball. Healthy models stay near 0; at the onset of catastrophic
    overfitting the mean rises by orders of magnitude. It uses no gradient, so masking does not affect it.

    Cost: 3 forward passes. BatchNorm is in eval mode.

    Args:
        model: Takes (B, C, H, W) images and returns (B, classes) logits. Used in eval mode; its mode is restored.
        x: Images, (n, C, H, W).
        y: Class numbers, (n,).
        epsilon: Radius of the ball, in pixel units of a [0, 1] image.
        norm: The norm that `epsilon` bounds, `linf` or `l2`.
        seed: The same seed gives the same points, on every model.

    Returns:
        The squared error of each example, float32 or float64 (n,); its mean is the published quantity.

    Example:
        >>> co_probe.indicators.local_linearity_error(model, x, y, epsilon=8 / 255).mean()

    Reference:
        Abad Rocamora et al. (ICLR 2024), https://arxiv.org/abs/2401.11618 (ELLE). Their released code draws the same
        three points, in one batch of 3B images with BatchNorm in train mode, and penalises the mean. ELLE-A raises its
        penalty when the error of a batch exceeds the mean of all earlier batches by two standard deviations.
    """
    rng = make_rng(x.device, seed, "local linearity")
    x_a, x_b = (x + _in_ball(x, epsilon, norm, rng) for _ in range(2))
    share = torch.rand(len(x), 1, 1, 1, generator=rng, device=x.device, dtype=x.dtype)
    x_c = (1 - share) * x_a + share * x_b
    loss_a, loss_b, loss_c = (outcome(model, points, y).loss for points in (x_a, x_b, x_c))
    share = share.flatten()
    return (loss_c - (1 - share) * loss_a - share * loss_b).square()


def _in_ball(x: Tensor, epsilon: float, norm: str, rng: torch.Generator) -> Tensor:
    """Draw noise of the shape of `x`, uniform in the ε-ball of each example."""
    if norm == "linf":
        return torch.empty_like(x).uniform_(-epsilon, epsilon, generator=rng)
    direction = torch.empty_like(x).normal_(generator=rng)
    radius = torch.rand(len(x), 1, 1, 1, generator=rng, device=x.device, dtype=x.dtype) ** (1 / x[0].numel())
    return epsilon * radius * direction / lengths(direction)
