"""Runs as arguments: paths or objects, one or several."""

from collections.abc import Iterable
from pathlib import Path

from co_probe.store.stored_run import StoredRun

RunLike = str | Path | StoredRun


def opened(runs: RunLike | Iterable[RunLike]) -> list[StoredRun]:
    """Open runs that a user named.

    Args:
        runs: A path, a run, or several of them. Objects are returned as they are.

    Raises:
        UserError: If a path is no run.
    """
    several = [runs] if isinstance(runs, str | Path | StoredRun) else list(runs)
    return [run if isinstance(run, StoredRun) else StoredRun(run) for run in several]
