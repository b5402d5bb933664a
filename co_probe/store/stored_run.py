"""Reading a run from a folder or a packed file."""

import hashlib
import math
import os
import re
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd

from co_probe.config import Config
from co_probe.config.probes import PROBES
from co_probe.config.settings import WEIGHTS
from co_probe.errors import CoProbeError, DamagedFile, NotStored, UserError
from co_probe.files.atomic import write_atomic
from co_probe.files.lock import Lock
from co_probe.store import rounding, schema, table, tree
from co_probe.store.info import RunInfo, info_from_tree, info_of_older
from co_probe.store.tables import TABLES
from co_probe.store.upgrade import upgrade_model

SCHEMA = 3  # schema 2 stores numbers of probe images instead of the images, schema 1 also unrounded image state
EPOCH_FILE = re.compile(r"epoch-(\d{4,7})\.h5")
SPLITS = ("test", "train", "validation")


def epoch_file(epoch: int) -> str:
    """Return the name of the file of `epoch` in a run's folder."""
    return f"epoch-{epoch:04d}.h5"


def epoch_number(name: str) -> int | None:
    """Return the epoch of a file name; None for other files."""
    match = EPOCH_FILE.fullmatch(name)
    epoch = int(match[1]) if match else 0
    return epoch if 0 < epoch <= schema.MOST_EPOCHS and epoch_file(epoch) == name else None


class StoredRun:
    """A run on disk as numbers: facts, weights, metrics and tables.

    Files are opened for each access and closed again, so a run can be read during training.

    Args:
        path: Folder or packed file of the run.
        results: Folder for tables of probes, with a file per run; that of the run if None.
        weights: `trained`, or `ema` for the moving average of weights, to which metrics, tables, models and verdict
            then refer. Tables then have the run name `NAME (EMA)` and are stored in a separate file.

    Raises:
        UserError: The run does not exist, or has no averaged weights.
        DamagedFile: The run is damaged.
    """

    def __init__(self, path: str | Path, *, results: str | Path | None = None, weights: str = "trained"):
        if weights not in WEIGHTS:
            raise UserError(f"weights must be {' or '.join(WEIGHTS)}, not {weights!r}")
        self.path, self.chosen_weights = Path(path), weights
        self.results = None if results is None else Path(results)
        self._unwritten: dict[str, pd.DataFrame] = {}  # tables that could not be written
        self.packed = self.path.is_file()
        if self.packed and not h5py.is_hdf5(self.path):
            raise UserError(f"{path} is not a run: it is a file of another kind (diagnose reads training logs)")
        if not self.packed and not (self.path / "run.h5").exists():
            name, _, epoch = self.path.name.rpartition("@")
            if name and (self.path.parent / name / "run.h5").exists():
                raise UserError(
                    f"{path} names an epoch of a run: name the run, {self.path.parent / name}, with epoch={epoch} in "
                    "eval and export"
                )
            refuse_folder_of_runs(path)
            what = "has no run.h5" if self.path.is_dir() else "does not exist"
            raise UserError(f"{path} is not a run: it {what}")
        self._metrics: dict[int, dict[str, float]] = {}
        with self._open_main() as file:
            about = tree.read_attributes(file)
            if about.get("format") != "co-probe run":
                raise UserError(f"{path} is an HDF5 file, but not a run of co-probe")
            self.schema: int = schema.whole(about["schema"], "schema", 1)
            if self.schema > SCHEMA:
                raise UserError(f"{path} was written by a newer co-probe (schema {self.schema}): upgrade to read it")
            self.unmarked: int = schema.whole(about.get("unmarked", 0), "unmarked", 0)
            self.stopped: int = schema.whole(about.get("stopped", 0), "stopped", 0)
            self.environment: dict[str, Any] = schema.json_object(about["environment"])
            architecture = schema.whole(about.get("architecture", 1), "architecture", 1)
            if self.schema >= 3:
                self._facts = info_from_tree(tree.read(tree.child(file, "info")), architecture)
            else:
                self._facts = self._read_older(file, about, architecture)
        if self._averaged:
            if not (self._facts.settings or {}).get("ema"):
                raise UserError(f"{path} has no averaged weights: it was not trained with ema=0.9995, say")
            self._facts = replace(self._facts, method=f"{self._facts.method} (EMA)")

    @property
    def _averaged(self) -> bool:
        return self.chosen_weights == "ema"

    def _read_older(self, file: h5py.File, about: dict[str, Any], architecture: int) -> RunInfo:
        """Read facts from `run.h5` of schema 1 or 2, and set the numbers of its probe images."""
        settings = schema.json_object(about["config"])
        settings["model"] = upgrade_model(settings["model"], architecture)
        config = Config.from_dict(settings)
        index = tree.read(tree.child(file, "probe_set"))
        schema.require({"test", "train"} <= index.keys(), "the numbers of the probe images", list(index))
        self.__dict__["probe_set"] = {split: schema.check_index(index[split], len(index[split])) for split in index}
        precision = self.environment.get("precision", "float32")  # the only precision of the first versions
        planned = schema.whole(about.get("planned", config.epochs), "planned", 1, schema.MOST_EPOCHS)
        return info_of_older(config, precision, planned)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({str(self.path)!r}: {self._facts.method}, {len(self.epochs)} epochs)"

    @property
    def name(self) -> str:
        """Name of the run in tables and figures."""
        return f"{self._own_name} (EMA)" if self._averaged else self._own_name

    @property
    def _own_name(self) -> str:
        return self.path.stem if self.packed else self.path.resolve().name

    @property
    def info(self) -> RunInfo:
        """Facts about the run; for schema 1 and 2, `Run.info` adds those that depend on the data set."""
        return self._facts

    @cached_property
    def config(self) -> Config:
        """Training settings of the run.

        Raises:
            UserError: The run was not trained by co-probe.
        """
        if self._facts.settings is None:
            raise UserError(f"{self.name} was not trained by co-probe, so it has no training settings")
        return Config.from_dict(self._facts.settings)

    @property
    def caption(self) -> str:
        """Text that studies add to titles of figures; may be empty."""
        return self.config.caption if self.info.settings else ""

    @property
    def epsilon(self) -> float:
        """Bound of perturbations, in pixel units of a [0, 1] image."""
        return self._facts.epsilon

    @property
    def norm(self) -> str:
        """Norm that ε bounds: `linf`, every pixel, or `l2`, the Euclidean norm of the perturbation."""
        return self._facts.norm

    @property
    def precision(self) -> str:
        """Precision of the network: `float32` or `bfloat16`."""
        return self._facts.precision

    @property
    def planned(self) -> int:
        """Number of epochs of the finished run; if unknown, number of finished epochs."""
        return self._facts.planned or len(self.epochs)

    @cached_property
    def probe_set(self) -> dict[str, np.ndarray]:
        """Numbers of the probe images in the data set, by split; 0, 1, 2, ... if unknown."""
        found = {}
        with self._open_main() as file:
            for split in SPLITS:
                if split == "test" or f"probe/{split}" in file:
                    group = tree.child(file, f"probe/{split}")
                    labels = tree.child(group, "labels")
                    tree.check_array(labels)
                    stored = tree.read_array(tree.child(group, "index")) if "index" in group else np.arange(len(labels))
                    found[split] = schema.check_index(stored, len(labels))
        return found

    def probe_images(self, split: str) -> tuple[np.ndarray, np.ndarray] | None:
        """Return the stored probe images of a split and their labels; None if they are not stored.

        Args:
            split: `test`, `train` or `validation`.

        Returns:
            Images (n, C, H, W), uint8 in 0..255 or floating point within the bounds of the run, and labels (n,) int64.

        Raises:
            DamagedFile: Shape, type or range differ from the facts of the run.
        """
        with self._open_main() as file:
            if f"probe/{split}" not in file:
                return None
            return self._check_probe(tree.read(tree.child(file, f"probe/{split}")))

    def _check_probe(self, images: Any) -> tuple[np.ndarray, np.ndarray]:
        facts = self._facts
        return schema.check_probe(images, facts.shape, len(facts.classes), facts.bounds)

    @cached_property
    def _state_shape(self) -> tuple[int, ...]:
        """Shape of the per-image state of the probe set's train images; (n,) for schema 1 or 2."""
        count = len(self.probe_set.get("train", ()))
        return (count, *self._facts.shape) if self.schema >= 3 else (count,)

    @cached_property
    def _state_size(self) -> int:
        """Greatest size of the per-image state in bytes: that of the images."""
        if self.schema < 3:
            return rounding.MOST_PACKED
        if not self._state_shape[0]:
            return 0
        with self._open_main() as file:
            images = tree.child(file, "probe/train/images")
            tree.check_array(images)
            schema.require(images.shape == self._state_shape, "images", images.shape)
            return math.prod(images.shape)

    @property
    def epochs(self) -> list[int]:
        """Finished epochs, from 1, sorted."""
        if self.packed:
            with self._open_main() as file:
                numbers = [epoch_number(f"epoch-{name}.h5") for name in tree.child(file, "epochs")]
                schema.require(None not in numbers, "the names of epochs", numbers)
        else:
            numbers = [epoch_number(path.name) for path in self.path.iterdir()]
        return sorted(number for number in numbers if number)

    @property
    def last_epoch(self) -> int:
        """Newest finished epoch.

        Raises:
            UserError: No epoch is finished yet.
        """
        if not self.epochs:
            raise UserError(f"{self.name} has no finished epoch yet")
        return self.epochs[-1]

    @property
    def best_epoch(self) -> int:
        """First finished epoch with the best PGD-10 accuracy on the split `chosen_on`.

        Newest epoch if the run has no such metric.

        Raises:
            UserError: No epoch is finished yet.
        """
        last = self.last_epoch
        robust = self.metric("validation_pgd10" if self.chosen_on == "validation" else "pgd10")
        return max(robust, key=lambda epoch: (robust[epoch], -epoch)) if robust else last

    @property
    def chosen_on(self) -> str:
        """Split that determines best epoch and onset: `validation` if the run has held-out images, else `test`."""
        return "validation" if len(self.probe_set.get("validation", ())) else "test"

    def weights(self, epoch: int) -> dict[str, np.ndarray]:
        """Return parameters and buffers after `epoch`, after verifying checksums.

        Raises:
            UserError: The epoch does not exist.
            DamagedFile: The weights are not numeric arrays, or the file does not verify.
        """
        group = "ema" if self._averaged else "model"
        if not self.has_weights(epoch):
            raise UserError(f"{self.name} has no weights of epoch {epoch}: they were deleted to save space")
        return self._read(epoch, group, lambda weights: schema.check_weights(weights, group))

    def has_weights(self, epoch: int) -> bool:
        """Return whether the weights after `epoch` are stored (`co_probe.store.thinning.drop_weights` deletes some).

        Raises:
            UserError: The epoch does not exist.
        """
        with self._open_epoch(epoch) as group:
            return "model" in group and bool(len(group["model"]))

    def metrics(self, epoch: int) -> dict[str, float]:
        """Return training metrics of `epoch`: accuracies in [0, 1], losses and gap in nats.

        Empty for a run without metrics. They are cached, since a finished epoch never changes; reopen a run that is
        trained again.
        """
        if epoch not in self._metrics:
            self._metrics[epoch] = self._of_weights(self._read(epoch, "metrics", schema.check_metrics))
        return dict(self._metrics[epoch])

    def _of_weights(self, metrics: Mapping[str, float]) -> dict[str, float]:
        """Return metrics of the selected weights and metrics of training."""
        prefix, found = schema.AVERAGED, {}
        for name, value in metrics.items():
            if name.startswith(prefix) == self._averaged or name in schema.OF_TRAINING:
                found[name.removeprefix(prefix)] = value
        return found

    def metric(self, name: str) -> dict[int, float]:
        """Return one metric, {epoch: value}, of finished epochs that have it."""
        return {epoch: m[name] for epoch in self.epochs if name in (m := self.metrics(epoch))}

    def method_parameters(self, epoch: int) -> dict[str, dict[str, float]]:
        """Return learned parameters of the method at `epoch`, {group: {name: value}}; step sizes in units of ε."""
        return self._read(epoch, "method", schema.check_method)

    def step_series(self, epoch: int) -> dict[str, np.ndarray]:
        """Return the series over optimizer steps of `epoch`, {name: (steps,) float32}."""
        return self._read(epoch, "steps", schema.check_steps, optional=True)

    def image_state(self, epoch: int) -> np.ndarray | None:
        """Return per-image state of the probe set's train images at `epoch`, float32; None if there is none.

        It is rounded by `co_probe.store.rounding`.
        """
        return self._read(epoch, "images", lambda images: schema.check_images(images, self._state_shape))

    def frame(self, probe: str, **settings: Any) -> pd.DataFrame:
        """Return a tidy table, recorded in training or stored by a probe; empty if nothing was measured.

        Args:
            probe: A probe; `metrics`, of training; `steps`, APART's step sizes; or `step-indicators` and
                `epoch-indicators`, indicators over steps and epochs, without intervals.
            **settings: Settings of the probe: only rows with these settings, and defaults for others. Without settings,
                all rows.

        Returns:
            Columns run, method, seed, epoch, probe, the probe's settings, quantity, value, low, high, n; accuracies
            with their 95% Wilson interval, means with their 95% normal interval.

        Raises:
            UserError: If a setting is unknown.

        Example:
            >>> run.frame("gap", against="pgd20")
        """
        if probe in TABLES:
            return TABLES[probe](self)
        made = PROBES.make(probe, **settings) if settings else None
        name = probe if made is None else made.name
        frame = self._result_frames().get(name, pd.DataFrame())
        if len(frame):
            own = PROBES.load(name).own if name in PROBES.entries else ()
            if missing := [column for column in own if column not in frame]:
                raise DamagedFile(f"{self._results_path} is damaged: the table {name} lacks the column {missing[0]}")
            frame = frame.assign(run=self.name)
        return frame if made is None else made.find(frame, self).reset_index(drop=True)

    def probes(self) -> list[str]:
        """List the probes with stored results, sorted."""
        return sorted(self._result_frames())

    def add_rows(self, probe: str, rows: pd.DataFrame, key: list[str] | None = None) -> pd.DataFrame:
        """Add rows to the stored table of `probe`, replacing rows with the same `key`, and return the table.

        Other processes may add rows at the same time. A table that cannot be written, as on a read-only disk, is held
        by this object, with the warning `NotStored`.

        Args:
            probe: Name of the probe.
            rows: Rows to add.
            key: Columns that identify a row; all but results if None.
        """

        def added(frames: dict[str, pd.DataFrame]) -> pd.DataFrame:
            frame = pd.concat([frames[probe], rows], ignore_index=True) if probe in frames else rows
            columns = key or [str(name) for name in frame if name not in ("value", "low", "high", "n")]
            return frame.drop_duplicates(columns, keep="last", ignore_index=True)

        if not self._unwritten:
            try:
                with self._changing_frames() as frames:
                    frames[probe] = added(frames)
                return frames[probe]
            except DamagedFile:
                raise
            except UserError as error:
                warnings.warn(
                    f"{error}; results of {self.name} are not stored: results=DIR stores them elsewhere",
                    NotStored,
                    stacklevel=2,
                )
        self._unwritten[probe] = added(self._result_frames())
        return self._unwritten[probe]

    @contextmanager
    def _changing_frames(self) -> Iterator[dict[str, pd.DataFrame]]:
        """Give the stored tables under a lock, and write them back with the changes made in the context."""
        if self.results is not None:
            try:
                self.results.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise UserError(f"cannot write to {self.results}: {error.strerror}") from error
        with Lock(self._results_path.with_suffix(".lock"), f"the table {self._results_path}", patience=10):
            frames = self._result_frames()
            yield frames
            write_atomic(self._results_path, tree.encode({name: table.to_tree(f) for name, f in frames.items()}))

    def read_epoch(self, epoch: int) -> dict[str, Any]:
        """Read one epoch as a tree."""
        with self._open_epoch(epoch) as group:
            return schema.check_epoch(tree.read(group, deflated=self._state_size), self._state_shape)

    def read_main(self) -> dict[str, Any]:
        """Read the run without its epochs as a tree, in its own schema."""
        with self._open_main() as file:
            main = tree.read(file, without=("epochs", "results", "results-ema"))
            if self.schema >= 3:
                schema.require("test" in main["probe"], "probe images without test images", list(main["probe"]))
                for images in main["probe"].values():
                    self._check_probe(images)
        views = [self]
        if not self._averaged and (self._facts.settings or {}).get("ema"):
            views.append(StoredRun(self.path, results=self.results, weights="ema"))
        return main | {view._tables: {n: table.to_tree(f) for n, f in view._result_frames().items()} for view in views}

    # -- files ---------------------------------------------------------------------------------------------------

    @property
    def _results_path(self) -> Path:
        """File of tables."""
        if self.results is None:
            return self._own_results
        # Runs of the same name in several folders have separate files.
        mark = self._facts.run_id or hashlib.sha256(os.fsencode(self.path.resolve())).hexdigest()
        return self.results / f"{self._own_name}-{mark[:8]}.{self._tables}.h5"

    @property
    def _tables(self) -> str:
        """Name of the file of tables, or of their group in a packed run."""
        return "results-ema" if self._averaged else "results"

    @property
    def _own_results(self) -> Path:
        name = f"{self._tables}.h5"
        return self.path.with_suffix(f".{name}") if self.packed else self.path / name

    def _open_main(self) -> Any:
        return tree.opened(self.path if self.packed else self._inside("run.h5"))

    @contextmanager
    def _open_epoch(self, epoch: int) -> Iterator[h5py.Group]:
        if epoch not in self.epochs:
            have = self.epochs
            span = f"{have[0]} to {have[-1]}" if have else "none yet"
            raise UserError(f"{self.name} has no epoch {epoch}; finished epochs: {span}")
        if self.packed:
            with self._open_main() as file:
                yield self._checked(tree.child(file, f"epochs/{epoch:04d}"), epoch)
        else:
            with tree.opened(self._inside(epoch_file(epoch))) as file:
                yield self._checked(file, epoch)

    def _checked(self, group: h5py.Group, epoch: int) -> h5py.Group:
        """Return `group` after checking its run id and epoch, which earlier versions did not store."""
        if self.schema >= 3 and epoch > self.unmarked:
            check_mark(tree.read_attributes(group), self._facts.run_id, epoch)
        return group

    def _inside(self, name: str) -> Path:
        """Return the path of file `name` in the run's folder; links out of the folder are rejected."""
        path = self.path / name
        if path.is_symlink() and path.resolve().parent != self.path.resolve():
            raise DamagedFile(f"{path} is a link to a file outside the run, and such links are not followed")
        return path

    def _read(
        self,
        epoch: int,
        part: str,
        make: Callable[[dict[str, Any]], Any],
        optional: bool = False,
    ) -> Any:
        """Apply `make` to a part of an epoch; errors become DamagedFile."""
        with self._open_epoch(epoch) as group:
            if optional and part not in group:
                return make({})
            node = tree.child(group, part)
            schema.require(isinstance(node, h5py.Group), f"the group {part}", node)
            return make(tree.read(node, deflated=self._state_size if part == "images" else 0))

    def _result_frames(self) -> dict[str, pd.DataFrame]:
        frames: dict[str, pd.DataFrame] = {}
        if self.packed:
            with self._open_main() as file:
                if self._tables in file:
                    frames = _frames(tree.child(file, self._tables))
        beside = self._own_results if self.packed else self._inside(f"{self._tables}.h5")
        for path in dict.fromkeys((beside, self._results_path)):
            if path.exists():
                with tree.opened(path) as file:
                    frames |= _frames(file)
        return frames | self._unwritten

    def labels(self, epoch: int, probe: str) -> dict[str, Any]:
        """Return the leading columns of every tidy row of this run; `seed` is -1 if unknown."""
        return {
            "run": self.name,
            "method": self._facts.method,
            "seed": -1 if self._facts.seed is None else self._facts.seed,
            "epoch": epoch,
            "probe": probe,
        }


def check_mark(about: Mapping[str, Any], run_id: str, epoch: int) -> None:
    """Raise ValueError if a file's attributes name another run or epoch."""
    if about.get("run_id") != run_id:
        raise ValueError(f"it belongs to another run ({str(about.get('run_id'))[:8]}, not {run_id[:8]})")
    if about.get("epoch") != epoch:
        raise ValueError(f"it is of epoch {about.get('epoch')}, not {epoch}")


def _frames(group: h5py.Group) -> dict[str, pd.DataFrame]:
    return {name: schema.check_table(columns) for name, columns in tree.read(group).items()}


def refuse_folder_of_runs(path: str | Path) -> None:
    """Raise UserError, with the path of a run in it, if `path` is a folder of runs."""
    if runs := find_runs(path):
        raise UserError(f"{path} is a folder of runs: name one or more of them, such as {runs[0]}")


def find_runs(folder: str | Path) -> list[Path]:
    """Find the runs in `folder`, folders and packed files, sorted by name."""
    folder = Path(folder)
    if not folder.is_dir():
        return []
    return sorted(p for p in folder.iterdir() if (p / "run.h5").is_file() or _is_packed(p))


def _is_packed(path: Path) -> bool:
    if path.suffix != ".h5" or path.name.endswith((".results.h5", ".results-ema.h5")):
        return False
    try:
        with tree.opened(path) as file:
            return tree.read_attributes(file).get("format") == "co-probe run"
    except CoProbeError:
        return False
