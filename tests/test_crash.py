"""kill -9 at any moment costs at most the epoch being trained and the one being written, and changes nothing of what
comes out in the end.
"""

import itertools
import os
import shutil
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import children
import numpy as np
import pytest
import torch
from campaigns import ALL
from click.testing import CliRunner
from conftest import tiny_config

from co_probe.cli.main import cli, main
from co_probe.errors import Diverged, UserError
from co_probe.store import RunWriter, StoredRun
from co_probe.training import loop
from co_probe.training.metrics import EpochMetrics
from co_probe.training.recorder import Checkpoint, Recorder

KILLED = -signal.SIGKILL


@pytest.fixture(autouse=True)
def no_waiting_for_the_disk(monkeypatch):
    """What is killed here is a process, not the machine: that takes nothing from the kernel."""
    monkeypatch.setattr(os, "fsync", lambda handle: None)


def calls() -> Iterator[int]:
    """Numbers of the calls to the disk that are the last one, from 1 on: all, or a third of them."""
    rng = np.random.default_rng(0)
    return (call for call in itertools.count(1) if ALL or rng.random() < 1 / 3)


def finished_epochs(path: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in path.glob("epoch-*.h5")}


def files(path: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in path.iterdir()}


def bits(value) -> object:
    """Equal only if every bit is."""
    if isinstance(value, dict):
        return {key: bits(inner) for key, inner in value.items()}
    return (value.dtype.str, value.shape, value.tobytes()) if isinstance(value, np.ndarray) else repr(value)


def learned(path: Path) -> dict:
    """All that training left in a run, epoch by epoch, but for the seconds that it took and the id of the run."""
    run = StoredRun(path)
    epochs = {epoch: run.read_epoch(epoch) for epoch in run.epochs}
    for content in epochs.values():
        content["metrics"].pop("seconds", None)
        assert content.pop("run_id") == run.info.run_id
    return bits(epochs)


# -- killed inside a write -------------------------------------------------------------------------------------------


def test_killed_at_every_call_that_changes_the_disk(tmp_path):
    settings = tiny_config("fgsm", epochs=2).to_dict()
    children.write_run(tmp_path / "whole", settings)
    whole, path, seen, call = files(tmp_path / "whole"), tmp_path / "run", set(), 0
    for call in calls():
        shutil.rmtree(path, ignore_errors=True)
        code = children.run(children.write_run_until, call, path, settings, {})
        if code == 0:
            break
        assert code == KILLED
        kept = finished_epochs(path) if path.exists() else {}
        seen.add(len(kept))
        children.write_run(path, settings, resume=True)
        after = files(path)
        assert {name: after[name] for name in kept} == kept
        assert after == whole  # nothing is left of the crash: no lock, no partial file, no old resume file
    assert call > 40 and seen == {0, 1, 2}


def test_killed_during_a_resumed_run(tmp_path):
    settings = tiny_config("fgsm", epochs=3).to_dict()
    children.write_run(tmp_path / "whole", settings)
    half, until = tmp_path / "half", 30
    while not half.exists() or len(finished_epochs(half)) < 1:
        until += 5
        shutil.rmtree(half, ignore_errors=True)
        assert children.run(children.write_run_until, until, half, settings, {}) == KILLED
    assert len(finished_epochs(half)) == 1
    whole, path, code, call = files(tmp_path / "whole"), tmp_path / "run", KILLED, 0
    for call in calls():
        shutil.rmtree(path, ignore_errors=True)
        shutil.copytree(half, path)
        code = children.run(children.write_run_until, call, path, settings, {"resume": True})
        children.write_run(path, settings, resume=True)
        assert files(path) == whole
        if code == 0:
            break
        assert code == KILLED
    assert call > 20


def test_killed_while_overwriting_leaves_no_mixture_of_two_runs(tmp_path):
    old, new = (tiny_config("fgsm", epochs=2, seed=seed).to_dict() for seed in (0, 1))
    children.write_run(tmp_path / "old", old)
    children.write_run(tmp_path / "new", new)
    path, call = tmp_path / "run", 0
    for call in calls():
        shutil.rmtree(path, ignore_errors=True)
        shutil.copytree(tmp_path / "old", path)
        (path / "results.h5").write_bytes(b"measured of the old run")
        code = children.run(children.write_run_until, call, path, new, {"overwrite": True})
        try:
            children.write_run(path, new, resume=True)
        except UserError:  # it is the old run still, or a part of it
            children.write_run(path, new, overwrite=True)
        assert files(path) == files(tmp_path / "new")
        if code == 0:
            break
        assert code == KILLED
    assert call > 15


# -- killed at any moment of training --------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["apart", "fgsm"])
def test_killed_at_random_moments_of_training(method, tmp_path):
    settings = tiny_config(method, batch_size=512, probe={"test": 20, "train": 20}).to_dict()
    started = time.monotonic()
    assert children.run(children.train_until, 0, tmp_path / "whole", settings) == 0
    duration = time.monotonic() - started
    whole, rng, path, kept = learned(tmp_path / "whole"), np.random.default_rng(0), tmp_path / "run-0", {}

    def check() -> None:
        now = finished_epochs(path)
        assert {name: now.get(name) for name in kept} == kept
        kept.update(now)

    for turn in range(12 if ALL else 4):
        if turn % 2:
            code = children.run(children.train_until, int(rng.integers(1, 60)), path, settings)
        else:
            code = children.run(children.train_until, 0, path, settings, patience=rng.uniform(0, duration))
        assert code in (0, KILLED)
        check()
        if code == 0:
            assert learned(path) == whole
            path, kept = tmp_path / f"run-{turn + 1}", {}
    assert children.run(children.train_until, 0, path, settings) == 0
    check()
    assert learned(path) == whole
    assert sorted(files(path)) == sorted(files(tmp_path / "whole"))


# -- an epoch is written while the next one trains -------------------------------------------------------------------


@pytest.fixture
def slow_disk(monkeypatch):
    """Epoch 1 comes to the disk only once `reached` is set."""
    reached, commit = threading.Event(), RunWriter.commit

    def waits(self, epoch, *rest):
        if epoch == 1:
            assert reached.wait(20), "training waited for the disk"
        commit(self, epoch, *rest)

    monkeypatch.setattr(RunWriter, "commit", waits)
    return reached


def test_the_next_epoch_trains_during_writing_without_changing_the_file(tmp_path, slow_disk):
    events = []

    def progress(epoch, done, total):
        events.append((epoch, done == total))
        if epoch == 2 and done == total:
            assert StoredRun(tmp_path / "run").epochs == []
            slow_disk.set()  # only when all of its steps have moved the weights, ω and momenta

    for metrics in loop.epochs(tiny_config("apart", epochs=3), tmp_path / "run", device="cpu", progress=progress):
        events.append(f"{metrics.epoch} is done")
        assert set(StoredRun(tmp_path / "run").epochs) >= set(range(1, metrics.epoch - 1))
    # An epoch is told when it is trained, and not when it is written.
    assert events.index((1, True)) < events.index("1 is done") < events.index((2, False))
    assert [event for event in events if isinstance(event, str)] == [f"{i} is done" for i in (1, 2, 3)]
    assert StoredRun(tmp_path / "run").epochs == [1, 2, 3]
    slow_disk.set()
    list(loop.epochs(tiny_config("apart", epochs=3), tmp_path / "usual", device="cpu"))
    assert learned(tmp_path / "run") == learned(tmp_path / "usual")


def test_killed_while_an_epoch_waits_for_the_disk(tmp_path):
    settings = tiny_config("apart").to_dict()
    assert children.run(children.train_until, 0, tmp_path / "whole", settings) == 0
    assert children.run(children.train_while_the_disk_waits, tmp_path / "run", settings) == KILLED
    assert finished_epochs(tmp_path / "run") == {}  # epoch 1 was trained, and epoch 2 nearly
    assert children.run(children.train_until, 0, tmp_path / "run", settings) == 0
    assert learned(tmp_path / "run") == learned(tmp_path / "whole")


@pytest.mark.parametrize("planned", [1, 5])
def test_an_error_of_writing_stops_training_at_the_next_epoch_or_at_the_end(planned, tmp_path, monkeypatch):
    def full(self, epoch, *_):
        raise UserError("the disk is full")

    monkeypatch.setattr(RunWriter, "commit", full)
    seen, told, config = [], [], tiny_config("fgsm", epochs=planned)
    with pytest.raises(UserError, match="the disk is full"):
        for metrics in loop.epochs(
            config, tmp_path / "run", device="cpu", progress=lambda epoch, *_: seen.append(epoch)
        ):
            told.append(metrics.epoch)
    assert told == [1] and max(seen) == min(planned, 2) and not (tmp_path / "run" / "run.lock").exists()


def test_an_error_of_training_precedes_one_of_writing(tmp_path, monkeypatch):
    def full(self, epoch, *_):
        raise UserError("the disk is full")

    monkeypatch.setattr(RunWriter, "commit", full)
    info = children.info_of(tiny_config("fgsm"))
    images = torch.zeros(3, 1, 8, 8), torch.zeros(3, dtype=torch.long)
    with pytest.raises(KeyboardInterrupt), Recorder(tmp_path / "run", info=info, test=images) as recorder:
        recorder.epoch(Checkpoint(epoch=1, model={"w": torch.zeros(2)}))
        raise KeyboardInterrupt
    assert not (tmp_path / "run" / "run.lock").exists()


def test_who_leaves_early_finds_the_epoch_written_and_the_run_unlocked(tmp_path):
    training = loop.epochs(tiny_config("fgsm"), tmp_path / "run", device="cpu")
    next(training)
    training.close()
    assert StoredRun(tmp_path / "run").epochs in ([1], [1, 2]) and not (tmp_path / "run" / "run.lock").exists()


def test_random_numbers_of_the_caller_do_not_affect_training(tmp_path):
    states = []

    def progress(epoch, done, total):
        states.append((epoch, torch.get_rng_state()))

    for _ in loop.epochs(tiny_config("fgsm"), tmp_path / "run", device="cpu", progress=progress):
        torch.rand(3)
    # This model draws nothing from the global state, which each epoch sets anew.
    for epoch in (1, 2, 3):
        first, *others = [state for number, state in states if number == epoch]
        assert len(others) == 5 and all(torch.equal(first, other) for other in others)


def test_the_callers_time_is_not_the_epochs(tmp_path):
    seconds = []
    for metrics in loop.epochs(tiny_config("fgsm", epochs=2), tmp_path / "run", device="cpu"):
        seconds.append(metrics.seconds)
        time.sleep(seconds[0] + 1)
    assert seconds[1] < seconds[0] + 1


# -- a loss that is no number ----------------------------------------------------------------------------------------


def train(path: Path, **options) -> list[EpochMetrics]:
    return list(loop.epochs(tiny_config("fgsm"), path, device="cpu", **options))


@pytest.mark.parametrize("broken", ["loss", "weights"])
def test_a_loss_of_nan_stops_the_run_after_the_finite_epochs(broken, tmp_path, monkeypatch):
    train(tmp_path / "whole")
    real, steps = loop.train_step, 6  # an epoch of tiny_config: 1297 images in batches of 256
    taken = 0

    def breaks(forward, *args):
        nonlocal taken
        taken += 1
        loss, correct = real(forward, *args)
        if taken == 2 * steps:  # the last step of epoch 2
            if broken == "loss":
                return loss * float("nan"), correct
            with torch.no_grad():
                forward.model.linear.weight.fill_(float("nan"))
        return loss, correct

    with monkeypatch.context() as patched:
        patched.setattr(loop, "train_step", breaks)
        with pytest.raises(Diverged, match="no longer a finite number in epoch 2"):
            train(tmp_path / "run")
    assert taken == 2 * steps
    assert sorted(files(tmp_path / "run")) == ["epoch-0001.h5", "resume-0001.h5", "run.h5"]
    assert learned(tmp_path / "run") == {1: learned(tmp_path / "whole")[1]}
    train(tmp_path / "run", resume=True)  # whatever it was is gone
    assert learned(tmp_path / "run") == learned(tmp_path / "whole")


SMALL = "--epochs 2 --set batch_size=256 --set probe.test=20 --set model.width=4 --set data.size=8 --device cpu"


def test_the_command_line_says_that_a_run_diverged_and_exits_with_1(tmp_path, capsys):
    with pytest.raises(SystemExit) as exit:
        main(
            [
                "run",
                "fgsm",
                "--out",
                str(tmp_path / "run"),
                "--set",
                "optimizer.learning_rate=1e6",
                "--set",
                "optimizer.weight_decay=1e6",
                *SMALL.split(),
            ]
        )
    assert exit.value.code == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "no longer a finite number in epoch 1" in error


# -- going on --------------------------------------------------------------------------------------------------------


def invoke(*arguments: str):
    return CliRunner().invoke(cli, [*arguments, *SMALL.split()])


def test_resume_starts_continues_and_finds_a_finished_run(tmp_path):
    out = tmp_path / "run"
    started = invoke("run", "fgsm", "--out", str(out), "--resume")
    assert started.exit_code == 0 and "  2/2 " in started.output
    whole = files(out)
    again = invoke("run", "fgsm", "--out", str(out), "--resume")
    assert again.exit_code == 0 and "is complete: all 2 epochs were trained before" in again.output
    assert files(out) == whole


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        (["--seed", "1"], "seed is 0, not 1"),
        (["--epsilon", "8/255"], "epsilon is 0.14"),
        (["--set", "method.batchnorm=update"], "method is"),
        (["--set", "optimizer.momentum=0.5"], "optimizer is"),
        (["--preset", "digits", "--epochs", "7"], "epochs is 3, not 7"),
    ],
)
def test_resuming_with_other_settings_is_refused(runs, changed, words):
    before = files(runs / "fgsm")
    result = CliRunner().invoke(cli, ["run", "fgsm", "--out", str(runs / "fgsm"), "--resume", *changed])
    assert isinstance(result.exception, UserError)
    assert "was trained with other settings" in str(result.exception) and words in str(result.exception)
    assert files(runs / "fgsm") == before


def test_resuming_another_method_is_refused(runs):
    result = CliRunner().invoke(cli, ["run", "apart", "--out", str(runs / "fgsm"), "--resume"])
    assert isinstance(result.exception, UserError) and "is a run of fgsm, not of apart" in str(result.exception)
