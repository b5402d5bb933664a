"""The table of a probe on one run: what is stored, what is missing, and measuring it."""

import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pandas as pd

from co_probe.errors import UserError
from co_probe.probes.base import ATTACKS, Probe, Row
from co_probe.store import StoredRun

if TYPE_CHECKING:
    import torch

    from co_probe.probes.images import Checkpoint, ProbeSet
    from co_probe.runs import Run

SAVE_EVERY = 10.0  # seconds of measuring that a crash may cost
Epochs = str | int | Sequence[int]


class Table(ABC):
    """The rows of one probe, with its settings, on one run.

    Attributes:
        run: The run.
        missing: What is still to be measured: one entry for each step of `measure`.
    """

    run: StoredRun
    missing: Sequence[Any]

    @abstractmethod
    def rows(self) -> pd.DataFrame:
        """All rows that were asked for and are known."""

    @abstractmethod
    def check(self, run: "Run") -> None:
        """Raise UserError if the run or a setting does not allow measuring."""

    @abstractmethod
    def measure(self, run: "Run", device: "torch.device") -> Iterator[str]:
        """Measure what is missing, yielding a label after each step; store it every few seconds and at the end."""

    @abstractmethod
    def store_recorded(self) -> None:
        """Store rows that are known without measuring, because the run has recorded them itself."""


class EpochTable(Table):
    """The rows of a probe that is measured at every epoch.

    Args:
        probe: The probe, with its settings.
        run: The run.
        epochs: `all`, `best and last`, `last`, a number or numbers: which epochs are measured, besides those that are
            stored; the probe's default if None.
        compile: Run the model through torch.compile where perturbations are made and evaluated.

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
        """The rows of this probe with these settings, sorted by epoch."""
        return self.probe.select(self.frame, self.run)

    def check(self, run: "Run") -> None:
        """Raise UserError if the run is unsupported, or there is no attack of a name."""
        from co_probe.attacks.named import named_attack

        for setting in ATTACKS:
            if (attack := getattr(self.probe, setting, "method")) != "method":
                named_attack(attack, run.epsilon, run.norm, run.info.bounds)
        if reason := self.probe.unsupported_reason(run):
            raise UserError(reason)

    def store_recorded(self) -> None:
        """Store rows that the run has recorded itself."""
        self._save(self._recorded)
        self._recorded = []

    def measure(self, run: "Run", device: "torch.device") -> Iterator[str]:
        """Measure the missing epochs, yielding the run's name after each."""
        from co_probe.probes.images import Checkpoint, ProbeSet

        x, y = run.probe_data(self.probe.split)
        epsilon = getattr(self.probe, "epsilon", None) or run.epsilon
        info = run.info
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


def pick_epochs(run: StoredRun, epochs: Epochs) -> list[int]:
    """The finished epochs that `all`, `best and last`, `last`, a number or numbers name.

    Raises:
        UserError: There is no such epoch.
    """
    if epochs == "all":
        return run.epochs
    if epochs == "last":
        return run.epochs[-1:]
    if epochs == "best and last":
        return sorted({run.best_epoch, run.last_epoch}) if run.epochs else []
    if isinstance(epochs, str):
        raise UserError(f"epochs must be all, best and last, last, a number or numbers, not '{epochs}'")
    wanted = [epochs] if isinstance(epochs, int) else list(epochs)
    if unknown := sorted(set(wanted) - set(run.epochs)):
        raise UserError(f"{run.name} has no epoch {unknown[0]}; its last is {run.last_epoch}")
    return wanted
