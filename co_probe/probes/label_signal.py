"""Label information in perturbations."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from co_probe.probes.base import Probe, Row, mean_row

if TYPE_CHECKING:
    from co_probe.probes.images import Checkpoint, ProbeSet


@dataclass(frozen=True, kw_only=True)
class LabelSignal(Probe):
    """Label information of perturbations (`co_probe.indicators.label_signal` has formula, cost and source).

    Quantities: `raised`, the share of images × classes whose logit is raised by the perturbation against that class;
    `dominated`, the share that the model then predicts; in [0, 1], with 95% normal intervals over images; low =
    healthy. `masked`: the share of classes without a perturbation. The other rows are absent if all are masked.

    Args:
        split: `test` images of the probe set, or `train`.
        epsilon: Norm bound of FGSM, in pixel units; None for the run's.
    """

    name: ClassVar[str] = "label-signal"
    shares: ClassVar[tuple[str, ...]] = ("raised", "dominated", "masked")
    split: str = "test"
    epsilon: float | None = None

    def measure(self, checkpoint: "Checkpoint", images: "ProbeSet") -> list[Row]:
        """Measure both shares at one epoch."""
        from co_probe.indicators.label_signal import label_signal

        result = label_signal(
            checkpoint.model, images.x, epsilon=images.epsilon, norm=images.norm, bounds=images.bounds
        )
        masked = {"quantity": "masked", "value": result.masked, "low": result.masked, "high": result.masked}
        rows = (
            [] if result.value is None else [mean_row("raised", result.raised), mean_row("dominated", result.dominated)]
        )
        return [*rows, masked | {"n": len(images.x)}]
