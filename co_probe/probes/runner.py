"""Measurement of probes on runs, where rows are not stored yet."""

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, as_completed
from typing import TYPE_CHECKING, Any

import pandas as pd

from co_probe.config.plugins import allow, allowed
from co_probe.errors import UserError, unknown
from co_probe.executor import Executor, error_of
from co_probe.probes.base import Diagnostic
from co_probe.probes.table import Epochs, Table
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
    executor: Executor | None = None,
) -> pd.DataFrame:
    """Return the table of one probe, with the arguments of `co_probe.probe`; import torch if rows are missing."""
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
    unfinished, elsewhere = [table for table in tables if table.missing], dict[Table, pd.DataFrame]()
    if unfinished and executor:
        elsewhere = _measure_elsewhere(executor, probe, unfinished, epochs, device, compile, progress)
    elif unfinished:
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
    found = [elsewhere[table] if table in elsewhere else table.rows() for table in tables]
    rows = [rows for rows in found if len(rows)]
    return pd.concat(rows, ignore_index=True) if rows else pd.DataFrame()


def _measure_elsewhere(
    executor: Executor,
    probe: Diagnostic,
    tables: Sequence[Table],
    epochs: Epochs | None,
    device: str,
    compile: bool,
    progress: Progress | None,
) -> dict[Table, pd.DataFrame]:
    """Measure all rows of each table by an executor; raise the first error when all tasks have ended."""
    waiting: dict[Future[Any], Table] = {}
    measured: dict[Table, pd.DataFrame] = {}
    errors = []
    try:
        for table in tables:
            run, model = table.run, getattr(table.run, "model", None)
            about = str(run.path.absolute()), model, None if run.results is None else str(run.results.absolute())
            waiting[executor.submit(_measure_one, probe, about, epochs, device, compile, allowed())] = table
        for done, future in enumerate(as_completed([*waiting]), 1):
            table = waiting.pop(future)
            if error := error_of(future):
                errors.append(error)
                continue
            measured[table] = future.result()
            if progress:
                progress(table.run.name, done, len(tables))
    finally:
        for future in waiting:
            future.cancel()
    if errors:
        raise errors[0]
    return measured


def _measure_one(
    probe: Diagnostic,
    about: tuple[str, Any, str | None],
    epochs: Epochs | None,
    device: str,
    compile: bool,
    names: Sequence[str],
) -> pd.DataFrame:
    """Measure the table of one run in a worker; `about` is its path, its model and the path of results."""
    from co_probe.runs import Run

    allow(*names)
    path, model, results = about
    return measure_runs(probe, Run(path, model=model, results=results), epochs, device, compile, None)


def live_run(run: StoredRun) -> "Run":
    """Return the run with models and images; a `Run` is returned as is."""
    from co_probe.runs import Run

    return run if isinstance(run, Run) else Run(run.path, results=run.results, weights=run.chosen_weights)
