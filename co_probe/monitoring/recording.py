"""Recording of a monitored loop as a run of a foreign network."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from co_probe.data.coerce import LabelledImages
from co_probe.errors import UserError
from co_probe.runs.foreign import class_name
from co_probe.store import ModelSpec, RunInfo, new_run_id
from co_probe.training.recorder import Checkpoint, Recorder


@dataclass
class Recording:
    """The run of a monitored loop, created with its first epoch.

    Args:
        out: Folder of the run.
        probe: Images on which the run is measured.
        epsilon: Norm bound of perturbations.
        norm: `linf` or `l2`.
        bounds: Least and greatest value of a pixel.
        method: Name of the training method in tables and figures.
        data: Name of the data set in tables and figures.
        attack: Name of the training attack; None if unknown.
        classes: Names of the classes; None to number them.
        mean: Mean that the loop normalises images by, or None.
        std: Standard deviation, with `mean`.
        overwrite: Delete an existing run.
        resume: Continue an existing run.
    """

    out: Path
    probe: LabelledImages
    epsilon: float
    norm: str
    bounds: tuple[float, float]
    method: str
    data: str
    attack: str | None
    classes: Sequence[str] | None
    mean: tuple[float, ...] | None
    std: tuple[float, ...] | None
    overwrite: bool
    resume: bool
    _recorder: Recorder | None = None

    def epoch(
        self, network: nn.Module, classes: int, metrics: Mapping[str, float], steps: Mapping[str, np.ndarray]
    ) -> None:
        """Write an epoch and return when it is on the disk, so that the run can be read at any time.

        Args:
            network: Network without wrappers, whose state dict is stored.
            classes: Number of classes.
            metrics: Metrics of the epoch; non-finite ones are skipped.
            steps: Series over the steps of the epoch.

        Raises:
            UserError: The run cannot be written, or exists already.
        """
        recorder = self._recorder or self._open(network, classes)
        recorder.epoch(
            Checkpoint(
                epoch=recorder.last + 1,
                model={name: value for name, value in network.state_dict().items() if isinstance(value, Tensor)},
                metrics={name: value for name, value in metrics.items() if np.isfinite(value)},
                steps={name: torch.from_numpy(values) for name, values in steps.items()},
            )
        )
        recorder.flush()

    def close(self) -> None:
        """Finish the run, unless its folder has been deleted."""
        recorder, self._recorder = self._recorder, None
        if recorder and self.out.exists():
            recorder.__exit__(None, None, None)

    def _open(self, network: nn.Module, classes: int) -> Recorder:
        names = self.classes or self.probe.classes or tuple(map(str, range(classes)))
        if len(names) != classes:
            raise UserError(f"the model has {classes} classes, and {len(names)} are named")
        channels, height, width = self.probe.x.shape[1:]
        info = RunInfo(
            run_id=new_run_id(),
            method=self.method,
            epsilon=self.epsilon,
            norm=self.norm,
            bounds=self.bounds,
            shape=(channels, height, width),
            classes=tuple(map(str, names)),
            mean=self.mean,
            std=self.std,
            data=self.data,
            model=ModelSpec(class_name(network), foreign=True),
            attack=self.attack,
        )
        device = next((p.device for p in network.parameters()), torch.device("cpu"))
        test = (self.probe.x, self.probe.y)
        opened = Recorder(
            self.out, info=info, test=test, device=device, resume=self.resume, overwrite=self.overwrite
        ).__enter__()
        self._recorder = opened
        return opened
