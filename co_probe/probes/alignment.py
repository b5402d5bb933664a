"""Norm of the input gradient, and its alignment within the ε-ball."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from co_probe.probes.base import Probe, Row, mean_row

if TYPE_CHECKING:
    from co_probe.probes.images import Checkpoint, ProbeSet


@dataclass(frozen=True, kw_only=True)
class Alignment(Probe):
    """Cosine similarity of input gradients within the ε-ball, and their norm (`co_probe.indicators.alignment`).

    Quantities: `alignment`, the mean cosine in [−1, 1]; `gradient-norm`, the mean of ‖∇ₓL(x)‖₂ in nats per pixel unit;
    `masked`, the share of images with a zero gradient, whose cosine is undefined. `alignment` is absent if all are
    masked.

    Args:
        split: `test` images of the probe set, or `train`.
    """

    name: ClassVar[str] = "alignment"
    shares: ClassVar[tuple[str, ...]] = ("masked",)
    split: str = "test"

    def measure(self, checkpoint: "Checkpoint", images: "ProbeSet") -> list[Row]:
        """Measure the alignment, gradient norm and masked share at one epoch."""
        from co_probe.indicators.alignment import alignment

        result = alignment(checkpoint.model, images.x, images.y, epsilon=images.epsilon, seed=images.seed)
        rows = [mean_row("alignment", result.cosine)] if len(result.cosine) else []
        masked = {"quantity": "masked", "value": result.masked, "low": result.masked, "high": result.masked}
        return [*rows, mean_row("gradient-norm", result.gradient_norm), masked | {"n": len(images.y)}]
