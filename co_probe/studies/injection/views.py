"""Accuracy on carrier and image separately, which shows the features that a network uses."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from co_probe.probes.base import Probe, Row, accuracy_row
from co_probe.store import StoredRun
from co_probe.studies.injection.settings import Inject

if TYPE_CHECKING:
    from co_probe.probes.images import Checkpoint, ProbeSet


@dataclass(frozen=True, kw_only=True)
class Views(Probe):
    """Clean accuracies of a run with `inject` on four views of its images, none of which is clipped.

    Quantities: `both`: x + β·v(y); `image`: x alone (with `orthogonal`, without its projection on the carriers);
    `carrier`: β·v(y) alone, on black, one image per class (without an interval); `reversed`: x − β·v(y).

    Reference:
        arXiv 2206.08242, section 4; `carrier` as in its authors' code.
    """

    name: ClassVar[str] = "views"
    shares: ClassVar[tuple[str, ...]] = ("both", "carrier", "image", "reversed")
    split: str = "test"

    def unsupported_reason(self, run: StoredRun) -> str | None:
        """Return a reason if the images have no carriers."""
        if run.info.settings is not None and run.config.extension(Inject).beta:
            return None
        return f"{run.name} has no carriers in its images (inject.beta is 0)"

    def measure(self, checkpoint: "Checkpoint", images: "ProbeSet") -> list[Row]:
        """Measure the accuracies at one epoch."""
        import torch

        from co_probe.inference.evaluation import outcome
        from co_probe.studies.injection.carriers import make_carriers

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
