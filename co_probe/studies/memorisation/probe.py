"""Memorisation: what a run has learned of the signal and of each training image's noise, and what that is good for."""

import math
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, ClassVar

import pandas as pd

from co_probe.config.labels import AttackLike
from co_probe.probes.base import Probe, Row, accuracy_row, mean_row
from co_probe.probes.named import probe
from co_probe.probes.runner import Progress
from co_probe.store import RunLike

if TYPE_CHECKING:
    from torch import Tensor

    from co_probe.inference.evaluation import Outcome
    from co_probe.probes.images import Checkpoint, ProbeSet


@dataclass(frozen=True, kw_only=True)
class Memorisation(Probe):
    """Accuracy and loss, clean and robust, on train and test; and how far filters point along signal and noise.

    `against`: what robust means: an attack by name, or the run's own perturbation (`method`).
    Quantities: `accuracy` (Wilson interval) and `loss` (nats, 95% normal interval), of the `images` (`train` or `test`)
    in the `view` (`clean` or `robust`) that these columns say. Of a `two_layer_cnn` on `patches`, besides: `signal` and
    `noise`, as `signal_components` and `noise_components` have them, with their mean as the value and their least and
    greatest as low and high; and `step`, the optimizer steps until then.
    Source: arXiv 2306.01271, the components that its training dynamics follow, and its curves on real images.
    """

    name: ClassVar[str] = "memorisation"
    split: str = field(default="train", init=False)  # the test images come on top
    shares: ClassVar[tuple[str, ...]] = ("accuracy",)
    own: ClassVar[tuple[str, ...]] = ("images", "view")
    figure: ClassVar[str] = "generalisation"
    against: AttackLike = "method"

    def measure(self, checkpoint: "Checkpoint", images: "ProbeSet") -> list[Row]:
        """Accuracies, losses and components at one epoch."""
        import torch

        from co_probe.studies.memorisation.components import noise_components, signal_components
        from co_probe.studies.memorisation.model import TwoLayerCNN
        from co_probe.studies.memorisation.signal import find_signal

        run, model = checkpoint.run, checkpoint.model
        x, y = (part.to(checkpoint.device) for part in run.test_data())
        rows: list[Row] = []
        for name, part in (("train", images), ("test", replace(images, x=x, y=y, state=None))):
            robust = part.outcome(checkpoint.forward, part.perturb(checkpoint, self.against))
            for view, outcome in (("clean", part.outcome(checkpoint.forward)), ("robust", robust)):
                rows += [{"images": name, "view": view, **row} for row in _outcome_rows(outcome)]
        if isinstance(model, TwoLayerCNN) and (found := find_signal(images.x, images.y)):
            signal, _ = found
            noise = noise_components(model, signal, images.x, images.y)
            steps = math.ceil(len(run.data.train_y) / run.config.batch_size) * checkpoint.method.replays
            rows += [_spread("signal", signal_components(model, signal)), _spread("noise", noise)]
            rows.append(_spread("step", torch.tensor([float(checkpoint.epoch * steps)])))
        return rows


def _outcome_rows(outcome: "Outcome") -> list[Row]:
    return [accuracy_row("accuracy", outcome.correct), mean_row("loss", outcome.loss)]


def _spread(quantity: str, values: "Tensor") -> Row:
    mean, low, high = values.mean().item(), values.min().item(), values.max().item()
    return {"images": "", "view": "", "quantity": quantity, "value": mean, "low": low, "high": high, "n": len(values)}


def memorisation(
    runs: RunLike | Iterable[RunLike],
    against: AttackLike = "method",
    *,
    last: bool = False,
    device: str = "auto",
    compile: bool = False,
    progress: Progress | None = None,
) -> pd.DataFrame:
    """Measure what `Memorisation` says at every epoch (or the `last`) of every run, where it is not stored yet.

    `runs`: paths or `Run`s, one or several. Returns the tidy table. Raises UserError for unknown names or runs.

    >>> co_probe.memorisation("runs/shrink")
    """
    epochs = "last" if last else "all"
    return probe(
        "memorisation", runs, epochs=epochs, against=against, device=device, compile=compile, progress=progress
    )
