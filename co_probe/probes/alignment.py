"""How large the input gradient is, and how far it agrees with itself within the ε-ball."""

from dataclasses import asdict, dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from co_probe.attacks import input_gradient
from co_probe.inference.evaluation import batch_size
from co_probe.numerics.statistics import mean_interval
from co_probe.probes.base import Checkpoint, Probe, ProbeSet, Row


@dataclass(frozen=True, kw_only=True)
class Alignment(Probe):
    """`alignment`: mean of cos(∇ₓL(x), ∇ₓL(x + η)), η ~ U(−ε, ε), in [−1, 1]; `gradient-norm`: mean of ‖∇ₓL(x)‖₂.

    The norm is in nats per pixel unit. x + η is not clipped; images whose gradient is 0 at either place have no cosine
    and are left out of its mean. An η an image, the same at every epoch.
    Source: Andriushchenko and Flammarion (2020), "Understanding and improving fast adversarial training", section 4.
    """

    name: ClassVar[str] = "alignment"
    split: str = "test"

    def parameters(self) -> dict[str, Any]:
        return asdict(self)

    def measure(self, checkpoint: Checkpoint, images: ProbeSet) -> list[Row]:
        noise = torch.empty_like(images.x).uniform_(-images.epsilon, images.epsilon, generator=images.rng())
        here, there = _gradients(checkpoint, images, images.x), _gradients(checkpoint, images, images.x + noise)
        norms = here.norm(dim=1), there.norm(dim=1)
        cosines = ((here * there).sum(1) / (norms[0] * norms[1]))[(norms[0] > 0) & (norms[1] > 0)]
        return [_row("alignment", cosines), _row("gradient-norm", norms[0])]


def _gradients(checkpoint: Checkpoint, images: ProbeSet, x: Tensor) -> Tensor:
    """∇ₓL of each image in double precision, (n, pixels): squares of small ones must not vanish."""
    parts = zip(x.split(batch_size(x)), images.y.split(batch_size(x)), strict=True)
    return torch.cat([input_gradient(checkpoint.model, xs, ys).flatten(1).double() for xs, ys in parts])


def _row(quantity: str, values: Tensor) -> Row:
    if not len(values):  # no image has a gradient
        return {"quantity": quantity, "value": torch.nan, "low": torch.nan, "high": torch.nan, "n": 0}
    mean, low, high = mean_interval(values.cpu().numpy())
    return {"quantity": quantity, "value": mean, "low": low, "high": high, "n": len(values)}
