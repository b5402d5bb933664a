"""One run in several processes (gloo, on the CPU): the same as in one, and as safe."""

import signal
import socket
import subprocess
import sys
from pathlib import Path

import children
import numpy as np
import pytest
import torch
from conftest import TINY, tiny_config
from group_tasks import member, train, train_until, train_with_a_fuse

import co_probe
from co_probe.cli.main import main
from co_probe.config import Config
from co_probe.config.presets import configure
from co_probe.data.augment import View
from co_probe.errors import UserError
from co_probe.methods import METHODS
from co_probe.store import StoredRun
from co_probe.training import loop
from co_probe.training.group import Group
from co_probe.training.resolution import ResolutionStages

KILLED = -signal.SIGKILL
CPU = torch.device("cpu")
# No draws, no augmentation, batches of equal parts, statistics of whole batches: then two processes equal one.
EQUAL = {"data": {"size": 8, "limit": 96}, "batch_size": 32, "epochs": 2, "sync_batchnorm": True}
EQUAL |= {"augmentation": {"padding": 0, "flip": False}, "model": {"width": 8, "blocks": [1]}}
FROM_ZERO = {"apart": {"initial_omega": 0.0}, "atta": {"initial_noise": 0.0, "reset": 99}}
COMPARED = ("standard", "fgsm", "apart", "atta", "free")
PARTS = {"data": {"size": 8, "limit": 70}, "batch_size": 32, "epochs": 1, "model": {"width": 8, "blocks": [1]}}


def config(name: str) -> Config:
    return configure("digits", name, TINY, EQUAL, {"method": FROM_ZERO.get(name, {})})


def together(count: int, work, *arguments, kill: int | None = None, patience: float = 120) -> list[int]:
    """The exit codes of `work(*arguments)` in `count` processes that train together."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    started = [
        children.context.Process(target=member, args=(rank, count, port, work, arguments)) for rank in range(count)
    ]
    for process in started:
        process.start()
    for process in started:
        process.join(patience)
        process.kill()
        process.join()
    return [process.exitcode for process in started]


def learned(path: Path) -> dict:
    """What training left in each epoch: weights, learned parameters, state of images, series over steps."""
    run = StoredRun(path)
    return {epoch: {**run.read_epoch(epoch), "metrics": None, "run_id": None} for epoch in run.epochs}


@pytest.fixture(scope="module")
def two(tmp_path_factory) -> Path:
    """Runs of two processes, in one launch."""
    out = tmp_path_factory.mktemp("two")
    equal = {out / name: config(name).to_dict() for name in COMPARED}
    more = {out / "guarded": tiny_config("sora", **PARTS, guard="pgd2", ema=0.9).to_dict()}
    assert together(2, train, equal | more) == [0, 0]
    return out


@pytest.mark.parametrize("method", COMPARED)
def test_two_processes_train_the_same_as_one(method, two, tmp_path, monkeypatch):
    settings = config(method)

    def batches(self, epoch, rng):
        """The batches of both processes, put together."""
        device = torch.device("cpu")
        dealt = [self.of_rank(rank) for rank in range(2)]
        rngs = [loop.make_rng(device, settings.seed, "epoch", epoch, *stages._group.salt) for stages in dealt]
        for parts in zip(*(real(stages, epoch, rng) for stages, rng in zip(dealt, rngs, strict=True)), strict=True):
            x, y = (torch.cat([part[i] for part in parts]) for i in range(2))
            index = torch.cat([stages._own[part[2].index] for stages, part in zip(dealt, parts, strict=True)])
            rows, columns = (torch.cat([getattr(part[2], name) for part in parts]) for name in ("rows", "columns"))
            yield x, y, View(index, rows, columns)

    def init(self, *arguments):
        made(self, *arguments)
        self.of_rank = lambda rank: ResolutionStages.new(*arguments[:6], Group(rank, 2))

    def new(*arguments):
        stages = ResolutionStages.__new__(ResolutionStages)
        made(stages, *arguments)
        return stages

    real, made = ResolutionStages.batches, ResolutionStages.__init__
    monkeypatch.setattr(ResolutionStages, "batches", batches)
    monkeypatch.setattr(ResolutionStages, "__init__", init)
    monkeypatch.setattr(ResolutionStages, "new", new, raising=False)
    list(loop.epochs(settings, tmp_path / "one", device="cpu"))
    one, other = learned(tmp_path / "one"), learned(two / method)
    assert one.keys() == other.keys()
    for epoch in one:
        for name, value in one[epoch]["model"].items():
            np.testing.assert_allclose(other[epoch]["model"][name], value, atol=2e-4, err_msg=f"{epoch} {name}")
        for name, series in one[epoch]["steps"].items():
            if name in ("loss", "train_accuracy"):
                np.testing.assert_allclose(other[epoch]["steps"][name], series, atol=1e-4, err_msg=name)
        for group, numbers in one[epoch]["method"].items():
            assert other[epoch]["method"][group] == pytest.approx(numbers, abs=1e-5)
    state, expected = (StoredRun(path).image_state(max(one)) for path in (two / method, tmp_path / "one"))
    assert (state is None) == (expected is None)
    if state is not None:
        np.testing.assert_allclose(state, expected, atol=0.02)  # rounded to a byte
        assert np.abs(expected).max() > 0


@pytest.mark.slow
def test_every_method_trains_in_two_processes(tmp_path):
    """With parts of unequal sizes, BatchNorm of each part, draws and augmentation; weights stay equal, or it fails."""
    names = [name for name in METHODS if name not in COMPARED and "linf" in METHODS.load(name).norms]
    settings = {name: PARTS | {"sync_batchnorm": METHODS.load(name).decides_within_epochs} for name in names}
    runs = {tmp_path / name: tiny_config(name, **settings[name]).to_dict() for name in names}
    runs[tmp_path / "fgsm"] = tiny_config("fgsm", **PARTS, early_stop="wong").to_dict()
    assert together(2, train, runs) == [0, 0]
    for name in names:
        run = StoredRun(tmp_path / name)
        assert run.epochs == [1] and run.environment["processes"] == "2"
        assert len(run.step_series(1)["loss"]) == 3 and np.isfinite(run.step_series(1)["loss"]).all()
        assert 0 < run.metrics(1)["train_accuracy"] < 1


def test_a_run_of_two_processes_is_like_any(two):
    run = co_probe.open_run(two / "apart")
    assert run.verdict.kind and len(co_probe.gap(run, against="pgd2", device="cpu")) == 4
    names = sorted(file.name for file in run.path.iterdir())
    assert names == ["epoch-0001.h5", "epoch-0002.h5", "results.h5", "run.h5"]
    assert StoredRun(two / "guarded", weights="ema").weights(1).keys() == run.weights(1).keys()


@pytest.mark.slow
def test_a_killed_process_costs_at_most_the_running_epoch(tmp_path):
    settings = tiny_config("apart", **(PARTS | {"epochs": 3})).to_dict()
    assert together(2, train, {tmp_path / "whole": settings}) == [0, 0]
    whole, run = learned(tmp_path / "whole"), tmp_path / "run"
    for rank, epoch in ((1, 2), (0, 3)):
        codes = together(2, train_until, run, settings, rank, epoch)
        assert codes[rank] == KILLED and codes[1 - rank] == 1, "the other one ends with an error"
        assert StoredRun(run).epochs in ([*range(1, epoch)], [*range(1, epoch - 1)])
    with pytest.raises(UserError, match=r"was trained by 2 process\(es\).*not 1"):
        list(loop.epochs(Config.from_dict(settings), run, resume=True, device="cpu"))
    assert together(2, train_with_a_fuse, run, settings, 2, 0) == [0, 0]
    np.testing.assert_equal(learned(run), whole)
    assert sorted(f.name for f in run.iterdir()) == sorted(f.name for f in (tmp_path / "whole").iterdir())


@pytest.mark.slow
def test_runs_of_several_methods_are_killed_resumed_and_diagnosed(tmp_path):
    settings = {
        name: tiny_config(name, **(PARTS | {"epochs": 2})).to_dict() for name in ("fgsm", "pgd", "atta", "sora")
    }
    assert together(2, train, {tmp_path / "whole" / name: each for name, each in settings.items()}) == [0, 0]
    for name, each in settings.items():
        assert together(2, train_until, tmp_path / name, each, 1, 2) == [1, KILLED]
    assert together(2, train, {tmp_path / name: each for name, each in settings.items()}, True) == [0, 0]
    for name in settings:
        np.testing.assert_equal(learned(tmp_path / name), learned(tmp_path / "whole" / name))
        told = co_probe.diagnose(tmp_path / name, quick=True)
        assert told.verdict.kind == "undecided" and "Judged on 2 logged epochs" in str(told)


@pytest.mark.slow
@pytest.mark.parametrize(("rank", "call"), [(1, 2), (1, 4), (0, 30)])
def test_killed_inside_a_write(rank, call, tmp_path):
    settings, run = tiny_config("apart", **(PARTS | {"epochs": 2})).to_dict(), tmp_path / "run"
    assert together(2, train_with_a_fuse, tmp_path / "whole", settings, 2, 0) == [0, 0]
    assert together(2, train_with_a_fuse, run, settings, rank, call)[rank] == KILLED
    assert together(2, train_with_a_fuse, run, settings, 2, 0) == [0, 0]
    np.testing.assert_equal(learned(run), learned(tmp_path / "whole"))
    assert {*run.iterdir()} == {run / file.name for file in (tmp_path / "whole").iterdir()}


COMMAND = ["run", "fgsm", "--device", "cpu", "--epochs", "1", "--set", "data.size=8", "--set", "data.limit=70"]
COMMAND += ["--set", "model.width=8", "--set", "probe.test=40"]


@pytest.mark.slow
def test_the_command_line_starts_processes_and_says_each_error_once(tmp_path, capfd):
    with pytest.raises(SystemExit) as end:
        main([*COMMAND, "--out", str(tmp_path / "run"), "--nproc", "2"])
    out, err = capfd.readouterr()
    assert end.value.code == 0 and "  1/1 " in out and out.count("Stored in") == 1, err
    assert StoredRun(tmp_path / "run").environment["processes"] == "2"
    with pytest.raises(SystemExit) as end:
        main([*COMMAND, "--out", str(tmp_path / "run"), "--nproc", "2"])
    err = capfd.readouterr().err
    assert end.value.code == 2 and err.count("\n") == 1 and "is a run already: --resume continues" in err


@pytest.mark.slow
def test_torchrun_starts_processes(tmp_path):
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command = [*torchrun, "-m", "co_probe", *COMMAND, "--out", str(tmp_path / "run")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0 and done.stdout.count("Stored in") == 1, done.stderr
    assert StoredRun(tmp_path / "run").environment["processes"] == "2"


@pytest.mark.slow
def test_four_processes(tmp_path):
    settings = tiny_config("fgsm", **PARTS).to_dict()
    assert together(4, train, {tmp_path / "run": settings}) == [0] * 4
    assert StoredRun(tmp_path / "run").environment["processes"] == "4"


def test_images_are_dealt_out(monkeypatch):
    data = loop.make_data(tiny_config("fgsm", **PARTS))
    held_out = np.arange(0, 70, 7)
    made = [ResolutionStages(tiny_config("fgsm", **PARTS), data, 1, 1, CPU, held_out, Group(r, 4)) for r in range(4)]
    assert sorted(int(i) for stages in made for i in stages._own) == sorted(set(range(70)) - {*held_out})
    read, take = [], View.take
    monkeypatch.setattr(View, "take", lambda view, store: (read.append(take(view, store)), read[-1])[1])
    parts = [[*stages.batches(1, loop.make_rng(CPU, 0, "x"))] for stages in made]
    assert [sum(len(part[step][0]) for part in parts) for step in range(2)] == made[0].sizes(1) == [32, 28]
    labels = [sorted(torch.cat([y for _, y, _ in part]).tolist()) for part in parts]
    assert labels == [sorted(data.train_y[stages._own].tolist()) for stages in made], "each reads its own images"
    assert sum(map(len, read)) == 60, "and no others"
    with pytest.raises(UserError, match="too small for 4 processes"):
        ResolutionStages(tiny_config("fgsm", **(PARTS | {"batch_size": 3})), data, 1, 1, CPU, None, Group(0, 4))
