"""Which frequencies perturbations are made of."""

from dataclasses import asdict, dataclass
from typing import Any, ClassVar

from co_probe.numerics.dct import dct2
from co_probe.numerics.statistics import mean_interval
from co_probe.probes.base import Checkpoint, Probe, ProbeSet, Row
from co_probe.runs import Run


@dataclass(frozen=True, kw_only=True)
class Spectrum(Probe):
    """Share of each frequency of the cosine transform in the energy of perturbations, a mean over images, in [0, 1].

    `generator`: whose perturbations, an attack's by name or the `method`'s own. Quantities: `energy` of the frequency
    (`row`, `column`), from (0, 0), the constant, on, summed over channels; `low`, of those in the square with both
    `below` a number (half of the image's smaller side, if 0), and `high`, of the others, each with its 95% interval;
    there `row` and `column` are that number. Images with no perturbation are left out.
    Raises ValueError if `below` is negative. Source: arXiv 2206.08242, section 5.
    """

    name: ClassVar[str] = "spectrum"
    generator: str = "fgsm"
    below: int = 0
    split: str = "test"

    def __post_init__(self):
        if self.below < 0:
            raise ValueError(f"below must be a number of frequencies, or 0, not {self.below}")

    def parameters(self) -> dict[str, Any]:
        return asdict(self)

    def objection(self, run: Run) -> str | None:
        if self.below <= (least := min(run.info.shape[1:])):
            return None
        return f"{run.name} has {least} frequencies a side, and below is {self.below}"

    def measure(self, checkpoint: Checkpoint, images: ProbeSet) -> list[Row]:
        delta = images.perturb(checkpoint, self.generator).double()
        energy = dct2(delta).square().sum(1)
        energy = energy[energy.sum((1, 2)) > 0]
        if not len(energy):
            return []
        shares = energy / energy.sum((1, 2), keepdim=True)
        n, side = len(shares), self.below or min(shares.shape[1:]) // 2
        rows = [
            {"quantity": "energy", "row": row, "column": column, "value": value, "low": value, "high": value, "n": n}
            for row, line in enumerate(shares.mean(0).tolist())
            for column, value in enumerate(line)
        ]
        below = shares[:, :side, :side].sum((1, 2)).cpu().numpy()
        for quantity, share in (("low", below), ("high", 1 - below)):
            mean, low, high = mean_interval(share)
            about = {"quantity": quantity, "row": side, "column": side}
            rows.append(about | {"value": mean, "low": low, "high": high, "n": n})
        return rows
