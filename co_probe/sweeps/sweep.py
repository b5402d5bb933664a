"""Training the runs of a grid, several at a time."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, wait
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any
from uuid import uuid4

from co_probe.config import Config
from co_probe.config.plugins import allowed
from co_probe.errors import CoProbeError
from co_probe.executor import Executor, error_of
from co_probe.files.atomic import changing
from co_probe.progress import progress_bar
from co_probe.runs import Run
from co_probe.runs.build import epoch_count
from co_probe.store import StoredRun
from co_probe.store.stored_run import epoch_number
from co_probe.sweeps.cell import run_cell, write_returned
from co_probe.sweeps.engines import local
from co_probe.sweeps.grid import Grid

POLL = 0.5  # seconds at most between two looks at the disk
Progress = Callable[[int, int], None]  # (epochs finished, epochs planned)


class SweepFailed(CoProbeError):
    """Some runs of a sweep failed; the others are complete.

    Attributes:
        failures: {folder of a run: its error}.
    """

    def __init__(self, failures: Mapping[Path, CoProbeError], total: int):
        self.failures = dict(failures)
        each = "; ".join(f"{path.name}: {error}" for path, error in failures.items())
        super().__init__(f"{len(failures)} of {total} runs failed, and the same sweep tries them again: {each}")


def sweep(
    grid: Grid | Mapping[str, Config] | Mapping[Path, Config],
    out: str | Path | None = None,
    *,
    jobs: int | None = None,
    device: str = "auto",
    compile: bool = False,
    executor: Executor | None = None,
    progress: bool | Progress = False,
) -> list[Run]:
    """Train every run of a grid, and return the runs.

    Complete runs are not trained again, and incomplete ones are resumed. A failed run does not stop the others.

    Args:
        grid: A `Grid`, or {folder of a run: its settings}.
        out: Folder of the runs; for a mapping, its keys are relative to it. If None, `sweeps/sweep` for a grid, and the
            working directory for a mapping.
        jobs: Number of concurrent processes, without an `executor`. If None, one per GPU, or one per core without a
            GPU. With more jobs than GPUs, several share one.
        device: `auto`, `cpu`, `cuda`, `cuda:1`.
        compile: Use torch.compile in training.
        executor: Executor of one task per run, with the `submit` of `concurrent.futures`, such as
            `co_probe.sweeps.ray_cluster.RayCluster`; it is not shut down. Its workers need not share the disk: they
            return complete runs that they cannot write. If None, processes on this machine, each with its share of the
            cores and, with `device` auto or cuda, its own GPU.
        progress: True for a progress bar on standard error; or a function that is called with the numbers of finished
            and planned epochs.

    Returns:
        The runs, in the order of the grid.

    Raises:
        UserError: If the grid is invalid.
        SweepFailed: At the end, if runs failed.

    Example:
        >>> runs = co_probe.sweep(co_probe.Grid(methods=("fgsm", "pgd"), epsilons=("4/255", "8/255")), "sweeps/first")
    """
    cells = place(grid, out)
    with progress_bar(f"{len(cells)} runs, epochs") if progress is True else nullcontext(None) as show:
        report = progress if callable(progress) else None
        if show:
            report = lambda done, planned: show("", done, planned)  # noqa: E731
        ended = dict(train_cells(cells, jobs=jobs, device=device, compile=compile, executor=executor, progress=report))
    if failures := {path: error for path in cells if (error := ended[path]) is not None}:
        raise SweepFailed(failures, len(cells))
    return [Run(path) for path in cells]


def place(grid: Grid | Mapping[str, Config] | Mapping[Path, Config], out: str | Path | None) -> dict[Path, Config]:
    """Return {folder of a run: its settings} of a grid or a mapping. Raises UserError if the grid is invalid."""
    if isinstance(grid, Grid):
        return grid.cells(Path("sweeps/sweep" if out is None else out))
    return {Path(out or "") / name: config for name, config in grid.items()}


def train_cells(
    cells: Mapping[Path, Config],
    *,
    jobs: int | None = None,
    device: str = "auto",
    compile: bool = False,
    executor: Executor | None = None,
    progress: Progress | None = None,
) -> Iterator[tuple[Path, CoProbeError | None]]:
    """Train runs like `sweep`, and yield each run as it ends.

    Args:
        cells: {folder of a run: its settings}.
        jobs: As in `sweep`.
        device: As in `sweep`.
        compile: As in `sweep`.
        executor: As in `sweep`.
        progress: Called with the numbers of finished and planned epochs.

    Yields:
        The folder of each run, with its error or None; runs that are complete already come first.
    """
    complete = [path for path, config in cells.items() if is_complete(path, config)]
    yield from ((path, None) for path in complete)
    left = {path: config for path, config in cells.items() if path not in complete}
    if not left:
        return
    own = None
    if executor is None:
        executor = own = local(len(left), jobs, device)
    planned = sum(map(_planned, left.values()))
    waiting: dict[Future[Any], Path] = {}
    with _marked(left) as markers:
        try:
            for path, config in left.items():
                whole = str(path.absolute())  # workers may have another working directory
                rest = device, compile, allowed(), markers[path]
                waiting[executor.submit(run_cell, config.to_dict(), whole, *rest)] = path
            while waiting:
                ended, _ = wait(waiting, timeout=POLL, return_when=FIRST_COMPLETED)
                if progress:
                    progress(sum(map(_finished, left)), planned)
                for future in ended:
                    path = waiting.pop(future)
                    yield path, _outcome(future, path)
        finally:
            for future in waiting:
                future.cancel()
            if own:
                own.shutdown()  # after an interruption too: finished epochs are stored


def is_complete(path: Path, config: Config) -> bool:
    """Return whether the run exists with these settings and all of its epochs."""
    try:
        stored = StoredRun(path)
        return stored.config == config and stored.epochs[-1:] == [stored.planned]
    except CoProbeError:
        return False


@contextmanager
def _marked(paths: Iterable[Path]) -> Iterator[dict[Path, str]]:
    """Create a marker file beside each run, by which workers recognise a shared disk, and yield {run: file}."""
    name = f".sweep-{uuid4().hex}"
    markers = {path: path.absolute().parent / name for path in paths}
    try:
        for marker in markers.values():
            with changing(marker.parent):
                marker.parent.mkdir(parents=True, exist_ok=True)
                marker.touch()
        yield {path: str(marker) for path, marker in markers.items()}
    finally:
        for marker in markers.values():
            with suppress(OSError):
                marker.unlink(missing_ok=True)


def _outcome(future: Future[Any], path: Path) -> CoProbeError | None:
    """Return the error of a failed run, or None. A run returned by its worker is written into its folder."""
    if error := error_of(future):
        return error
    try:
        if files := future.result():
            write_returned(files, path)
    except CoProbeError as error:
        return error
    return None


def _planned(config: Config) -> int:
    """Return the number of epochs of a run. Invalid settings are reported when the run is trained, not here."""
    try:
        return epoch_count(config)
    except CoProbeError:
        return config.epochs


def _finished(out: Path) -> int:
    return sum(1 for path in out.glob("epoch-*.h5") if epoch_number(path.name))
