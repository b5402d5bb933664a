"""Curvature: largest eigenvalues of the Hessian of the loss with respect to the input."""

from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, ClassVar

from co_probe.probes.base import Probe, Row, mean_row
from co_probe.store import StoredRun

if TYPE_CHECKING:
    from co_probe.probes.images import Checkpoint, ProbeSet


@dataclass(frozen=True, kw_only=True)
class Curvature(Probe):
    """Mean over images of the mean of the `top` largest eigenvalues of ∇²ₓL(x), in nats per pixel unit squared.

    Quantity: `curvature`, with its 95% normal interval. `co_probe.indicators.curvature` has the formula and the cost.

    Args:
        top: Number of eigenvalues.
        images: Number of images, the first of the probe set.
        split: `test` images of the probe set, or `train`.

    Raises:
        ValueError: If `top` or `images` is not positive.

    Reference:
        arXiv 2206.08242, section 4.
    """

    name: ClassVar[str] = "curvature"
    top: int = 1
    images: int = 256
    split: str = "test"

    def __post_init__(self) -> None:
        if self.top < 1 or self.images < 1:
            raise ValueError("top and images must be greater than 0")

    def unsupported_reason(self, run: StoredRun) -> str | None:
        """Say that an image has fewer numbers than `top`."""
        pixels = prod(run.info.shape)
        return f"{run.name} has images of {pixels} numbers, and top is {self.top}" if 0 < pixels < self.top else None

    def measure(self, checkpoint: "Checkpoint", images: "ProbeSet") -> list[Row]:
        """Measure the curvature at one epoch."""
        from co_probe.indicators.curvature import curvature

        x, y = images.x[: self.images], images.y[: self.images]
        values = curvature(checkpoint.model, x, y, top=self.top, seed=images.seed)
        return [mean_row("curvature", values.mean(1))]
