"""Recording of a run during training, import or monitoring, with epochs written in the background."""

import math
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from co_probe.store import ProbeImages, RunInfo, RunWriter
from co_probe.training.state import copying_stream, environment, snapshot

Images = tuple[Tensor, Tensor]  # (n, C, H, W), bytes or floating point within the bounds, and (n,) class numbers


@dataclass(frozen=True, kw_only=True, eq=False)
class Checkpoint:
    """Content of one epoch to store.

    Attributes:
        epoch: Number of the epoch, from 1.
        model: State dict of the network.
        ema: State dict of the moving average of weights; None without one.
        metrics: Metrics, {name: number}; non-finite ones are skipped. May be empty.
        method: Learned state of the method, {group: {name: number}}.
        images: State of the method for the train images of the probe set, (n, C, H, W), or None.
        steps: Series over optimizer steps, {name: (steps,)}, in addition to those of `Recorder.step`.
        resume: State to resume after this epoch, {group: {name: tensor or number}}, or None.
    """

    epoch: int
    model: Mapping[str, Tensor]
    ema: Mapping[str, Tensor] | None = None
    metrics: Mapping[str, float] = field(default_factory=dict)
    method: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    images: Tensor | None = None
    steps: Mapping[str, Tensor] = field(default_factory=dict)
    resume: Mapping[str, Mapping[str, Any]] | None = None


class Recorder:
    """Writes a run, one epoch at a time; a context manager.

    An epoch is copied when it is recorded and written by a thread in the background. Errors of writing are raised by
    the next `epoch`, or at the end of the context. After a crash at any time, the newest finished epoch can be resumed.

    Args:
        out: Folder of the run.
        info: Facts about the run; a resumed run retains its own (`Recorder.info`).
        test: Test images of all diagnostics, with classes.
        train: Training images of all diagnostics, with classes, or None.
        validation: Images that determine onset and best epoch, if not the test images.
        index: Numbers of these images in the data set, by split, if they have numbers.
        device: Device of the tensors to record.
        resume: Continue an existing run; start one if there is none.
        overwrite: Delete an existing run.
        processes: Number of processes that train the run.
        imported: Whether another program trained the run; machine and versions are then not those of training.

    Raises:
        UserError: A run exists and neither is set, the folder has other content or another writer, or an epoch cannot
            be written.

    Example:
        >>> with Recorder("runs/mine", info=info, test=(x, y)) as recorder:
        ...     for epoch in range(1, 31):
        ...         for loss in train_an_epoch(model):
        ...             recorder.step(loss=loss)
        ...         recorder.epoch(Checkpoint(epoch=epoch, model=model.state_dict()))
    """

    def __init__(
        self,
        out: str | Path,
        *,
        info: RunInfo,
        test: Images,
        train: Images | None = None,
        validation: Images | None = None,
        index: Mapping[str, np.ndarray] | None = None,
        device: torch.device | str = "cpu",
        resume: bool = False,
        overwrite: bool = False,
        processes: int = 1,
        imported: bool = False,
    ):
        device = torch.device(device)
        splits = {"test": test, "train": train, "validation": validation}
        probe = {
            split: _stored(images, (index or {}).get(split)) for split, images in splits.items() if images is not None
        }
        about = environment(device, info.precision) | ({"processes": str(processes)} if processes > 1 else {})
        if imported:
            about["recorded by"] = "import"
        self._writer = RunWriter(Path(out), info, probe, about, resume=resume, overwrite=overwrite)
        self._stream = copying_stream(device)
        self._thread = ThreadPoolExecutor(1, "writing an epoch")
        self._writing: Future[None] | None = None
        self._steps: dict[str, list[float | Tensor]] = {}

    def __enter__(self) -> "Recorder":
        self._writer.__enter__()
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: Any) -> None:
        self._thread.shutdown()
        try:
            if kind is None or issubclass(kind, GeneratorExit):  # an error of the caller takes precedence
                self.flush()
        finally:
            self._writer.__exit__(kind, *rest)

    @property
    def path(self) -> Path:
        """Folder of the run."""
        return self._writer.path

    @property
    def info(self) -> RunInfo:
        """Facts about the run, as stored in its files."""
        return self._writer.info

    @property
    def index(self) -> dict[str, np.ndarray]:
        """Numbers of the probe images in the data set, by split, as drawn at the start of the run."""
        return self._writer.probe_set

    @property
    def last(self) -> int:
        """Newest epoch on the disk; 0 if there is none."""
        return self._writer.last

    def resume_state(self) -> dict[str, Any]:
        """Return the `Checkpoint.resume` of the newest finished epoch, as arrays.

        Raises:
            UserError: Its file is missing.
            DamagedFile: The file does not verify, or is of another run or epoch.
        """
        return self._writer.resume_state()

    def step(self, **values: float | Tensor) -> None:
        """Record values of one optimizer step, which are stored with the epoch as float32 series.

        Args:
            **values: Numbers or tensors of one element on any device, without synchronisation.
        """
        for name, value in values.items():
            kept = value.detach().reshape(()).clone() if isinstance(value, Tensor) else float(value)
            self._steps.setdefault(name, []).append(kept)

    def epoch(self, checkpoint: Checkpoint) -> None:
        """Copy a finished epoch and start writing it.

        Args:
            checkpoint: Content of the epoch, whose tensors may change when this returns.

        Raises:
            UserError: The previous epoch could not be written.
        """
        self.flush()
        series = {name: _series(values) for name, values in self._steps.items()} | dict(checkpoint.steps)
        self._steps = {}
        content: dict[str, Any] = {
            "model": snapshot(checkpoint.model, self._stream),
            # Unknown values are skipped: tables have no NaN.
            "metrics": {name: value for name, value in checkpoint.metrics.items() if math.isfinite(value)},
            "method": {group: dict(values) for group, values in checkpoint.method.items()},
            "images": snapshot({} if checkpoint.images is None else {"state": checkpoint.images}, self._stream),
        }
        if checkpoint.ema is not None:
            content["ema"] = snapshot(checkpoint.ema, self._stream)
        if series:
            content["steps"] = snapshot({name: values.float() for name, values in series.items()}, self._stream)
        resume = checkpoint.resume
        going_on = None if resume is None else {part: snapshot(state, self._stream) for part, state in resume.items()}
        self._writing = self._thread.submit(self._writer.commit, checkpoint.epoch, content, going_on)

    def flush(self) -> None:
        """Wait until the newest recorded epoch is on the disk.

        Raises:
            UserError: It could not be written.
        """
        writing, self._writing = self._writing, None
        if writing is not None:
            writing.result()


def _stored(images: Images, index: np.ndarray | None) -> ProbeImages:
    x, y = images
    return ProbeImages(x.detach().cpu().contiguous().numpy(), y.detach().cpu().long().numpy(), index)


def _series(values: list[float | Tensor]) -> Tensor:
    """Stack numbers to float32 (steps,), on the device of any tensor among them."""
    device = next((value.device for value in values if isinstance(value, Tensor)), torch.device("cpu"))
    return torch.stack([torch.as_tensor(value, dtype=torch.float32, device=device) for value in values])
