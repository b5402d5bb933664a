"""Which features a network goes by: the injected carrier, the image, or both."""

from dataclasses import asdict, dataclass
from typing import Any, ClassVar

import torch

from co_probe.inference.evaluation import outcome
from co_probe.probes.base import Checkpoint, Probe, ProbeSet, Row, accuracy_row
from co_probe.runs import Run
from co_probe.studies.injection.carriers import make_carriers
from co_probe.studies.injection.settings import Inject


@dataclass(frozen=True, kw_only=True)
class Views(Probe):
    """Accuracies on four views of the images that a run with `inject` has: what it was given, and what is in it.

    Quantities: `both`: x + β·v(y); `image`: x alone (less its projection on the carriers, in a run that is trained so);
    `carrier`: β·v(y) alone, on black, once a class (so it has no interval); `reversed`: x − β·v(y). None is clipped or
    attacked.
    Source: arXiv 2206.08242, section 4 (`carrier`: as in its authors' code).
    """

    name: ClassVar[str] = "views"
    split: str = "test"

    def parameters(self) -> dict[str, Any]:
        return asdict(self)

    def objection(self, run: Run) -> str | None:
        if run.config.extension(Inject).beta:
            return None
        return f"{run.name} has no carriers in its images (inject.beta is 0)"

    def measure(self, checkpoint: Checkpoint, images: ProbeSet) -> list[Row]:
        run, settings = checkpoint.run, checkpoint.run.config.extension(Inject)
        classes = len(run.info.classes)
        carriers = settings.beta * make_carriers(classes, run.info.shape).to(images.x)
        added = carriers[images.y]
        x = images.x - settings.scale(self.split) / settings.beta * added
        views = {"both": x + added, "image": x, "reversed": x - added}
        rows = [
            accuracy_row(quantity, outcome(checkpoint.model, view, images.y).correct)
            for quantity, view in views.items()
        ]
        known = outcome(checkpoint.model, carriers, torch.arange(classes, device=images.y.device)).accuracy
        return [*rows, {"quantity": "carrier", "value": known, "low": known, "high": known, "n": classes}]
