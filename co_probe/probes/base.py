"""Base class of probes, and their tables over the epochs of a run. Only measuring imports torch."""

import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import fields, replace
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import pandas as pd

from co_probe.config.ball import check_ball
from co_probe.config.labels import attack_name
from co_probe.errors import UserError
from co_probe.numerics.statistics import mean_interval, wilson
from co_probe.probes.table import Epochs, Table, pick_epochs
from co_probe.store import StoredRun

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from co_probe.probes.images import Checkpoint, ProbeSet
    from co_probe.runs import Run

Row = dict[str, Any]  # quantity, value, low, high, n: one number of a tidy table
ATTACKS = ("against", "generator")  # settings that are attacks
SAVE_EVERY = 10.0  # seconds between writes: the most that a crash can lose


class Diagnostic(ABC):
    """Measurement on a run, stored as a table: a frozen dataclass whose fields are its settings.

    A new diagnostic is one file and one line in a registry. Import torch inside the measuring methods, so that settings
    can be read and checked without it.

    Attributes:
        name: Name of the table.
        split: Images to use: `test`, `train` or `validation`.
        shares: Quantities that are shares in [0, 1], which the command line prints in percent.
        details: Quantities for figures that are not printed.
        own: Columns that its table has in addition to those of every table.
        figure: Registered figure of the probe; None for lines of all quantities.
        default_epochs: Epochs to measure by default: `all`, `best and last` or `last`.
    """

    name: ClassVar[str]
    split: str
    shares: ClassVar[tuple[str, ...]] = ()
    details: ClassVar[tuple[str, ...]] = ()
    own: ClassVar[tuple[str, ...]] = ()
    figure: ClassVar[str | None] = None
    default_epochs: ClassVar[str] = "all"

    @abstractmethod
    def table(self, run: StoredRun, epochs: Epochs | None = None, *, compile: bool = False) -> Table:
        """Return the table of stored and missing rows of a run."""

    def unsupported_reason(self, run: StoredRun) -> str | None:
        """Return in one line why a run cannot be measured; None if it can."""
        return None

    def columns(self, run: StoredRun) -> dict[str, Any]:
        """Return settings stored as columns, which identify a row, with defaults that depend on the run filled in."""
        return {f.name: self._column(f.name, getattr(self, f.name), run) for f in self._settings()}

    def select(self, frame: pd.DataFrame, run: StoredRun) -> pd.DataFrame:
        """Return the rows of a stored table that were measured with these settings, sorted by epoch.

        Args:
            frame: The table of this probe on `run`, with rows of all settings. Columns that did not exist when a row
                was written have the setting's default.
            run: The run that was measured.
        """
        return self._matching(frame, self.columns(run), run)

    def find(self, frame: pd.DataFrame, run: StoredRun) -> pd.DataFrame:
        """Return the rows for `run.frame(name, **settings)`: those of `select`."""
        return self.select(frame, run)

    def _matching(self, frame: pd.DataFrame, columns: dict[str, Any], run: StoredRun) -> pd.DataFrame:
        defaults = {f.name: self._column(f.name, f.default, run) for f in self._settings()}
        for name, value in columns.items() if len(frame) else ():
            stored = frame[name] if name in frame else pd.Series(np.nan, frame.index, object)
            frame = frame[(stored == value) | (stored.isna() & (value == defaults.get(name)))].assign(**{name: value})
        return frame.sort_values("epoch", kind="stable") if len(frame) else frame

    def _settings(self) -> list[Any]:
        return [f for f in fields(self) if f.init]  # type: ignore[arg-type]  # subclasses are dataclasses

    def _column(self, name: str, value: Any, run: StoredRun) -> Any:
        if name in ATTACKS:
            return attack_name(value)
        return run.epsilon if name == "epsilon" and value is None else value


class Probe(Diagnostic):
    """An indicator evaluated at every epoch of a run. Its settings are keyword-only.

    A setting `epsilon` is the norm bound, None for that of the run; settings `against` and `generator` are attacks.
    """

    @abstractmethod
    def measure(self, checkpoint: "Checkpoint", images: "ProbeSet") -> list[Row]:
        """Measure one epoch.

        Args:
            checkpoint: The run after the epoch, with its model and its method.
            images: The images of the probe set that `split` names, on the checkpoint's device.

        Returns:
            Rows with the columns quantity, value, low, high, n and those in `own`.
        """

    def baselines(self, images: "ProbeSet") -> list[Row]:
        """Return the rows that do not depend on the epoch; they are stored as epoch 0."""
        return []

    def recorded(self, run: StoredRun, epoch: int) -> list[Row] | None:
        """Return the rows of an epoch that were recorded during training; None if there are none."""
        return None

    def table(self, run: StoredRun, epochs: Epochs | None = None, *, compile: bool = False) -> Table:
        """Return the stored and missing rows of this probe on a run."""
        return EpochTable(self, run, epochs, compile)


class EpochTable(Table):
    """The rows of a probe that is measured at every epoch.

    Args:
        probe: The probe, with its settings.
        run: The run.
        epochs: Epochs to measure in addition to stored ones: `all`, `best and last`, `last`, a number or numbers; the
            probe's default if None.
        compile: Make and evaluate perturbations with torch.compile.

    Raises:
        UserError: If the run has no such epoch.
    """

    def __init__(self, probe: Probe, run: StoredRun, epochs: Epochs | None = None, compile: bool = False):
        self.probe, self.run, self.compile = probe, run, compile
        self.frame = run.frame(probe.name)
        have = self._known_epochs()
        wanted = [
            epoch for epoch in pick_epochs(run, probe.default_epochs if epochs is None else epochs) if epoch not in have
        ]
        recorded = {epoch: rows for epoch in wanted if (rows := probe.recorded(run, epoch)) is not None}
        self._recorded = [row for epoch, rows in recorded.items() for row in self._labelled(epoch, rows)]
        self.missing = [epoch for epoch in wanted if epoch not in recorded]

    def rows(self) -> pd.DataFrame:
        """Return the rows of this probe with these settings, sorted by epoch."""
        return self.probe.select(self.frame, self.run)

    def check(self, run: "Run") -> None:
        """Raise UserError if the run is unsupported or an attack is unknown."""
        from co_probe.attacks.named import named_attack

        for setting in ATTACKS:
            if (attack := getattr(self.probe, setting, "method")) != "method":
                named_attack(attack, run.epsilon, run.norm, run.info.bounds)
        if reason := self.probe.unsupported_reason(run):
            raise UserError(reason)

    def store_recorded(self) -> None:
        """Store rows that training has recorded."""
        self._save(self._recorded)
        self._recorded = []

    def measure(self, run: "Run", device: "torch.device") -> Iterator[str]:
        """Measure the missing epochs, yielding the run's name after each."""
        from co_probe.probes.images import Checkpoint, ProbeSet

        x, y = run.probe_data(self.probe.split)
        epsilon = getattr(self.probe, "epsilon", None) or run.epsilon
        info = run.info
        check_ball(epsilon, info.norm, info.bounds)
        images = ProbeSet(x.to(device), y.to(device), epsilon, info.probe_seed, norm=info.norm, bounds=info.bounds)
        new, saved = [], time.monotonic()
        if 0 not in self._known_epochs():
            new += self._labelled(0, self.probe.baselines(images))
        try:
            for epoch, model in run.models(self.missing, device, compile=self.compile):
                checkpoint = Checkpoint(run, epoch, device, model, self.compile)
                new += self._labelled(epoch, self._measure_epoch(checkpoint, images))
                if time.monotonic() - saved > SAVE_EVERY:
                    self._save(new)
                    new, saved = [], time.monotonic()
                yield run.name
        finally:
            self._save(new)

    def _measure_epoch(self, checkpoint: "Checkpoint", images: "ProbeSet") -> list[Row]:
        import torch

        if self.probe.split == "train" and (state := checkpoint.run.image_state(checkpoint.epoch)) is not None:
            images = replace(images, state=torch.from_numpy(state).to(checkpoint.device))
        return self.probe.measure(checkpoint, images)

    def _known_epochs(self) -> set[int]:
        rows = self.rows()
        return set(rows["epoch"]) if len(rows) else set()

    def _labelled(self, epoch: int, rows: list[Row]) -> list[dict[str, Any]]:
        labels = self.run.labels(epoch, self.probe.name) | self.probe.columns(self.run)
        return [labels | row for row in rows]

    def _save(self, new: list[dict[str, Any]]) -> None:
        if new:
            self.frame = self.run.add_rows(self.probe.name, pd.DataFrame(new))


def accuracy_row(quantity: str, correct: "Tensor", n: int | None = None) -> Row:
    """Make a row with an accuracy and its 95% Wilson interval.

    Args:
        quantity: Name of the quantity.
        correct: Correctness of each example, bool (n,), or of several draws of each, (draws, n).
        n: Number of images, if `correct` holds several draws of each.
    """
    n, value = n or correct.numel(), correct.float().mean().item()
    low, high = wilson(value, n)
    return {"quantity": quantity, "value": value, "low": low, "high": high, "n": n}


def mean_row(quantity: str, values: "Tensor") -> Row:
    """Make a row with a mean over examples and its 95% normal interval.

    Args:
        quantity: Name of the quantity.
        values: One number for each example, (n,), n > 0.
    """
    mean, low, high = mean_interval(values.cpu().numpy())
    return {"quantity": quantity, "value": mean, "low": low, "high": high, "n": len(values)}
