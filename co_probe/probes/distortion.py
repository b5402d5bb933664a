"""Decision boundary distortion: a smaller perturbation fools a model that resists the full one."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from co_probe.probes.base import Probe, Row, accuracy_row

if TYPE_CHECKING:
    from co_probe.probes.images import Checkpoint, ProbeSet


@dataclass(frozen=True, kw_only=True)
class Distortion(Probe):
    """Decision boundary distortion (`co_probe.indicators.distortion` has formula, cost and source).

    Quantities: `distortion`, a share in [0, 1] with its 95% Wilson interval; 0 = healthy. Its `n` is the denominator,
    the number of images that are correct at both ends; the row is absent if it is 0. `denominator`: the share of those
    images. `masked`: the share of images without a perturbation.

    Args:
        points: Number of equal parts of the perturbation, at least 2.
        split: `test` images of the probe set, or `train`.
        epsilon: Norm bound of FGSM, in pixel units; None for the run's.

    Raises:
        ValueError: If `points` is less than 2.
    """

    name: ClassVar[str] = "distortion"
    shares: ClassVar[tuple[str, ...]] = ("distortion", "denominator", "masked")
    points: int = 20
    split: str = "test"
    epsilon: float | None = None

    def __post_init__(self) -> None:
        if self.points < 2:
            raise ValueError(f"points must be at least 2, not {self.points}")

    def measure(self, checkpoint: "Checkpoint", images: "ProbeSet") -> list[Row]:
        """Measure the distortion and the shares of images in its denominator, at one epoch."""
        from co_probe.indicators.distortion import distortion
        from co_probe.numerics.statistics import wilson

        result = distortion(
            checkpoint.model,
            images.x,
            images.y,
            epsilon=images.epsilon,
            norm=images.norm,
            bounds=images.bounds,
            points=self.points,
            checked=True,
        )
        rows = [accuracy_row("distortion", result.distorted)] if result.denominator else []
        for name, share in (("denominator", result.denominator / result.n), ("masked", result.masked)):
            low, high = wilson(share, result.n)
            rows.append({"quantity": name, "value": share, "low": low, "high": high, "n": result.n})
        return rows
