"""Accuracy at every epoch, for runs whose training did not record it."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from co_probe.numerics.statistics import wilson
from co_probe.probes.base import Probe, Row, accuracy_row
from co_probe.store import StoredRun

if TYPE_CHECKING:
    from co_probe.probes.images import Checkpoint, ProbeSet


@dataclass(frozen=True, kw_only=True)
class Accuracy(Probe):
    """Accuracy on clean images, under FGSM and under PGD-10, at the run's ε.

    Quantities: `clean`, `fgsm` and `pgd10`, in [0, 1], with their Wilson intervals. The verdict on a run without
    training metrics is based on them. Cost per image and epoch: 15 forward and 11 backward passes.

    Args:
        split: `test` images of the probe set, or `train`.
    """

    name: ClassVar[str] = "accuracy"
    shares: ClassVar[tuple[str, ...]] = ("clean", "fgsm", "pgd10")
    split: str = "test"

    def recorded(self, run: StoredRun, epoch: int) -> list[Row] | None:
        """Return the accuracies that training measured on the test images."""
        metrics = run.metrics(epoch)
        if self.split != "test" or not set(self.shares) <= metrics.keys():
            return None
        n = len(run.probe_set["test"])
        return [
            {"quantity": name, "value": metrics[name], "low": low, "high": high, "n": n}
            for name in self.shares
            for low, high in [wilson(metrics[name], n)]
        ]

    def measure(self, checkpoint: "Checkpoint", images: "ProbeSet") -> list[Row]:
        """Measure the three accuracies at one epoch."""
        from co_probe.inference.evaluation import outcome

        rows = [accuracy_row("clean", outcome(checkpoint.forward, images.x, images.y).correct)]
        for attack in ("fgsm", "pgd10"):
            delta = images.perturb(checkpoint, attack)
            correct = outcome(checkpoint.forward, images.x, images.y, delta, images.bounds).correct
            rows.append(accuracy_row(attack, correct))
        return rows
