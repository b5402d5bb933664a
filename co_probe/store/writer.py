"""Writing a run epoch by epoch, so that a crash at any time loses at most the current epoch."""

import json
import re
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from co_probe.config import Config
from co_probe.errors import CoProbeError, Stopped, UserError
from co_probe.files.atomic import changing, sync_folder
from co_probe.files.lock import Lock
from co_probe.store import rounding, schema, tree
from co_probe.store.info import RunInfo, info_to_tree
from co_probe.store.parts import PART_FILE
from co_probe.store.stored_run import SCHEMA, StoredRun, check_mark, epoch_file, epoch_number
from co_probe.store.upgrade import ARCHITECTURE

RESUME_FILE = re.compile(r"resume-(\d{4,})\.h5")
PARTIAL_FILE = re.compile(
    r"\.(run|epoch-\d+|resume-\d+)(?P<rank>-rank\d+of\d+)?\.h5\.partial"
)  # temporary results files included
OWN_FILE = re.compile(
    r"run\.h5|run\.lock|results(-ema)?\.(h5|lock)|epoch-\d+\.h5|resume-\d+(-rank\d+of\d+)?\.h5|\..*\.partial"
)


@dataclass(frozen=True)
class ProbeImages:
    """Probe images of one split.

    Attributes:
        images: (n, C, H, W), uint8 in 0..255 or floating point within the bounds of the run.
        labels: (n,) int64 class numbers.
        index: (n,) int64 numbers of the images in the data set; None if unknown.
    """

    images: np.ndarray
    labels: np.ndarray
    index: np.ndarray | None = None

    def to_tree(self) -> dict[str, np.ndarray]:
        """Convert to the group in `run.h5`."""
        content = {"images": self.images, "labels": self.labels, "index": self.index}
        return {name: value for name, value in content.items() if value is not None}


class RunWriter:
    """The exclusive writer of the run in `path`; a context manager.

    A new epoch is committed in this order: `resume-N.h5`; `epoch-N.h5`, which makes the epoch finished; deletion of
    older resume files. After a crash at any time, the newest finished epoch therefore has its resume file. `run.h5`,
    which may hold many images, is written at the start and, with links to the new epochs, at the end.

    Args:
        path: Folder of the run.
        info: Facts about the run; a resumed run retains its own (`RunWriter.info`).
        probe: Probe images, by split: `test`, and `train` if there are any.
        environment: Machine and versions.
        resume: Continue an existing run; start one if there is none.
        overwrite: Delete an existing run.

    Raises:
        UserError: A run exists and neither is set, the folder has other content or another writer, or the run to resume
            has other settings.
    """

    def __init__(
        self,
        path: Path,
        info: RunInfo,
        probe: Mapping[str, ProbeImages],
        environment: Mapping[str, Any],
        *,
        resume: bool = False,
        overwrite: bool = False,
    ):
        self.path, self.info, self.resume, self.overwrite = Path(path), info, resume, overwrite
        self._probe: tree.Tree = {split: images.to_tree() for split, images in probe.items()}
        self._environment: Mapping[str, Any] = dict(environment)
        self._stopped = 0  # the step at which the guard ended the run; 0 if it did not
        self._unmarked = 0  # newest epoch of an earlier version, which did not store the run id

    def __enter__(self) -> "RunWriter":
        with changing(self.path), ExitStack() as stack:
            self.path.mkdir(parents=True, exist_ok=True)
            stack.enter_context(Lock(self.path / "run.lock", f"the run {self.path}"))
            self._prepare()
            self._stack = stack.pop_all()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, *_: object) -> None:
        self._stopped = error.step if isinstance(error, Stopped) else 0
        with self._stack:
            try:
                if self._stopped or self._epochs() != self._linked:
                    self._write_main()
            except CoProbeError:
                if kind is None:  # otherwise the first error is raised
                    raise

    def _prepare(self) -> None:
        foreign = [p.name for p in self.path.iterdir() if not OWN_FILE.fullmatch(p.name)]
        exists = (self.path / "run.h5").exists()
        if not exists and self.last and not self.overwrite:
            raise UserError(f"{self.path} has epochs but no run.h5: restore it, or start again with overwrite=True")
        if not exists and foreign:
            raise UserError(
                f"{self.path} is not a run and not empty (it has {sorted(foreign)[0]}): choose another folder"
            )
        check_no_run(self.path, resume=self.resume, overwrite=self.overwrite)
        if self.overwrite:
            self._empty()
        if exists and not self.overwrite:
            self._go_on_with(StoredRun(self.path))
        self._write_main()
        self._tidy(at_start=True)

    def _go_on_with(self, stored: StoredRun) -> None:
        """Load the start of a run to resume. Raises UserError if its settings differ from the given ones."""
        if difference := _difference(stored, self.info):
            raise UserError(
                f"{self.path} was trained with other settings: {difference}; choose another folder, or overwrite=True"
            )
        self._environment = stored.environment
        if stored.schema >= 3:
            found = stored.read_main()["probe"].items()
            probe: tree.Tree = {split: ProbeImages(**images).to_tree() for split, images in found}
            if self.info.settings is not None and _drawn(probe) != _drawn(self._probe):
                raise UserError(
                    f"{self.path} was trained on other data: its probe images have other numbers or labels than those "
                    "of the data set now; choose another folder, or overwrite=True"
                )
            self.info, self._unmarked, self._probe = stored.info, stored.unmarked, probe
        else:
            self.info, self._unmarked = replace(self.info, precision=stored.precision), self.last

    def _empty(self) -> None:
        """Delete an existing run, newer epochs first and run.h5 last, so that a crash leaves a valid run."""
        own = [p for p in self.path.iterdir() if OWN_FILE.fullmatch(p.name) and p.name != "run.lock"]
        with changing(self.path):
            for file in sorted(own, key=lambda p: (p.name != "run.h5", p.name), reverse=True):
                file.unlink()
        sync_folder(self.path)

    @property
    def probe_set(self) -> dict[str, np.ndarray]:
        """Numbers of the probe images in the data set, by split, as drawn at the start of the run."""
        return {split: images["index"] for split, images in self._probe.items() if "index" in images}

    @property
    def last(self) -> int:
        """Newest finished epoch; 0 if there is none."""
        return max(self._epochs(), default=0)

    def resume_state(self) -> dict[str, Any]:
        """Read the `resume` state of the newest finished epoch.

        Raises:
            UserError: Its file is missing.
            DamagedFile: The file does not verify, or belongs to another run or epoch.
        """
        name, last = f"resume-{self.last:04d}.h5", self.last
        if not (self.path / name).exists():
            raise UserError(
                f"{self.path} cannot be resumed after epoch {last}: {name} is missing; overwrite=True starts again"
            )
        with tree.opened(self.path / name) as file:
            state = tree.read(file)
            if last > self._unmarked:
                check_mark(state, self.info.run_id, last)
            return schema.check_resume(state)

    def commit(self, epoch: int, checkpoint: tree.Tree, resume: tree.Tree | None) -> None:
        """Add a finished epoch.

        Args:
            epoch: Number of the epoch, from 1.
            checkpoint: Groups `model`, `metrics`, `method`, `images` and, if there are any, `steps`. The array
                `images/state` is rounded; the rest is written unchanged.
            resume: State to resume after this epoch; None after the last epoch.

        Raises:
            UserError: The disk is full or cannot be written; the run is unchanged.
        """
        mark = {"run_id": self.info.run_id, "epoch": epoch}
        if resume is not None:
            tree.write(self.path / f"resume-{epoch:04d}.h5", {**resume, **mark})
        if "state" in (images := checkpoint["images"]):
            checkpoint = {**checkpoint, "images": rounding.rounded(images["state"])}
        tree.write(self.path / epoch_file(epoch), {**checkpoint, **mark})
        self._tidy()

    def _tidy(self, *, at_start: bool = False) -> None:
        """Delete older resume files and remains of a crash.

        Args:
            at_start: Whether no other process of the run exists yet that may be writing a part of a newer epoch.
        """
        last = self.last
        with changing(self.path):
            for file in self.path.iterdir():
                resume = RESUME_FILE.fullmatch(file.name) or PART_FILE.fullmatch(file.name)
                old = resume and (int(resume[1]) < last or (at_start and int(resume[1]) > last))
                partial = PARTIAL_FILE.fullmatch(file.name)
                if old or (partial and (at_start or not partial["rank"])):
                    file.unlink(missing_ok=True)
        sync_folder(self.path)

    def _write_main(self) -> None:
        self._linked = self._epochs()
        main = {
            "format": "co-probe run",
            "schema": SCHEMA,
            "architecture": ARCHITECTURE,
            "environment": json.dumps(dict(self._environment)),
            "unmarked": self._unmarked,
            "stopped": self._stopped,
            "info": info_to_tree(self.info),
            "probe": self._probe,
            "epochs": {},
        }
        links = {f"epochs/{epoch:04d}": (epoch_file(epoch), "/") for epoch in self._linked}
        tree.write(self.path / "run.h5", main, links)

    def _epochs(self) -> list[int]:
        return sorted(epoch for path in self.path.iterdir() if (epoch := epoch_number(path.name)))


def check_no_run(path: Path, *, resume: bool, overwrite: bool) -> None:
    """Raise UserError if there is a run in `path` and neither `resume` nor `overwrite` is set."""
    if (path / "run.h5").exists() and not (resume or overwrite):
        raise UserError(f"{path} is a run already: resume=True continues it, overwrite=True deletes it first")


def _difference(stored: StoredRun, info: RunInfo) -> str:
    """Describe the settings in which a run differs from `info`; empty if there are none."""
    if stored.info.settings is None or info.settings is None:
        names = ("method", "epsilon", "norm", "shape", "classes", "model", "data")
        pairs = [(name, getattr(stored.info, name), getattr(info, name)) for name in names]
    else:
        old, new = stored.config.to_dict(), Config.from_dict(info.settings).to_dict()
        pairs = [(name, there, new[name]) for name, there in old.items()]
    return "; ".join(f"{name} is {there!r}, not {asked!r}" for name, there, asked in pairs if there != asked)


def _drawn(probe: tree.Tree) -> dict[tuple[str, str], list[int]]:
    """Return numbers and labels of probe images."""
    parts = [(split, part) for split in probe for part in ("index", "labels") if part in probe[split]]
    return {(split, part): probe[split][part].tolist() for split, part in parts}
