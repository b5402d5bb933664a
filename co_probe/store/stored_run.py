"""Reading a run: a folder, or one packed file."""

import json
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd

from co_probe.config import Config
from co_probe.errors import CoProbeError, DamagedFile, UserError
from co_probe.files.atomic import write_atomic
from co_probe.files.lock import Lock
from co_probe.numerics.statistics import onset, wilson
from co_probe.store import rounding, table, tree
from co_probe.store.upgrade import ARCHITECTURE, upgrade_model

SCHEMA = 2  # 1: what methods keep for images is not rounded (`co_probe.store.rounding`)
EPOCH_FILE = re.compile(r"epoch-(\d{4,})\.h5")
PROPORTIONS = ("clean", "fgsm", "pgd10", "own")  # metrics that are accuracies on the probe set's test images


def epoch_file(epoch: int) -> str:
    return f"epoch-{epoch:04d}.h5"


class StoredRun:
    """A run on disk, as numbers: settings, weights, metrics and tables. `path`: its folder or packed file.

    `planned`: the number of epochs that it has once it is finished.

    Files are opened for each question and closed again, so a run can be read while it is being trained.
    Raises UserError if there is no run, DamagedFile if there was one.
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)
        self.packed = self.path.is_file()
        if not self.packed and not (self.path / "run.h5").exists():
            what = "has no run.h5" if self.path.is_dir() else "does not exist"
            raise UserError(f"{path} is not a run: it {what}")
        with self._open_main() as file:
            if tree.read_attributes(file).get("format") != "co-probe run":
                raise UserError(f"{path} is an HDF5 file, but not a run of co-probe")
            if (schema := file.attrs["schema"]) > SCHEMA:
                raise UserError(f"{path} was written by a newer co-probe (schema {schema}): upgrade to read it")
            self._config = dict(json.loads(tree.read_attributes(file)["config"]))
            self._config["model"] = upgrade_model(self._config["model"], file.attrs.get("architecture", 1))
            self.environment: dict[str, Any] = json.loads(tree.read_attributes(file)["environment"])
            self.probe_set: dict[str, np.ndarray] = tree.read(tree.child(file, "probe_set"))
            self._metrics: dict[int, dict[str, float]] = {}
            self.planned: int = int(file.attrs.get("planned", self._config["epochs"]))

    def __repr__(self) -> str:
        return f"{type(self).__name__}({str(self.path)!r}: {self.config.method.name}, {len(self.epochs)} epochs)"

    @property
    def name(self) -> str:
        """What tables and figures call this run."""
        return self.path.stem if self.packed else self.path.resolve().name

    @cached_property
    def config(self) -> Config:
        """The settings that it was trained with."""
        return Config.from_dict(self._config)

    @property
    def epsilon(self) -> float:
        """The bound of perturbations, in pixel units of a [0, 1] image."""
        return self.config.epsilon

    @property
    def norm(self) -> str:
        """What ε bounds: `linf`, every pixel, or `l2`, the Euclidean length of the whole."""
        return self.config.norm

    @property
    def precision(self) -> str:
        """What its network computes in: `float32` or `bfloat16`."""
        return self.environment.get("precision", "float32")  # earlier versions had no other

    @property
    def epochs(self) -> list[int]:
        """The finished epochs, from 1, sorted."""
        if self.packed:
            with self._open_main() as file:
                return sorted(int(name) for name in tree.child(file, "epochs"))
        return sorted(int(match[1]) for p in self.path.iterdir() if (match := EPOCH_FILE.fullmatch(p.name)))

    @property
    def last_epoch(self) -> int:
        """The newest finished epoch. Raises UserError if there is none yet."""
        if not self.epochs:
            raise UserError(f"{self.name} has no finished epoch yet")
        return self.epochs[-1]

    @property
    def best_epoch(self) -> int:
        """The finished epoch of the best PGD-10 accuracy on the probe set, the first of several.

        Raises UserError if none is finished.
        """
        return max([self.last_epoch, *self.epochs], key=lambda epoch: (self.metrics(epoch)["pgd10"], -epoch))

    def weights(self, epoch: int) -> dict[str, np.ndarray]:
        """Parameters and buffers after `epoch`, checksums verified. Raises UserError if the run has no such epoch."""
        return self._read(epoch, "model")

    def metrics(self, epoch: int) -> dict[str, float]:
        """What the run measured of itself after `epoch`: accuracies in [0, 1], losses and gap in nats.

        Read once: a finished epoch never changes (a run that is trained afresh is to be opened afresh).
        """
        if epoch not in self._metrics:
            self._metrics[epoch] = self._read(epoch, "metrics")
        return dict(self._metrics[epoch])

    def method_parameters(self, epoch: int) -> dict[str, dict[str, float]]:
        """The method's learned numbers after `epoch`: {group: {name: value}}; step sizes in units of ε."""
        return self._read(epoch, "method")

    def image_state(self, epoch: int) -> np.ndarray | None:
        """What the method kept for the probe set's train images after `epoch`, float32, or None if it keeps nothing.

        Rounded, as `co_probe.store.rounding` says.
        """
        return self._read(epoch, "images", rounding.restored)

    def frame(self, probe: str) -> pd.DataFrame:
        """A tidy table: `metrics`, `steps`, or the name of a probe that was run. Empty if nothing was measured.

        Columns: run, method, seed, epoch, probe, ...parameters..., value, low, high, n; accuracies with their 95%
        Wilson interval, means with their 95% normal interval.
        """
        if probe == "metrics":
            return self._metrics_frame()
        if probe == "steps":
            return self._steps_frame()
        frame = self._result_frames().get(probe, pd.DataFrame())
        return frame.assign(run=self.name) if len(frame) else frame

    def probes(self) -> list[str]:
        """The probes whose results are stored, sorted."""
        return sorted(self._result_frames())

    @property
    def onset(self) -> int | None:
        """The first epoch of catastrophic overfitting, or None (the rule: `co_probe.numerics.statistics.onset`)."""
        epochs = self.epochs
        metrics = [self.metrics(epoch) for epoch in epochs]
        if all(m["own"] == m["clean"] for m in metrics):
            return None  # no training attack to overfit to: clean training never was robust
        index = onset([m["pgd10"] for m in metrics], [m["own"] for m in metrics])
        return None if index is None else epochs[index]

    def save_frame(self, probe: str, frame: pd.DataFrame) -> None:
        """Replace the stored table of `probe`. Raises UserError if it cannot be written."""
        with self._changing_frames() as frames:
            frames[probe] = frame

    def add_rows(self, probe: str, rows: pd.DataFrame, key: list[str] | None = None) -> pd.DataFrame:
        """Add rows to the stored table of `probe` and return it; a row that is there with the same `key` is replaced.

        `key`: columns; all that are not results, if None. Others may add theirs at the same time.
        Raises UserError if it cannot be written.
        """
        with self._changing_frames() as frames:
            frame = pd.concat([frames[probe], rows], ignore_index=True) if probe in frames else rows
            key = key or [str(name) for name in frame if name not in ("value", "low", "high", "n")]
            frames[probe] = frame.drop_duplicates(key, keep="last", ignore_index=True)
        return frames[probe]

    @contextmanager
    def _changing_frames(self) -> Iterator[dict[str, pd.DataFrame]]:
        """The stored tables, which nobody else changes until they are written back, with the changes made inside."""
        with Lock(self._results_path.with_suffix(".lock"), f"the table {self._results_path}", patience=10):
            frames = self._result_frames()
            yield frames
            write_atomic(self._results_path, tree.encode({name: table.to_tree(f) for name, f in frames.items()}))

    def read_epoch(self, epoch: int) -> dict[str, Any]:
        """Everything that is kept of one epoch, as one tree."""
        with self._open_epoch(epoch) as group:
            return tree.read(group)

    def read_main(self) -> dict[str, Any]:
        """Everything of the run but its epochs, as one tree."""
        return {
            "format": "co-probe run",
            "schema": SCHEMA,
            "architecture": ARCHITECTURE,
            "config": json.dumps(self._config),
            "environment": json.dumps(self.environment),
            "probe_set": self.probe_set,
            "planned": self.planned,
            "results": {name: table.to_tree(frame) for name, frame in self._result_frames().items()},
        }

    # -- files ---------------------------------------------------------------------------------------------------

    @property
    def _results_path(self) -> Path:
        return self.path.with_suffix(".results.h5") if self.packed else self.path / "results.h5"

    def _open_main(self):
        return tree.opened(self.path if self.packed else self._inside("run.h5"))

    @contextmanager
    def _open_epoch(self, epoch: int) -> Iterator[h5py.Group]:
        if epoch not in self.epochs:
            have = self.epochs
            span = f"{have[0]} to {have[-1]}" if have else "none yet"
            raise UserError(f"{self.name} has no epoch {epoch}; finished epochs: {span}")
        if self.packed:
            with self._open_main() as file:
                yield tree.child(file, f"epochs/{epoch:04d}")
        else:
            with tree.opened(self._inside(epoch_file(epoch))) as file:
                yield file

    def _inside(self, name: str) -> Path:
        """The file `name` of the run's folder; a link that leads out of the folder is refused."""
        path = self.path / name
        if path.is_symlink() and path.resolve().parent != self.path.resolve():
            raise DamagedFile(f"{path} is a link to a file outside the run, and such links are not followed")
        return path

    def _read(self, epoch: int, part: str, make: Callable[[dict[str, Any]], Any] = lambda read: read) -> Any:
        """What `make` makes of a part of an epoch; where it cannot, the file is damaged."""
        with self._open_epoch(epoch) as group:
            node = tree.child(group, part)
            if not isinstance(node, h5py.Group):
                raise ValueError(f"{part} is not a group")
            return make(tree.read(node))

    def _result_frames(self) -> dict[str, pd.DataFrame]:
        frames: dict[str, pd.DataFrame] = {}
        if self.packed:
            with self._open_main() as file:
                if "results" in file:
                    frames = _frames(tree.child(file, "results"))
        if self._results_path.exists():
            beside = self._results_path if self.packed else self._inside("results.h5")
            with tree.opened(beside) as file:
                frames |= _frames(file)
        return frames

    # -- tables --------------------------------------------------------------------------------------------------

    def labels(self, epoch: int, probe: str) -> dict[str, Any]:
        """The leading columns of every tidy row of this run."""
        return {
            "run": self.name,
            "method": self.config.method_title,
            "seed": self.config.seed,
            "epoch": epoch,
            "probe": probe,
        }

    def _metrics_frame(self) -> pd.DataFrame:
        rows, n = [], len(self.probe_set["test"])
        for epoch in self.epochs:
            metrics = self.metrics(epoch)
            for name, value in metrics.items():
                if name.endswith(("_low", "_high")):
                    continue
                low, high = metrics.get(f"{name}_low", np.nan), metrics.get(f"{name}_high", np.nan)
                if name in PROPORTIONS:
                    low, high = wilson(value, n)
                rows.append(
                    {
                        **self.labels(epoch, "metrics"),
                        "quantity": name,
                        "value": value,
                        "low": low,
                        "high": high,
                        "n": n,
                    }
                )
        return pd.DataFrame(rows)

    def _steps_frame(self) -> pd.DataFrame:
        rows = []
        for epoch in self.epochs:
            for name, value in self.method_parameters(epoch).get("alpha", {}).items():
                rows.append(
                    {
                        **self.labels(epoch, "steps"),
                        "layer": name,
                        "value": value,
                        "low": value,
                        "high": value,
                        "n": 1,
                    }
                )
        return pd.DataFrame(rows)


def _frames(group: h5py.Group) -> dict[str, pd.DataFrame]:
    return {name: table.from_tree(columns) for name, columns in tree.read(group).items()}


def find_runs(folder: str | Path) -> list[Path]:
    """The runs in `folder`, folders and packed files, sorted by name."""
    folder = Path(folder)
    if not folder.is_dir():
        return []
    return sorted(p for p in folder.iterdir() if (p / "run.h5").is_file() or _is_packed(p))


def _is_packed(path: Path) -> bool:
    if path.suffix != ".h5" or path.name.endswith(".results.h5"):
        return False
    try:
        with tree.opened(path) as file:
            return tree.read_attributes(file).get("format") == "co-probe run"
    except CoProbeError:
        return False
