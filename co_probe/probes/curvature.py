"""How curved the loss is around images: the largest eigenvalues of its Hessian with respect to the input."""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from math import prod
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from co_probe.inference.evaluation import batch_size, evaluating
from co_probe.numerics.lanczos import largest_eigenvalues
from co_probe.numerics.rng import make_rng
from co_probe.numerics.statistics import mean_interval
from co_probe.probes.base import Checkpoint, Probe, ProbeSet, Row
from co_probe.runs import Run


@dataclass(frozen=True, kw_only=True)
class Curvature(Probe):
    """Mean over images of the mean of the `top` largest eigenvalues of ∇²ₓL(x), in nats per pixel unit squared.

    `top`: how many eigenvalues; `images`: how many images of the probe set at most, its first. Values are good to
    a hundredth of the image's largest at worst, mostly far better; products with the Hessian are exact (a second
    backward pass).
    Raises ValueError if one is not positive.
    Source: arXiv 2206.08242, section 4, whose code takes the products from differences of gradients at x ± hv (and
    multiplies by h where it means to divide by 2h).
    """

    name: ClassVar[str] = "curvature"
    top: int = 1
    images: int = 256
    split: str = "test"

    def __post_init__(self):
        if self.top < 1 or self.images < 1:
            raise ValueError("top and images must be greater than 0")

    def parameters(self) -> dict[str, Any]:
        return asdict(self)

    def objection(self, run: Run) -> str | None:
        pixels = prod(run.info.shape)
        return f"{run.name} has images of {pixels} numbers, and top is {self.top}" if self.top > pixels else None

    def measure(self, checkpoint: Checkpoint, images: ProbeSet) -> list[Row]:
        x, y = images.x[: self.images], images.y[: self.images]
        values = curvature(checkpoint.model, x, y, self.top, make_rng("cpu", images.seed, "curvature"))
        mean, low, high = mean_interval(values.mean(1).cpu().numpy())
        return [{"quantity": "curvature", "value": mean, "low": low, "high": high, "n": len(y)}]


def curvature(model: nn.Module, x: Tensor, y: Tensor, top: int, rng: torch.Generator) -> Tensor:
    """The `top` largest eigenvalues of ∇²ₓL at each image, in descending order, float64 (n, top).

    `x`: (n, C, H, W); `y`: (n,); `rng`: on the CPU, for the directions that the search starts from.
    The model is used in eval mode, in which no image depends on the others of its batch.
    Raises ValueError if `top` is not between 1 and the number of pixels.
    """
    with evaluating(model):
        parts = [
            largest_eigenvalues(
                hessian_products(model, xs, ys), torch.randn(len(xs), xs[0].numel(), generator=rng).to(xs), top
            )
            for xs, ys in zip(x.split(batch_size(x)), y.split(batch_size(x)), strict=True)
        ]
    return torch.cat(parts)


def hessian_products(model: nn.Module, x: Tensor, y: Tensor) -> Callable[[Tensor], Tensor]:
    """A function from vectors (n, pixels) to their products with ∇²ₓL, one Hessian an image; L is the cross-entropy."""
    x = x.detach().requires_grad_()
    with torch.enable_grad():
        loss = F.cross_entropy(model(x), y, reduction="sum")
        gradient = torch.autograd.grad(loss, x, create_graph=True)[0]

    def product(vectors: Tensor) -> Tensor:
        if not gradient.requires_grad:  # the loss is linear in the input
            return torch.zeros_like(vectors)
        return torch.autograd.grad(gradient, x, vectors.view_as(x), retain_graph=True)[0].flatten(1)

    return product
