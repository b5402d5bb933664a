"""Norm of the input gradient, and share of zero gradients."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from co_probe.probes.base import Probe, Row, accuracy_row, mean_row

if TYPE_CHECKING:
    from co_probe.probes.images import Checkpoint, ProbeSet


@dataclass(frozen=True, kw_only=True)
class GradientNorm(Probe):
    """Norm of the input gradient (`co_probe.indicators.gradient_norm` has formula, cost and source).

    Quantities: `gradient-norm`, the mean of ‖∇ₓL(x)‖₂ over all images in nats per pixel unit, with its 95% normal
    interval; `zero`, the share of images whose gradient is exactly 0, with its Wilson interval.

    Args:
        split: `test` images of the probe set, or `train`.
    """

    name: ClassVar[str] = "gradient-norm"
    shares: ClassVar[tuple[str, ...]] = ("zero",)
    split: str = "test"

    def measure(self, checkpoint: "Checkpoint", images: "ProbeSet") -> list[Row]:
        """Measure the norm and share of zero gradients at one epoch."""
        from co_probe.indicators.gradient_norm import gradient_norm

        norms = gradient_norm(checkpoint.model, images.x, images.y)
        return [mean_row("gradient-norm", norms), accuracy_row("zero", norms == 0)]
