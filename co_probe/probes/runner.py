"""Walking a probe over the epochs of runs: what is stored already is not measured again."""

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from co_probe.attacks.named import named_attack
from co_probe.errors import UserError, unknown
from co_probe.probes.base import Checkpoint, Probe, ProbeSet, Row
from co_probe.runs import Run
from co_probe.runs.build import pick_device

RunLike = str | Path | Run
Progress = Callable[[str, int, int], None]  # (run, epochs measured, epochs to measure, over all runs)
SAVE_EVERY = 10.0  # seconds of measuring that a crash may cost


def measure_runs(
    probe: Probe,
    runs: RunLike | Iterable[RunLike],
    *,
    last: bool = False,
    device: str = "auto",
    compile: bool = False,
    progress: Progress | None = None,
) -> pd.DataFrame:
    """The table of `probe` over all epochs of `runs`; new rows are stored with each run as they come.

    `last`: measure only the newest epoch of each, besides what is stored; `compile`: run its network through
    torch.compile where perturbations are made and looked at (`ProbeSet`).
    Raises UserError if a run is none, or if the probe cannot measure it.
    """
    if isinstance(runs, str | Path | Run):
        runs = [runs]
    opened = [run if isinstance(run, Run) else Run(run) for run in runs]
    if probe.split not in ("test", "train"):
        raise unknown("split", probe.split, ["test", "train"])
    for run in opened:
        for attack in ("against", "generator"):
            if (name := probe.parameters().get(attack, "method")) != "method":
                named_attack(name, run.epsilon, run.norm, run.info.bounds)
        if objection := probe.objection(run):
            raise UserError(objection)
    target = pick_device(device)
    stored = [_Table(probe, run, last, compile) for run in opened]
    todo, done = sum(len(table.missing) for table in stored), 0
    for table in stored:
        for _ in table.measure(target):
            done += 1
            if progress:
                progress(table.run.name, done, todo)
    return pd.concat([table.rows() for table in stored], ignore_index=True)


class _Table:
    """The rows of one probe on one run."""

    def __init__(self, probe: Probe, run: Run, last: bool, compile: bool):
        self.probe, self.run, self.compile = probe, run, compile
        self.frame = run.frame(probe.name)
        have = set(self.rows()["epoch"]) if len(self.frame) else set()
        self.missing = [epoch for epoch in (run.epochs[-1:] if last else run.epochs) if epoch not in have]
        self.wants_yardsticks = 0 not in have

    def rows(self) -> pd.DataFrame:
        """The rows of this probe with these parameters, by epoch."""
        frame = self.frame
        for name, value in self.probe.parameters().items():
            frame = frame[frame[name] == value]
        return frame.sort_values("epoch", kind="stable")

    def measure(self, device: torch.device):
        """Measure the missing epochs, yielding after each, and store them every few seconds and at the end."""
        run, new, saved = self.run, [], time.monotonic()
        x, y = run.test_data() if self.probe.split == "test" else run.train_data()
        images = ProbeSet(
            x.to(device), y.to(device), run.epsilon, run.info.probe_seed, norm=run.norm, bounds=run.info.bounds
        )
        if self.wants_yardsticks:
            new += self._labelled(0, self.probe.yardsticks(images))
        try:
            for checkpoint in self._checkpoints(device):
                new += self._labelled(checkpoint.epoch, self._measure_epoch(checkpoint, images))
                if time.monotonic() - saved > SAVE_EVERY:
                    self._save(new)
                    new, saved = [], time.monotonic()
                yield
        finally:
            self._save(new)

    def _checkpoints(self, device: torch.device) -> Iterator[Checkpoint]:
        """The missing epochs in turn."""
        if not self.probe.reads_models:
            yield from (Checkpoint(self.run, epoch, device) for epoch in self.missing)
            return
        for epoch, model in self.run.models(self.missing, device, compile=self.compile):
            yield Checkpoint(self.run, epoch, device, model)

    def _measure_epoch(self, checkpoint: Checkpoint, images: ProbeSet) -> list[Row]:
        if self.probe.split == "train" and (kept := self.run.image_state(checkpoint.epoch)) is not None:
            state = torch.from_numpy(kept).to(checkpoint.device)
            images = replace(images, state=state)
        return self.probe.measure(checkpoint, images)

    def _labelled(self, epoch: int, rows: list[Row]) -> list[dict[str, Any]]:
        labels = self.run.labels(epoch, self.probe.name) | self.probe.parameters()
        return [labels | row for row in rows]

    def _save(self, new: list[dict[str, Any]]) -> None:
        if new:
            self.frame = self.run.add_rows(self.probe.name, pd.DataFrame(new))
