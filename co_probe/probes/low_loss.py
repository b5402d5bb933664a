"""Share of images that a model classifies with high confidence."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from co_probe.probes.base import Probe, Row, accuracy_row

if TYPE_CHECKING:
    from co_probe.probes.images import Checkpoint, ProbeSet


@dataclass(frozen=True, kw_only=True)
class LowLoss(Probe):
    """Share of unperturbed images with a low loss (`co_probe.indicators.low_loss` has cost and source).

    Quantity: `low-loss`, a share in [0, 1] with its 95% Wilson interval; interpret surges, not levels.

    Args:
        threshold: Cross-entropy in nats below which a loss is low.
        split: `train` images of the probe set, as in the source, or `test`.

    Raises:
        ValueError: If `threshold` is negative.
    """

    name: ClassVar[str] = "low-loss"
    shares: ClassVar[tuple[str, ...]] = ("low-loss",)
    threshold: float = 2.0
    split: str = "train"

    def __post_init__(self) -> None:
        if not self.threshold >= 0:
            raise ValueError(f"threshold must be at least 0, not {self.threshold:g}")

    def measure(self, checkpoint: "Checkpoint", images: "ProbeSet") -> list[Row]:
        """Measure the share at one epoch."""
        from co_probe.indicators.low_loss import low_loss

        return [accuracy_row("low-loss", low_loss(checkpoint.model, images.x, images.y, threshold=self.threshold))]
