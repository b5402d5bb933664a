"""Writing a run while it is trained, imported or watched: an epoch goes to the disk in the background."""

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
    """Content of one epoch, to be stored.

    Attributes:
        epoch: Its number, from 1.
        model: The state dict of the network.
        ema: That of the moving average of its weights, None if there is none.
        metrics: What was measured, {name: number}, of which those are stored that are finite; empty if nothing was.
        method: What the method has learned, {group: {name: number}}.
        images: The method's state of the probe set's train images, (n, C, H, W), or None.
        steps: Series over the optimizer steps, {name: (steps,)}, besides those of `Recorder.step`.
        resume: What going on after this epoch needs, {group: {name: tensor or number}}, or None.
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
    """Writes a run, one epoch at a time, for the length of a `with`.

    An epoch is copied when it is recorded and written by a thread while the caller goes on. An error of writing is
    raised by the next `epoch`, or at the end of the `with`. Whatever instant a crash picks, the newest finished epoch
    has what resuming needs.

    Args:
        out: The folder of the run.
        info: The facts of the run. A run that is gone on with keeps its own (`Recorder.info`).
        test: The test images of all diagnostics and their classes.
        train: The training images of all diagnostics, if there are any, and their classes.
        validation: The images that onset and best epoch are judged on, if they are not the test images.
        index: The numbers of these images in the data set, by split, if they have any.
        device: Where the tensors are that will be recorded.
        resume: Go on if there is a run, else start one.
        overwrite: Delete the run that is there.
        processes: Number of processes that train it.
        imported: Whether another program trained it: machine and versions are then not those of the training.

    Raises:
        UserError: There is a run and neither is set, the folder holds something else, or it has another writer; or an
            epoch cannot be written.

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
            if kind is None or issubclass(kind, GeneratorExit):  # an error of the caller's own comes before ours
                self.flush()
        finally:
            self._writer.__exit__(kind, *rest)

    @property
    def path(self) -> Path:
        """The folder of the run."""
        return self._writer.path

    @property
    def info(self) -> RunInfo:
        """The facts of the run, as its files have them."""
        return self._writer.info

    @property
    def index(self) -> dict[str, np.ndarray]:
        """Numbers of the probe images in the data set, by split, as they were drawn at the start of the run."""
        return self._writer.probe_set

    @property
    def last(self) -> int:
        """The newest epoch that is on the disk, 0 if there is none."""
        return self._writer.last

    def resume_state(self) -> dict[str, Any]:
        """Return the `Checkpoint.resume` of the newest finished epoch, as arrays.

        Raises:
            UserError: Its file is missing.
            DamagedFile: The file does not verify, or is of another run or epoch.
        """
        return self._writer.resume_state()

    def step(self, **values: float | Tensor) -> None:
        """Record numbers of one optimizer step; they are stored with the epoch, as float32 series.

        Args:
            **values: Numbers or tensors of one element, which may be on any device: nothing waits for them.
        """
        for name, value in values.items():
            kept = value.detach().reshape(()).clone() if isinstance(value, Tensor) else float(value)
            self._steps.setdefault(name, []).append(kept)

    def epoch(self, checkpoint: Checkpoint) -> None:
        """Copy a finished epoch and begin to write it.

        Args:
            checkpoint: What to keep; its tensors may change as soon as this returns.

        Raises:
            UserError: The epoch before could not be written.
        """
        self.flush()
        series = {name: _series(values) for name, values in self._steps.items()} | dict(checkpoint.steps)
        self._steps = {}
        content: dict[str, Any] = {
            "model": snapshot(checkpoint.model, self._stream),
            # Unknown values are left out: a table has no NaN.
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
    """Stack numbers, which lie on a device if any of them is a tensor there, as float32 (steps,)."""
    device = next((value.device for value in values if isinstance(value, Tensor)), torch.device("cpu"))
    return torch.stack([torch.as_tensor(value, dtype=torch.float32, device=device) for value in values])
