"""Writing a run, an epoch at a time, so that a crash at any byte costs at most the epoch being trained."""

import json
import re
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from co_probe.config import Config
from co_probe.errors import UserError
from co_probe.files.atomic import sync_folder, write_atomic
from co_probe.files.lock import Lock
from co_probe.store import rounding, tree
from co_probe.store.stored_run import EPOCH_FILE, SCHEMA, StoredRun, epoch_file
from co_probe.store.upgrade import ARCHITECTURE

RESUME_FILE = re.compile(r"resume-(\d{4,})\.h5")
PARTIAL_FILE = re.compile(r"\.(run|epoch-\d+|resume-\d+)\.h5\.partial")  # a results file may be in the making
OWN_FILE = re.compile(r"run\.h5|results\.h5|run\.lock|results\.lock|epoch-\d+\.h5|resume-\d+\.h5|\..*\.partial")


class RunWriter:
    """The one writer of the run in `path`, for the length of a `with`.

    A new epoch is committed in this order: `resume-N.h5`, then `epoch-N.h5`, whose appearance makes the epoch finished,
    then `run.h5` with a link to it; then older resume files go. So whatever instant a crash picks, the newest
    finished epoch has its resume file.

    `planned`: how many epochs there will be, if not `config.epochs`; `resume`: go on if there is a run (else start
    one); `overwrite`: delete the run that is there.
    Raises UserError if there is a run and neither is set, if the folder holds something else, or has another writer.
    """

    def __init__(
        self,
        path: Path,
        config: Config,
        probe_set: Mapping[str, np.ndarray],
        environment: Mapping[str, Any],
        *,
        planned: int | None = None,
        resume: bool = False,
        overwrite: bool = False,
    ):
        self.path, self.config, self.resume, self.overwrite = Path(path), config, resume, overwrite
        self._main: dict[str, Any] = {
            "format": "co-probe run",
            "schema": SCHEMA,
            "architecture": ARCHITECTURE,
            "config": json.dumps(config.to_dict()),
            "environment": json.dumps(dict(environment)),
            "probe_set": dict(probe_set),
            "planned": planned or config.epochs,
            "epochs": {},
        }

    def __enter__(self) -> "RunWriter":
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            with ExitStack() as stack:
                stack.enter_context(Lock(self.path / "run.lock", f"the run {self.path}"))
                self._prepare()
                self._stack = stack.pop_all()
        except OSError as error:
            raise UserError(f"cannot write to the folder {self.path}: {error.strerror}") from error
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _prepare(self) -> None:
        foreign = [p.name for p in self.path.iterdir() if not OWN_FILE.fullmatch(p.name)]
        exists = (self.path / "run.h5").exists()
        if not exists and self.last and not self.overwrite:
            raise UserError(f"{self.path} has epochs but no run.h5: put it back, or start afresh with --overwrite")
        if not exists and foreign:
            raise UserError(
                f"{self.path} is not a run and not empty (it has {sorted(foreign)[0]}): choose another --out"
            )
        if exists and not (self.resume or self.overwrite):
            raise UserError(f"{self.path} is a run already: --resume goes on with it, --overwrite starts it afresh")
        if self.overwrite:
            self._empty()
        if exists and not self.overwrite:
            stored = StoredRun(self.path)
            if stored.config != self.config:
                raise UserError(
                    f"{self.path} was trained with other settings: {_difference(stored.config, self.config)}; "
                    "choose another --out, or --overwrite it"
                )
            # What the run recorded at its start stays as it is.
            self._main |= {"environment": json.dumps(stored.environment), "probe_set": stored.probe_set}
        self._write_main()
        self._tidy()

    def _empty(self) -> None:
        """Delete the run that is there: run.h5 last and newer epochs first, so that a crash leaves an old run."""
        own = [p for p in self.path.iterdir() if OWN_FILE.fullmatch(p.name) and p.name != "run.lock"]
        for file in sorted(own, key=lambda p: (p.name != "run.h5", p.name), reverse=True):
            file.unlink()
        sync_folder(self.path)

    @property
    def probe_set(self) -> dict[str, np.ndarray]:
        """Indices of the test and train images of this run's diagnostics, as they were drawn at its start."""
        return self._main["probe_set"]

    @property
    def precision(self) -> str:
        """What the run's network computes in, as it was settled at its start."""
        return json.loads(self._main["environment"]).get("precision", "float32")  # earlier versions had no other

    @property
    def last(self) -> int:
        """The newest finished epoch, 0 if there is none."""
        return max(self._numbers(EPOCH_FILE), default=0)

    def resume_state(self) -> dict[str, Any]:
        """What `commit` was given as `resume` with the newest finished epoch. Raises UserError if it is not there."""
        name = f"resume-{self.last:04d}.h5"
        if not (self.path / name).exists():
            raise UserError(
                f"{self.path} cannot go on after epoch {self.last}: {name} is missing; --overwrite starts afresh"
            )
        with tree.opened(self.path / name) as file:
            return tree.read(file)

    def commit(self, epoch: int, checkpoint: tree.Tree, resume: tree.Tree | None) -> None:
        """Add a finished epoch. `resume`: what going on after it needs; None after the last epoch.

        What the checkpoint has for single images, `images/state`, is rounded; all else is written as it is.
        Raises UserError if the disk is full or cannot be written; the run is then as it was before.
        """
        if resume is not None:
            tree.write(self.path / f"resume-{epoch:04d}.h5", resume)
        if "state" in (images := checkpoint["images"]):
            checkpoint = {**checkpoint, "images": rounding.rounded(images["state"])}
        tree.write(self.path / epoch_file(epoch), checkpoint)
        self._write_main()
        self._tidy()

    def _tidy(self) -> None:
        """Delete what nothing needs any more: resume files of other epochs than the newest, and what a crash left."""
        last = self.last
        for file in self.path.iterdir():
            resume = RESUME_FILE.fullmatch(file.name)
            if (resume and int(resume[1]) != last) or PARTIAL_FILE.fullmatch(file.name):
                file.unlink()
        sync_folder(self.path)

    def _write_main(self) -> None:
        links = {f"epochs/{epoch:04d}": (epoch_file(epoch), "/") for epoch in sorted(self._numbers(EPOCH_FILE))}
        write_atomic(self.path / "run.h5", tree.encode(self._main, links))

    def _numbers(self, pattern: re.Pattern[str]) -> list[int]:
        return [int(match[1]) for p in self.path.iterdir() if (match := pattern.fullmatch(p.name))]


def _difference(old: Config, new: Config) -> str:
    pairs = zip(old.to_dict().items(), new.to_dict().values(), strict=True)
    return "; ".join(f"{name} is {there!r}, not {asked!r}" for (name, there), asked in pairs if there != asked)
