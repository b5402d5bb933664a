"""Reading and writing runs on disk with h5py, numpy and pandas, without torch and training code."""

from co_probe.store.info import ModelSpec, RunInfo, new_run_id
from co_probe.store.opening import RunLike, opened
from co_probe.store.stored_run import SPLITS, StoredRun, find_runs, refuse_folder_of_runs
from co_probe.store.writer import ProbeImages, RunWriter, check_no_run

__all__ = [
    "SPLITS",
    "ModelSpec",
    "ProbeImages",
    "RunInfo",
    "RunLike",
    "RunWriter",
    "StoredRun",
    "check_no_run",
    "find_runs",
    "new_run_id",
    "opened",
    "refuse_folder_of_runs",
]
