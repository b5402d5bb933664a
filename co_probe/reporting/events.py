"""TensorBoard events of a run: scalars per epoch, series over steps, and figures at the end."""

from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

from co_probe.errors import UserError
from co_probe.plots.style import headless
from co_probe.reporting.figures import stored_drawings
from co_probe.store import StoredRun
from co_probe.training.metrics import EpochMetrics

TAGS = {
    "clean": "accuracy/clean",
    "fgsm": "accuracy/fgsm",
    "train_attack": "accuracy/train_attack",
    "pgd10": "accuracy/pgd10",
    "train_accuracy": "accuracy/train",
    "train_loss": "loss/train",
    "gap": "gap/pgd10",
    "learning_rate": "learning_rate",
    "seconds": "seconds",
}
"""Tags of metrics of an epoch; on validation images, with `validation_` after the group."""

DPI = 110


class EventWriter:
    """Writes TensorBoard events of a run during training; a context manager.

    The step of tags of an epoch is the epoch; that of tags in the group `step` is the optimizer step. Figures that need
    no measurement are added at the end.

    Args:
        folder: Folder of the events, which is created.
        run: Folder of the run, which may not exist yet.

    Raises:
        UserError: tensorboard is not installed, or the folder cannot be created.

    Example:
        >>> with EventWriter("tb/fgsm", "runs/fgsm") as events:
        ...     co_probe.train("fgsm", out="runs/fgsm", on_epoch=events.epoch)
    """

    def __init__(self, folder: str | Path, run: str | Path):
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            raise UserError("tensorboard is not installed: pip install 'co-probe[tensorboard]'") from None
        try:
            Path(folder).mkdir(parents=True, exist_ok=True)
            self._writer = SummaryWriter(str(folder))
        except OSError as error:
            raise UserError(f"cannot write events to {folder}: {error.strerror or error}") from error
        self._run = Path(run)
        self._epochs: list[int] = []  # epochs whose steps have not been written
        self._step: int | None = None  # number of steps before them; None if not counted yet

    def __enter__(self) -> "EventWriter":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            if kind is None and self._epochs:
                self._steps(self._epochs)
                self._figures()
        finally:
            self._writer.close()

    def epoch(self, metrics: EpochMetrics) -> None:
        """Write the metrics of an epoch, and the steps of earlier epochs, whose files are complete."""
        for name, value in metrics.to_dict().items():
            held_out = name.startswith("validation_")
            tag = TAGS.get(name.removeprefix("validation_"))
            if tag:
                group, _, rest = tag.partition("/")
                self._writer.add_scalar(f"{group}/validation_{rest}" if held_out else tag, value, metrics.epoch)
        self._steps(self._epochs)
        self._epochs = [metrics.epoch]
        self._writer.flush()

    def _steps(self, epochs: Sequence[int]) -> None:
        """Write the series over the steps of some epochs."""
        run = StoredRun(self._run)
        for epoch in epochs:
            if self._step is None:  # a resumed run has earlier steps
                self._step = sum(_length(run, before) for before in run.epochs if before < epoch)
            for name, values in run.step_series(epoch).items():
                for number, value in enumerate(values.tolist(), self._step + 1):
                    if value == value:  # skip NaN
                        self._writer.add_scalar(f"step/{name}", value, number)
            self._step += _length(run, epoch)

    def _figures(self) -> None:
        headless()
        run = StoredRun(self._run)
        for kind, figure in stored_drawings(run):
            figure.set_dpi(DPI)
            self._writer.add_figure(f"figure/{kind}", figure, run.last_epoch)


def _length(run: StoredRun, epoch: int) -> int:
    """Return the number of recorded steps of an epoch."""
    return max((len(values) for values in run.step_series(epoch).values()), default=0)
