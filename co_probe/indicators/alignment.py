"""Gradient alignment: cosine similarity of input gradients within the ε-ball."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from co_probe.indicators.gradient_norm import input_gradients
from co_probe.numerics.rng import make_rng


@dataclass(frozen=True)
class AlignmentResult:
    """Cosine similarity of input gradients.

    Attributes:
        cosine: One value in [−1, 1] for each example that has a gradient at both points, float64 (m,), m ≤ n.
        masked: Share of examples with a zero gradient, in [0, 1], which are not in `cosine`.
        gradient_norm: ‖∇ₓL(x)‖₂ of every example, float64 (n,).
    """

    cosine: Tensor
    masked: float
    gradient_norm: Tensor

    @property
    def value(self) -> float | None:
        """Mean of `cosine`, or None if every example is masked."""
        return self.cosine.mean().item() if len(self.cosine) else None


def alignment(model: nn.Module, x: Tensor, y: Tensor, *, epsilon: float, seed: int = 0) -> AlignmentResult:
    """Compute cos(∇ₓL(x), ∇ₓL(x + η)) of each example, with η ~ U(−ε, ε) per pixel and x + η not clipped.

    Near 1 for a loss that is linear within the ε-ball. Healthy adversarially trained models have roughly 0.5 to 1,
    falling slowly; after catastrophic overfitting it is near 0. A randomly initialised model may have any value, so
    compare epochs of one run. The cosine is undefined for an example whose gradient is exactly 0 at either point: it is
    masked and counted (libraries return 0, 1 or NaN for it, which biases the mean).

    Cost: 2 forward-backward passes.

    Args:
        model: Takes (B, C, H, W) images and returns (B, classes) logits. Used in eval mode; its mode is restored.
        x: Images, (n, C, H, W).
        y: Class numbers, (n,).
        epsilon: Half the width of η, in pixel units of a [0, 1] image.
        seed: The same seed gives the same η, on every model.

    Returns:
        Cosines, share of masked examples, and gradient norms at x.

    Example:
        >>> co_probe.indicators.alignment(model, x, y, epsilon=8 / 255).value

    Reference:
        Andriushchenko and Flammarion (2020), "Understanding and improving fast adversarial training", section 4.
    """
    noise = torch.empty_like(x).uniform_(-epsilon, epsilon, generator=make_rng(x.device, seed, "probe"))
    here, there = input_gradients(model, x, y), input_gradients(model, x + noise, y)
    norms = here.norm(dim=1), there.norm(dim=1)
    has_gradient = (norms[0] > 0) & (norms[1] > 0)
    cosine = ((here * there).sum(1) / (norms[0] * norms[1]))[has_gradient]
    return AlignmentResult(cosine, 1 - has_gradient.double().mean().item(), norms[0])
