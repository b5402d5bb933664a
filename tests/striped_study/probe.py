from dataclasses import dataclass
from typing import ClassVar

from co_probe.probes.base import Probe, accuracy_row
from co_probe.probes.named import probe


@dataclass(frozen=True, kw_only=True)
class Directions(Probe):
    """Accuracy on the stripes of each direction."""

    name: ClassVar[str] = "directions"
    split: str = "test"

    def measure(self, checkpoint, images):
        correct = images.outcome(checkpoint.model).correct
        return [accuracy_row(name, correct[images.y == i]) for i, name in enumerate(("vertical", "horizontal"))]


def directions(runs, **options):
    """The table of the probe."""
    return probe("directions", runs, **options)
