"""Checks for masked gradients of a run."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from co_probe.config.masking import NAMES
from co_probe.probes.base import Probe, Row

if TYPE_CHECKING:
    from co_probe.probes.images import Checkpoint, ProbeSet


@dataclass(frozen=True, kw_only=True)
class Masking(Probe):
    """Accuracy under attacks that should be weaker than PGD-10 or break every image, and share of zero gradients.

    Quantities: `clean`, `fgsm`, `pgd10`, `vanishing`, `noise`, `margin`, `query`, `steps`, `large`, with their Wilson
    intervals; the column `suspicious` is 1 where a value contradicts the robustness under PGD-10, else 0.
    `co_probe.indicators.masking` has the thresholds and their sources.

    Measured at the best and the last epoch by default.

    Args:
        queries: Forward passes of the query attack per image.
        images: Number of images, the first of the probe set.
        split: `test` images of the probe set, or `train`.
        epsilon: Norm bound, in pixel units; None for the run's.

    Raises:
        ValueError: If `queries` or `images` is not positive.

    Reference:
        Athalye et al. (2018), https://arxiv.org/abs/1802.00420; Carlini et al. (2019),
        https://arxiv.org/abs/1902.06705.
    """

    name: ClassVar[str] = "masking"
    shares: ClassVar[tuple[str, ...]] = tuple(NAMES)
    own: ClassVar[tuple[str, ...]] = ("epsilon", "suspicious")
    default_epochs: ClassVar[str] = "best and last"
    queries: int = 100
    images: int = 128
    split: str = "test"
    epsilon: float | None = None

    def __post_init__(self) -> None:
        if self.queries < 1 or self.images < 1:
            raise ValueError("queries and images must be greater than 0")

    def measure(self, checkpoint: "Checkpoint", images: "ProbeSet") -> list[Row]:
        """Measure all checks at one epoch."""
        from co_probe.indicators.masking import masking

        result = masking(
            checkpoint.model,
            images.x[: self.images],
            images.y[: self.images],
            epsilon=images.epsilon,
            norm=images.norm,
            bounds=images.bounds,
            queries=self.queries,
            seed=images.seed,
            checked=True,
        )
        return [
            {
                "quantity": each.quantity,
                "value": each.value,
                "low": each.low,
                "high": each.high,
                "n": result.n,
                "suspicious": int(each.suspicious),
            }
            for each in result.findings
        ]
