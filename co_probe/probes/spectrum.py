"""Spectrum of perturbations."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from co_probe.config.labels import AttackLike
from co_probe.probes.base import Probe, Row, mean_row
from co_probe.store import StoredRun

if TYPE_CHECKING:
    from co_probe.probes.images import Checkpoint, ProbeSet


@dataclass(frozen=True, kw_only=True)
class Spectrum(Probe):
    """Share of each frequency of the cosine transform in the energy of perturbations, a mean over images, in [0, 1].

    Quantities: `energy` of the frequency (`row`, `column`), where (0, 0) is the constant; `low`, of the square of
    frequencies whose `row` and `column` are both below a limit, and `high`, of the others, each with its 95% normal
    interval; their `row` and `column` are the limit. Images without a perturbation are skipped.

    Args:
        generator: Source of perturbations: an attack, its name, or `method` for the run's training attack.
        below: Limit between low and high; half of the image's smaller side if 0.
        split: `test` images of the probe set, or `train`.

    Raises:
        ValueError: If `below` is negative.

    Reference:
        arXiv 2206.08242, section 5; `co_probe.indicators.spectrum` has the formula.
    """

    name: ClassVar[str] = "spectrum"
    shares: ClassVar[tuple[str, ...]] = ("low", "high")
    details: ClassVar[tuple[str, ...]] = ("energy",)
    own: ClassVar[tuple[str, ...]] = ("row", "column")
    generator: AttackLike = "fgsm"
    below: int = 0
    split: str = "test"

    def __post_init__(self) -> None:
        if self.below < 0:
            raise ValueError(f"below must be a number of frequencies, or 0, not {self.below}")

    def unsupported_reason(self, run: StoredRun) -> str | None:
        """Say that an image has fewer frequencies than `below`."""
        least = min(run.info.shape[1:])
        return (
            f"{run.name} has {least} frequencies a side, and below is {self.below}" if 0 < least < self.below else None
        )

    def measure(self, checkpoint: "Checkpoint", images: "ProbeSet") -> list[Row]:
        """Measure the spectrum at one epoch."""
        from co_probe.indicators.spectrum import low_frequency_share, spectrum

        shares = spectrum(images.perturb(checkpoint, self.generator))
        if not len(shares):
            return []
        side = self.below or min(shares.shape[1:]) // 2
        rows = [
            {"quantity": "energy", "row": row, "column": column, "value": value, "low": value, "high": value}
            | {"n": len(shares)}
            for row, line in enumerate(shares.mean(0).tolist())
            for column, value in enumerate(line)
        ]
        low = low_frequency_share(shares, side)
        rows.append({**mean_row("low", low), "row": side, "column": side})
        rows.append({**mean_row("high", 1 - low), "row": side, "column": side})
        return rows
