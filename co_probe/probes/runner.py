"""Measuring probes on runs: what is stored already is not measured again."""

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

import pandas as pd

from co_probe.errors import UserError, unknown
from co_probe.probes.base import Diagnostic
from co_probe.probes.table import Epochs
from co_probe.store import SPLITS, RunLike, StoredRun, opened

if TYPE_CHECKING:
    from co_probe.runs import Run

Progress = Callable[[str, int, int], None]  # (run, steps done, steps to do, over all runs)


def measure_runs(
    probe: Diagnostic,
    runs: RunLike | Iterable[RunLike],
    epochs: Epochs | None,
    device: str,
    compile: bool,
    progress: Progress | None,
) -> pd.DataFrame:
    """The table of one probe; the arguments are those of `co_probe.probe`. torch is imported if rows are missing."""
    if probe.split not in SPLITS:
        raise unknown("split", probe.split, SPLITS)
    stored = opened(runs)
    if not stored:
        raise UserError("name at least one run")
    if not any(run.epochs for run in stored):
        raise UserError(f"{stored[0].name} has no finished epoch yet")
    tables = [probe.table(run, epochs, compile=compile) for run in stored]
    for table in tables:
        table.store_recorded()
    unfinished = [table for table in tables if table.missing]
    if unfinished:
        from co_probe.runs.build import pick_device

        live = [live_run(table.run) for table in unfinished]
        for table, run in zip(unfinished, live, strict=True):
            table.check(run)
        target, todo, done = pick_device(device), sum(len(table.missing) for table in unfinished), 0
        for table, run in zip(unfinished, live, strict=True):
            for label in table.measure(run, target):
                done += 1
                if progress:
                    progress(label, done, todo)
    rows = [rows for table in tables if len(rows := table.rows())]
    return pd.concat(rows, ignore_index=True) if rows else pd.DataFrame()


def live_run(run: StoredRun) -> "Run":
    """The run with its models and images: itself, if it has them."""
    from co_probe.runs import Run

    return run if isinstance(run, Run) else Run(run.path, results=run.results, weights=run.chosen_weights)
