"""What many tests share: small data, small models, and runs that are trained once a session."""

import copy
import os
import shutil
import time
from collections.abc import Mapping
from contextlib import suppress

# One thread: the models are tiny, and threads that wait for each other are slow on a busy machine.
os.environ.setdefault("OMP_NUM_THREADS", "1")

from pathlib import Path

import pytest
import torch

from co_probe.config import Config
from co_probe.config.presets import configure

TINY = {
    "epsilon": 0.14,
    "epsilon_warmup": 0,
    "seed": 0,
    "epochs": 3,
    "batch_size": 256,
    "probe": {"test": 40, "train": 30},
    # Not narrower: in torch 2.15 on some CPUs a strided 1×1 convolution of 4 channels corrupts memory (in oneDNN).
    "model": {"width": 8},
    "data": {"size": 8},
}


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def tiny_config(method: str, **settings) -> Config:
    """A run on digits that takes a second or two."""
    return configure("digits", method, TINY, settings)


def memorising_config(**settings) -> Config:
    """The preset patches, made small: the noise of eight images is soon memorised, and little is left of the signal."""
    small = {
        "epsilon": 9.6,
        "epochs": 600,
        "batch_size": 8,
        "data": {"train": 8, "test": 60, "dimension": 50, "patches": 3, "sigma": 0.2},
        "model": {"width": 8, "initial_std": 0.02},
        "optimizer": {"learning_rate": 0.3},
        "method": {"replays": 25},
        "probe": {"test": 60, "train": 8},
    }
    return configure("patches", "shrink", small, settings)


def trained_once(tmp_path_factory, configs: Mapping[str, Config]) -> Path:
    """A folder of finished runs by name. Workers of pytest-xdist share the training, and each has a copy."""
    from co_probe.training.loop import epochs

    def train(name: str, folder: Path) -> None:
        for _ in epochs(configs[name], folder / name, device="cpu"):
            pass

    own = tmp_path_factory.mktemp("trained")
    if "PYTEST_XDIST_WORKER" not in os.environ:
        for name in configs:
            train(name, own)
        return own
    shared = tmp_path_factory.getbasetemp().parent / "trained"  # of the session
    for name in configs:
        with suppress(FileExistsError):  # another worker trains it
            (shared / f"{name} begun").mkdir(parents=True)
            train(name, shared)
            (shared / f"{name} done").mkdir()
    deadline = time.monotonic() + 120
    for name in configs:
        while not (shared / f"{name} done").exists() and time.monotonic() < deadline:
            time.sleep(0.1)
        if (shared / f"{name} done").exists():
            shutil.copytree(shared / name, own / name)
        else:  # that worker is gone
            train(name, own)
    return own


@pytest.fixture(scope="session")
def trained(tmp_path_factory) -> Path:
    """A folder of finished tiny runs, one for each of four methods: read it, do not write to it."""
    methods = ("apart", "pgd", "fgsm", "apart-simple")
    return trained_once(tmp_path_factory, {method: tiny_config(method) for method in methods})


@pytest.fixture(scope="session")
def memorising(tmp_path_factory) -> Path:
    """A finished run that ends in robust memorisation, of 24 kept epochs of 25 steps: read it, do not write to it."""
    return trained_once(tmp_path_factory, {"shrink": memorising_config()}) / "shrink"


@pytest.fixture
def runs(trained: Path, tmp_path: Path) -> Path:
    """A copy of `trained` that a test may change."""
    return Path(shutil.copytree(trained, tmp_path / "runs"))


@pytest.fixture
def registries(monkeypatch) -> None:
    """What a test registers is forgotten after it."""
    from co_probe.config import labels, presets
    from co_probe.config.attacks import ATTACKS
    from co_probe.config.commands import COMMANDS
    from co_probe.config.exports import EXPORTS
    from co_probe.config.optimizers import OPTIMIZERS
    from co_probe.config.probes import PROBES
    from co_probe.config.sections import SECTIONS
    from co_probe.data import DATA
    from co_probe.methods import METHODS
    from co_probe.models import MODELS
    from co_probe.plots import PLOTS
    from co_probe.training.schedules import SCHEDULES

    for registry in (ATTACKS, COMMANDS, DATA, EXPORTS, METHODS, MODELS, OPTIMIZERS, PLOTS, PROBES, SCHEDULES, SECTIONS):
        assert isinstance(registry.entries, dict)  # which lets the studies that come with co-probe register
        for part in ("_entries", "_prefixes", "_about"):
            monkeypatch.setattr(registry, part, dict(getattr(registry, part)))
    monkeypatch.setattr(labels, "_LABELS", copy.deepcopy(labels._LABELS))
    monkeypatch.setattr(presets, "_PACKAGES", dict(presets._PACKAGES))


@pytest.fixture
def brief(monkeypatch):
    """AutoAttack with a hundredth of its budget, wherever it is called from: the package."""
    package = pytest.importorskip("pyautoattack", reason="the package pyautoattack is not installed")
    original = package.AutoAttack._set_version

    def shortened(self, version="standard"):
        original(self, version)
        self.square.n_queries = 50
        for part in (self.apgd, self.apgd_targeted, self.fab):
            part.n_iter = 6

    monkeypatch.setattr(package.AutoAttack, "_set_version", shortened)
    return package


@pytest.fixture
def call(capsys):
    """The command line in this process: (exit code, standard output, standard error)."""

    from co_probe.cli.main import main

    def call(*arguments: str | Path) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as exit:
            main([*map(str, arguments)])
        out, err = capsys.readouterr()
        return exit.value.code, out, err

    return call
