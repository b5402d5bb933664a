"""A run on disk. Needs h5py, numpy and pandas, and neither torch nor the code that trained the run."""

from co_probe.store.stored_run import StoredRun, find_runs
from co_probe.store.writer import RunWriter

__all__ = ["RunWriter", "StoredRun", "find_runs"]
