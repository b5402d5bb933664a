"""Local linearity error of the loss within the ε-ball."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from co_probe.probes.base import Probe, Row, mean_row

if TYPE_CHECKING:
    from co_probe.probes.images import Checkpoint, ProbeSet


@dataclass(frozen=True, kw_only=True)
class LocalLinearity(Probe):
    """Local linearity error (`co_probe.indicators.local_linearity_error` has formula, cost and source).

    Quantity: `linearity-error`, the mean in nats² with its 95% normal interval; near 0 = healthy.

    Args:
        split: `test` images of the probe set, or `train`.
        epsilon: Radius of the ball, in pixel units; None for the run's.
    """

    name: ClassVar[str] = "local-linearity"
    split: str = "test"
    epsilon: float | None = None

    def measure(self, checkpoint: "Checkpoint", images: "ProbeSet") -> list[Row]:
        """Measure the error at one epoch."""
        from co_probe.indicators.local_linearity import local_linearity_error

        errors = local_linearity_error(
            checkpoint.model, images.x, images.y, epsilon=images.epsilon, norm=images.norm, seed=images.seed
        )
        return [mean_row("linearity-error", errors)]
