"""Writing a run, an epoch at a time, so that a crash at any byte costs at most the epoch being trained."""

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
)  # a results file may be in the making
OWN_FILE = re.compile(
    r"run\.h5|run\.lock|results(-ema)?\.(h5|lock)|epoch-\d+\.h5|resume-\d+(-rank\d+of\d+)?\.h5|\..*\.partial"
)


@dataclass(frozen=True)
class ProbeImages:
    """The images of one split that every diagnostic of a run uses.

    Attributes:
        images: (n, C, H, W), uint8 in 0..255 or floating point within the bounds of the run.
        labels: (n,) int64 class numbers.
        index: (n,) int64 numbers of the images in the data set, None if they have none.
    """

    images: np.ndarray
    labels: np.ndarray
    index: np.ndarray | None = None

    def to_tree(self) -> dict[str, np.ndarray]:
        """Return what `run.h5` stores of it."""
        content = {"images": self.images, "labels": self.labels, "index": self.index}
        return {name: value for name, value in content.items() if value is not None}


class RunWriter:
    """The one writer of the run in `path`, for the length of a `with`.

    A new epoch is committed in this order: `resume-N.h5`, then `epoch-N.h5`, whose appearance makes the epoch finished;
    then older resume files go. So whatever instant a crash picks, the newest finished epoch has its resume file.
    `run.h5`, which may hold many images, is written at the start and, with links to the new epochs, at the end.

    Args:
        path: The folder of the run.
        info: The facts of the run. A run that is gone on with keeps its own (`RunWriter.info`).
        probe: The probe images, by split: `test`, and `train` if there are any.
        environment: The machine and the versions that it is made with.
        resume: Go on if there is a run, else start one.
        overwrite: Delete the run that is there.

    Raises:
        UserError: There is a run and neither is set, the folder holds something else, or it has another writer; or the
            run that is to be gone on with has other settings.
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
        self._unmarked = 0  # epochs up to this one were written by an earlier version, without the run's id

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
                if kind is None:  # else the first error is the one to tell
                    raise

    def _prepare(self) -> None:
        foreign = [p.name for p in self.path.iterdir() if not OWN_FILE.fullmatch(p.name)]
        exists = (self.path / "run.h5").exists()
        if not exists and self.last and not self.overwrite:
            raise UserError(f"{self.path} has epochs but no run.h5: put it back, or start afresh with overwrite=True")
        if not exists and foreign:
            raise UserError(
                f"{self.path} is not a run and not empty (it has {sorted(foreign)[0]}): choose another folder"
            )
        if exists and not (self.resume or self.overwrite):
            raise UserError(
                f"{self.path} is a run already: resume=True goes on with it, overwrite=True starts it afresh"
            )
        if self.overwrite:
            self._empty()
        if exists and not self.overwrite:
            self._go_on_with(StoredRun(self.path))
        self._write_main()
        self._tidy(at_start=True)

    def _go_on_with(self, stored: StoredRun) -> None:
        """Keep what the run recorded at its start. Raises UserError if its settings are others than those given."""
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
        """Delete the run that is there: run.h5 last and newer epochs first, so that a crash leaves an old run."""
        own = [p for p in self.path.iterdir() if OWN_FILE.fullmatch(p.name) and p.name != "run.lock"]
        with changing(self.path):
            for file in sorted(own, key=lambda p: (p.name != "run.h5", p.name), reverse=True):
                file.unlink()
        sync_folder(self.path)

    @property
    def probe_set(self) -> dict[str, np.ndarray]:
        """Numbers of the probe images in the data set, by split, as they were drawn at the start of the run."""
        return {split: images["index"] for split, images in self._probe.items() if "index" in images}

    @property
    def last(self) -> int:
        """The newest finished epoch, 0 if there is none."""
        return max(self._epochs(), default=0)

    def resume_state(self) -> dict[str, Any]:
        """Return what `commit` was given as `resume` with the newest finished epoch.

        Raises:
            UserError: Its file is missing.
            DamagedFile: The file does not verify, or is of another run or epoch.
        """
        name, last = f"resume-{self.last:04d}.h5", self.last
        if not (self.path / name).exists():
            raise UserError(
                f"{self.path} cannot go on after epoch {last}: {name} is missing; overwrite=True starts afresh"
            )
        with tree.opened(self.path / name) as file:
            state = tree.read(file)
            if last > self._unmarked:
                check_mark(state, self.info.run_id, last)
            return schema.check_resume(state)

    def commit(self, epoch: int, checkpoint: tree.Tree, resume: tree.Tree | None) -> None:
        """Add a finished epoch.

        Args:
            epoch: Its number, from 1.
            checkpoint: The groups `model`, `metrics`, `method`, `images` and, if there are any, `steps`. The array
                `images/state` is rounded, everything else is written as it is.
            resume: What going on after this epoch needs; None after the last epoch.

        Raises:
            UserError: The disk is full or cannot be written; the run is then as it was before.
        """
        mark = {"run_id": self.info.run_id, "epoch": epoch}
        if resume is not None:
            tree.write(self.path / f"resume-{epoch:04d}.h5", {**resume, **mark})
        if "state" in (images := checkpoint["images"]):
            checkpoint = {**checkpoint, "images": rounding.rounded(images["state"])}
        tree.write(self.path / epoch_file(epoch), {**checkpoint, **mark})
        self._tidy()

    def _tidy(self, *, at_start: bool = False) -> None:
        """Delete what nothing needs any more: older resume files, and what a crash left.

        Args:
            at_start: Whether there is no other process of the run yet, which may be writing a part of a newer epoch.
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


def _difference(stored: StoredRun, info: RunInfo) -> str:
    """Return in which settings a run differs from what is asked for; nothing if it does not."""
    if stored.info.settings is None or info.settings is None:
        names = ("method", "epsilon", "norm", "shape", "classes", "model", "data")
        pairs = [(name, getattr(stored.info, name), getattr(info, name)) for name in names]
    else:
        old, new = stored.config.to_dict(), Config.from_dict(info.settings).to_dict()
        pairs = [(name, there, new[name]) for name, there in old.items()]
    return "; ".join(f"{name} is {there!r}, not {asked!r}" for name, there, asked in pairs if there != asked)


def _drawn(probe: tree.Tree) -> dict[tuple[str, str], list[int]]:
    """Return which images probe images are, and their labels."""
    parts = [(split, part) for split in probe for part in ("index", "labels") if part in probe[split]]
    return {(split, part): probe[split][part].tolist() for split, part in parts}
