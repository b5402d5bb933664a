"""The probe of memorisation: accuracy and loss on train and test images, and signal and noise components."""

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
    """Accuracy and loss, clean and robust, on train and test images; signal and noise components of the filters.

    Quantities: `accuracy` (Wilson interval) and `loss` (nats, 95% normal interval). The columns `images` (`train` or
    `test`) and `view` (`clean` or `robust`) say of which images. A `two_layer_cnn` on `patches` also has `signal` and
    `noise` (`signal_components`, `noise_components`), whose value, low and high are mean, minimum and maximum; and
    `step`, the number of optimizer steps so far.

    Attributes:
        against: The attack of the view `robust`: an attack, its name, or `method` for the run's own training attack.

    Reference:
        arXiv 2306.01271, the components of its training dynamics, and its curves on real images.
    """

    name: ClassVar[str] = "memorisation"
    split: str = field(default="train", init=False)  # test images are measured too
    shares: ClassVar[tuple[str, ...]] = ("accuracy",)
    own: ClassVar[tuple[str, ...]] = ("images", "view")
    figure: ClassVar[str] = "generalisation"
    against: AttackLike = "method"

    def measure(self, checkpoint: "Checkpoint", images: "ProbeSet") -> list[Row]:
        """Measure accuracies, losses and components at one epoch."""
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
    """Measure accuracy, loss and components of each run on train and test images (`Memorisation`).

    Epochs that are stored already are not measured again.

    Args:
        runs: Paths or runs, one or several.
        against: The attack of the view `robust`; `method` is the run's own training attack.
        last: Measure only the last epoch.
        device: `auto`, `cpu`, `cuda`, `cuda:1`.
        compile: Use torch.compile.
        progress: Called with run and epoch, the number of finished epochs, and of all epochs.

    Returns:
        The tidy table.

    Raises:
        UserError: If a run or an attack does not exist.

    Example:
        >>> co_probe.memorisation("runs/shrink")
    """
    epochs = "last" if last else "all"
    return probe(
        "memorisation", runs, epochs=epochs, against=against, device=device, compile=compile, progress=progress
    )
