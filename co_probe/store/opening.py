"""Opening runs given as paths or objects, one or several."""

from collections.abc import Iterable
from pathlib import Path

from co_probe.store.stored_run import StoredRun

RunLike = str | Path | StoredRun


def opened(runs: RunLike | Iterable[RunLike]) -> list[StoredRun]:
    """Open runs given by a user.

    Args:
        runs: A path, a run, or several of them. Objects are returned as is.

    Raises:
        UserError: If a path is not a run.
    """
    several = [runs] if isinstance(runs, str | Path | StoredRun) else list(runs)
    return [run if isinstance(run, StoredRun) else StoredRun(run) for run in several]
