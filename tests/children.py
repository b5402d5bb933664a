"""Processes of their own for tests, cheap ones, and a fuse that kills them at a chosen call to the disk.

They are forked from a server that has imported what they need and has done nothing with it; they import this file,
which therefore imports little itself.
"""

import io
import multiprocessing
import os
import resource
import signal
import sys
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

context = multiprocessing.get_context("forkserver")
context.set_forkserver_preload(
    [
        "pandas",
        "sklearn.datasets",
        "torch._dynamo",  # a torch optimizer imports it
        "co_probe.cli.main",
        "co_probe.cli.run",
        "co_probe.data.digits",
        "co_probe.methods.apart",
        "co_probe.methods.fgsm",
        "co_probe.models.preact_resnet",
        "co_probe.probes.gap",
        "co_probe.training.loop",
    ]
)


def run(work, *args, patience: float | None = None) -> int:
    """The exit code of `work(*args)` in a process of its own, which is killed after `patience` seconds."""
    process = context.Process(target=work, args=args)
    process.start()
    process.join(patience)
    process.kill()
    process.join()
    return process.exitcode


def command_line(folder: Path | str, *arguments: Path | str, encoding: str = "utf-8"):
    """`co-probe` in a started process of its own, in `folder`, whose files `out` and `err` get what it prints."""
    process = context.Process(target=_command_line, args=(os.fsencode(folder), encoding, [*map(str, arguments)]))
    process.start()
    return process


def _command_line(folder: bytes, encoding: str, arguments: list[str]) -> None:
    import torch

    from co_probe.cli.main import main

    os.chdir(folder)
    torch.set_num_threads(1)
    sys.stdout, sys.stderr = (open(name, "w", encoding=encoding, errors="strict") for name in ("out", "err"))  # noqa: SIM115
    main(arguments)


def kill_myself() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def arm(call: int) -> None:
    """From now on, kill this process (-9) at its `call`-th call that changes the disk; a write is half done by then."""
    from co_probe.files import atomic
    from co_probe.store import tree

    left = call

    def due() -> bool:
        nonlocal left
        left -= 1
        return left == 0

    def fused(function):
        def wrapped(*args, **options):
            if due():
                kill_myself()
            return function(*args, **options)

        return wrapped

    def half_written(kind):
        class HalfWritten(kind):
            def write(self, content) -> int:
                if due():
                    super().write(content[: len(content) // 2])
                    kill_myself()
                return super().write(content)

        return HalfWritten

    os.fsync = lambda handle: None  # counted, but not waited for: kill -9 takes nothing from the kernel
    for name in ("fsync", "ftruncate", "mkdir", "pwrite", "replace", "unlink"):
        setattr(os, name, fused(getattr(os, name)))
    writing, tree.Sink = half_written(io.FileIO), half_written(tree.Sink)
    atomic.open = lambda path, mode, **_: writing(path, mode)


def info_of(config, **changes: Any):
    """What a run of tiny digits says about itself; always the same for the same settings."""
    from co_probe.store import ModelSpec, RunInfo

    about: dict[str, Any] = {
        "run_id": f"{zlib.crc32(repr(config).encode()):08x}",
        "method": config.method_title,
        "seed": config.seed,
        "epsilon": config.epsilon,
        "shape": (1, 8, 8),
        "classes": tuple("0123456789"),
        "mean": (0.0,),
        "std": (1.0,),
        "data": config.data_title,
        "model": ModelSpec(config.model.name, config.model.settings),
        "attack": config.method.name,
        "planned": config.epochs,
        "settings": config.to_dict(),
    }
    return RunInfo(**about | changes)


def probe_images(count: int, seed: int = 0):
    """So many probe images of 8×8 pixels, as bytes."""
    from co_probe.store import ProbeImages

    rng = np.random.default_rng(seed)
    images = rng.integers(256, size=(count, 1, 8, 8), dtype=np.uint8)
    return ProbeImages(images, rng.integers(10, size=count), np.arange(count))


def write_run(path: Path, settings: Mapping[str, Any], **options: bool) -> None:
    """A run without training: what it learns after an epoch follows from the epoch before and the seed."""
    from co_probe.config import Config
    from co_probe.store import RunWriter

    config = Config.from_dict(settings)
    probe = {"test": probe_images(9), "train": probe_images(7)}
    with RunWriter(path, info_of(config), probe, {"python": "3"}, **options) as writer:
        state = (
            writer.resume_state()["state"]["w"] if 0 < writer.last < config.epochs else np.full(50, config.seed + 0.5)
        )
        for epoch in range(writer.last + 1, config.epochs + 1):
            state = 3.9 * state * (1 - state / 4) + np.arange(50) / 100
            checkpoint = {"model": {"w": state}, "metrics": {"clean": float(state[0])}, "method": {}, "images": {}}
            writer.commit(epoch, checkpoint, {"state": {"w": state}} if epoch < config.epochs else None)


def write_run_until(call: int, path: Path, settings: Mapping[str, Any], options: Mapping[str, bool]) -> None:
    """`write_run`, killed at its `call`-th call that changes the disk."""
    arm(call)
    write_run(path, settings, **options)


def train_until(call: int, path: Path, settings: Mapping[str, Any]) -> None:
    """Train a run to its end or go on with it; killed at its `call`-th call that changes the disk, if that is not 0."""
    import torch

    from co_probe.sweeps.cell import run_cell

    torch.set_num_threads(1)
    arm(call)
    run_cell(settings, str(path), device="cpu")


def train_while_the_disk_waits(path: Path, settings: Mapping[str, Any]) -> None:
    """Train; epoch 1 never comes to the disk, and this process is killed in epoch 2."""
    import threading

    import torch

    from co_probe.config import Config
    from co_probe.store import RunWriter
    from co_probe.training.loop import epochs

    torch.set_num_threads(1)
    RunWriter.commit = lambda *_: threading.Event().wait()

    def progress(epoch: int, done: int, total: int) -> None:
        if epoch == 2 and done > total / 2:
            kill_myself()

    list(epochs(Config.from_dict(settings), path, device="cpu", progress=progress))


def pack_run(source: Path, out: Path) -> None:
    from co_probe.store import StoredRun
    from co_probe.store.pack import pack

    pack(StoredRun(source), out)


def under_a_limit(limit: int, work, *args) -> None:
    """Exit with 42 if `work` raises a clear error where the kernel refuses to make a file longer than `limit` bytes."""
    from co_probe.errors import UserError

    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    try:
        work(*args)
    except UserError as error:
        assert "File too large" in str(error) and "\n" not in str(error), error
        sys.exit(42)


def hold(path: Path, ready, done) -> None:
    """Hold the lock `path` until told otherwise."""
    from co_probe.files.lock import Lock

    with Lock(path, "it"):
        ready.set()
        done.wait()


def rows(**columns: Any):
    """Rows of a table with all the columns that a table has, those that are given and usual ones."""
    import pandas as pd

    usual = {"run": "run", "method": "fgsm", "seed": 0, "epoch": 1, "probe": "gap", "against": "pgd10"}
    usual |= {"reference": "ref.pt", "reference_id": "0", "quantity": "gap", "value": 0.5, "low": 0.4, "high": 0.6}
    return pd.DataFrame(usual | {"n": 5} | columns, index=range(len(next(iter(columns.values())))))


def save_tables(path: Path, name: str, start) -> None:
    """Add to two tables of a run, one of which other processes add to at the same time."""
    from co_probe.store import StoredRun

    start.wait()
    for value in range(10):
        StoredRun(path).add_rows(name, rows(value=[value]))
        StoredRun(path).add_rows("common", rows(quantity=[name], epoch=[value]))
