"""The gap: loss under an attack B minus loss under the generator's perturbation."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

import pandas as pd

from co_probe.config.labels import AttackLike
from co_probe.executor import Executor
from co_probe.numerics.statistics import wilson
from co_probe.probes.base import Probe, Row, accuracy_row
from co_probe.probes.named import probe
from co_probe.probes.runner import Progress
from co_probe.store import RunLike, StoredRun

if TYPE_CHECKING:
    from co_probe.probes.images import Checkpoint, ProbeSet


@dataclass(frozen=True, kw_only=True)
class Gap(Probe):
    """G_B,i(A) = mean of L(δ_B) − L(δ_A) at θ_A^(i), in nats: larger = weaker δ_A, near 0 for a healthy run.

    Quantities: `gap` (nats, 95% normal interval of the paired difference) and `accuracy` under B (Wilson interval).

    Args:
        against: B, an attack or its name. Both attacks use all of their steps on every image.
        generator: Source of δ_A: an attack, its name, or `method` for the run's training attack. FGSM makes all methods
            comparable: a PGD run's own gap to PGD is 0 by construction, and APART has no learned initialisation for
            test images.
        split: `test` images of the probe set, or `train`.
        epsilon: Norm bound of named attacks, in pixel units; None for the run's.

    Reference:
        arXiv 2010.08034, Figures 2b and 5c; `co_probe.indicators.gap` has the formula.
    """

    name: ClassVar[str] = "gap"
    shares: ClassVar[tuple[str, ...]] = ("accuracy",)
    against: AttackLike = "pgd10"
    generator: AttackLike = "fgsm"
    split: str = "test"
    epsilon: float | None = None

    def recorded(self, run: StoredRun, epoch: int) -> list[Row] | None:
        """Return the gap with default settings, which training measures with the same images and random numbers."""
        if replace(self, epsilon=None) != Gap() or self.epsilon not in (None, run.epsilon):
            return None
        metrics = run.metrics(epoch)
        if not {"gap", "gap_low", "gap_high", "pgd10"} <= metrics.keys():
            return None
        value, n = metrics["gap"], len(run.probe_set["test"])
        low, high = wilson(accuracy := metrics["pgd10"], n)
        return [
            {"quantity": "gap", "value": value, "low": metrics["gap_low"], "high": metrics["gap_high"], "n": n},
            {"quantity": "accuracy", "value": accuracy, "low": low, "high": high, "n": n},
        ]

    def measure(self, checkpoint: "Checkpoint", images: "ProbeSet") -> list[Row]:
        """Measure the gap and accuracy at one epoch."""
        from co_probe.indicators.gap import gap

        strong, weak = (images.perturb(checkpoint, attack) for attack in (self.against, self.generator))
        result = gap(
            checkpoint.forward,
            images.x,
            images.y,
            epsilon=images.epsilon,
            strong=strong,
            weak=weak,
            bounds=images.bounds,
        )
        row = {"quantity": "gap", "value": result.value, "low": result.low, "high": result.high, "n": len(images.y)}
        return [row, accuracy_row("accuracy", result.strong.correct)]


def gap(
    runs: RunLike | Iterable[RunLike],
    against: AttackLike = "pgd10",
    *,
    generator: AttackLike = "fgsm",
    split: str = "test",
    epsilon: float | Sequence[float] | None = None,
    device: str = "auto",
    compile: bool = False,
    progress: Progress | None = None,
    executor: Executor | None = None,
) -> pd.DataFrame:
    """Measure the gap G_B,i(A) at every epoch of runs where it is not stored yet.

    Args:
        runs: Paths or runs, one or several.
        against: B, an attack or its name.
        generator: A: an attack, its name, or `method` for the run's training attack.
        split: `test` or `train` images of the probe set.
        epsilon: Norm bound or bounds of named attacks, in pixel units; None for the run's.
        device: `auto` (a GPU if there is one), `cpu`, `cuda`, `cuda:1`.
        compile: Use torch.compile.
        progress: Called after each epoch with the run's name, the number of epochs done, and of all epochs.
        executor: Executor of one task per run, with the `submit` of `concurrent.futures`; its workers must see the runs
            under the same paths. Progress is then reported per run. If None, this process measures.

    Returns:
        The tidy table: columns run, method, seed, epoch, probe, against, generator, split, epsilon, quantity, value,
        low, high, n.

    Raises:
        UserError: For an unknown name or run.

    Example:
        >>> co_probe.gap("runs/fgsm", against="pgd20")
    """
    settings: dict[str, Any] = {"against": against, "generator": generator, "split": split, "epsilon": epsilon}
    return probe("gap", runs, device=device, compile=compile, progress=progress, executor=executor, **settings)
