"""Curvature: the largest eigenvalues of the Hessian of the loss with respect to the input."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from co_probe.attacks.base import Model
from co_probe.inference.evaluation import batch_size
from co_probe.inference.forward import Forward
from co_probe.numerics.lanczos import largest_eigenvalues
from co_probe.numerics.rng import make_rng


def curvature(model: nn.Module, x: Tensor, y: Tensor, *, top: int = 1, seed: int = 0) -> Tensor:
    """Compute the `top` largest eigenvalues of ∇²ₓL(x) of each example, in nats per pixel unit squared.

    Close to 0 where the loss is linear; it rises by orders of magnitude at the onset of catastrophic overfitting.
    Values are accurate to 1% of the image's largest eigenvalue. Hessian-vector products are exact (a second backward
    pass), not finite differences.

    Cost: 1 forward-backward pass, and a second backward pass per Lanczos iteration (some tens, at most the number of
    pixels).

    Args:
        model: Takes (B, C, H, W) images and returns (B, classes) logits. Used in eval mode, in which images of a batch
            are independent; its mode is restored.
        x: Images, (n, C, H, W).
        y: Class numbers, (n,).
        top: Number of eigenvalues, from 1 to C·H·W.
        seed: The same seed gives the same start vectors.

    Returns:
        Eigenvalues in descending order, (n, top), of the dtype of `x` or float64.

    Raises:
        ValueError: If `top` is out of range.

    Example:
        >>> co_probe.indicators.curvature(model, x, y)[:, 0].mean()

    Reference:
        arXiv 2206.08242, section 4, whose code approximates the products by differences of gradients at x ± hv.
    """
    rng = make_rng("cpu", seed, "curvature")
    forward = Forward(model, batchnorm="eval")
    parts = [
        largest_eigenvalues(
            hessian_products(forward, xs, ys), torch.randn(len(xs), xs[0].numel(), generator=rng).to(xs), top
        )
        for xs, ys in zip(x.split(batch_size(x)), y.split(batch_size(x)), strict=True)
    ]
    return torch.cat(parts)


def hessian_products(model: Model, x: Tensor, y: Tensor) -> Callable[[Tensor], Tensor]:
    """Return a function from vectors (n, pixels) to their products with each example's Hessian of the cross-entropy."""
    x = x.detach().requires_grad_()
    with torch.enable_grad():
        loss = F.cross_entropy(model(x), y, reduction="sum")
        gradient = torch.autograd.grad(loss, x, create_graph=True)[0]

    def product(vectors: Tensor) -> Tensor:
        if not gradient.requires_grad:  # the loss is linear in the input
            return torch.zeros_like(vectors)
        return torch.autograd.grad(gradient, x, vectors.view_as(x), retain_graph=True)[0].flatten(1)

    return product
