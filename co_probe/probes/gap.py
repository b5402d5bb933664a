"""The gap: how much stronger an attack B is than the method's own perturbation."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

import pandas as pd

from co_probe.numerics.statistics import mean_interval
from co_probe.probes.base import Checkpoint, Probe, ProbeSet, Row, accuracy_row
from co_probe.probes.runner import Progress, RunLike, measure_runs


@dataclass(frozen=True, kw_only=True)
class Gap(Probe):
    """G_B,i(A) = mean of L(δ_B) − L(δ_A) at θ_A^(i), in nats: larger = weaker δ_A, near 0 for a healthy run.

    Equation 2 of arXiv 2010.08034 prints the two terms the other way round; this is the sign of its prose ("the weaker
    f_A is, the larger G") and of its Figures 2b and 5c. Every image runs to the end of both attacks.
    `against`: B, as `named_attack` takes it; `generator`: whose δ_A, an attack's by name, or that of the `method`
    itself. FGSM's is usual: one yardstick for all methods (a PGD run's own gap to PGD is 0 by construction, and
    APART on unseen images lacks what it learned of each). `split`: `test` images, or `train`.
    Quantities: `gap` (nats, 95% normal interval of the paired difference) and `accuracy` under B (Wilson interval).
    """

    name: ClassVar[str] = "gap"
    against: str = "pgd10"
    generator: str = "fgsm"
    split: str = "test"

    @property
    def reads_models(self) -> bool:
        return self != Gap()

    def parameters(self) -> dict[str, Any]:
        return asdict(self)

    def measure(self, checkpoint: Checkpoint, images: ProbeSet) -> list[Row]:
        if self == Gap():  # what every run measures of itself, on the same images with the same draws
            metrics = checkpoint.run.frame("metrics").query("epoch == @checkpoint.epoch").set_index("quantity")
            names = {"gap": "gap", "accuracy": "pgd10"}
            columns = ["value", "low", "high", "n"]
            rows = metrics.loc[list(names.values()), columns].to_dict("records")
            return [{"quantity": quantity, **row} for quantity, row in zip(names, rows, strict=True)]
        strong = images.outcome(checkpoint.model, images.perturb(checkpoint, self.against))
        own = images.outcome(checkpoint.model, images.perturb(checkpoint, self.generator))
        gap, low, high = mean_interval((strong.loss - own.loss).cpu().numpy())
        row = {"quantity": "gap", "value": gap, "low": low, "high": high, "n": len(images.y)}
        return [row, accuracy_row("accuracy", strong.correct)]


def gap(
    runs: RunLike | Iterable[RunLike],
    against: str = "pgd10",
    *,
    generator: str = "fgsm",
    split: str = "test",
    device: str = "auto",
    compile: bool = False,
    progress: Progress | None = None,
) -> pd.DataFrame:
    """Measure G_B,i(A) (`Gap` says what that is) at every epoch of every run that is not stored yet.

    `runs`: paths or `Run`s, one or several. Returns the tidy table. Raises UserError for unknown names or runs.

    >>> co_probe.gap("runs/fgsm", against="pgd20")
    """
    return measure_runs(
        Gap(against=against, generator=generator, split=split), runs, device=device, compile=compile, progress=progress
    )
