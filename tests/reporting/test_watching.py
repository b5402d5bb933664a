"""The live view of a run that another process or thread is writing."""

import os
import pty
import select
import shutil
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from rich.console import Console

from co_probe.cli.watch import screen
from co_probe.reporting.watching import Watch, duration, sparkline
from co_probe.store import ModelSpec, RunInfo, new_run_id
from co_probe.training.recorder import Checkpoint, Recorder


def info(planned: int = 6) -> RunInfo:
    return RunInfo(
        run_id=new_run_id(),
        method="[bold]mine",
        epsilon=0.1,
        shape=(1, 4, 4),
        classes=("a", "b"),
        data="squares",
        model=ModelSpec("mine", foreign=True),
        planned=planned,
    )


IMAGES = torch.rand(200, 1, 4, 4), torch.arange(200) % 2
PGD = (0.7, 0.75, 0.8, 0.8, 0.1, 0.0, 0.0, 0.0)


def checkpoint(epoch: int) -> Checkpoint:
    metrics = {"clean": 0.9, "train_attack": 0.85, "pgd10": PGD[epoch - 1], "gap": 3.0}
    return Checkpoint(epoch=epoch, model={"w": torch.zeros(2)}, metrics=metrics)


@pytest.fixture
def part(tmp_path) -> Path:
    """Six of eight epochs of a collapse, written one minute apart, the last one ten seconds ago."""
    with Recorder(tmp_path / "part", info=info(8), test=IMAGES) as recorder:
        for epoch in range(1, 7):
            recorder.epoch(checkpoint(epoch))
    for epoch in range(1, 7):
        when = time.time() - 10 - 60 * (6 - epoch)
        os.utime(tmp_path / "part" / f"epoch-000{epoch}.h5", (when, when))
    return tmp_path / "part"


def test_facts_about_a_run(part):
    view = Watch(part).look()
    assert (view.epochs, view.planned, view.gap) == ((1, 2, 3, 4, 5, 6), 8, 3.0)
    assert view.per_epoch == pytest.approx(60, abs=1) and view.remaining == pytest.approx(110, abs=2)
    assert not view.finished and not view.stalled and replace(view, idle=300.0).stalled
    assert view.latest() == {"clean": 0.9, "fgsm": 0.85, "pgd": 0.0}
    assert view.verdict.onset == 5
    assert view.line() == (
        "part: epoch 6/8: clean 90.0%, training attack 85.0%, PGD-10 0.0%, gap 3.00, "
        "catastrophic overfitting from epoch 5, 2 min left"
    )


def printed(view, width: int) -> str:
    console = Console(width=width, highlight=False)
    with console.capture() as capture:
        console.print(screen(view, width))
    return capture.get()


@pytest.mark.parametrize("width", [40, 80, 200])
def test_the_screen_fits(part, width):
    lines = printed(Watch(part).look(), width).splitlines()
    assert max(map(len, lines)) <= width
    text = "\n".join(lines)
    assert "[bold]mine" in text and "6/8" in text and "collapsed" in text and "so far" in text
    assert "110 s" in text or "2 min" in text


def test_a_stopped_run_and_one_without_epochs_are_reported(part, tmp_path):
    assert "has it stopped?" in printed(replace(Watch(part).look(), idle=1e5), 80)
    with Recorder(tmp_path / "empty", info=info(), test=IMAGES):
        view = Watch(tmp_path / "empty").look()
        assert "waiting for the first epoch" in printed(view, 80) and "no finished epoch yet" in view.line()


def test_a_run_without_metrics(tmp_path):
    with Recorder(tmp_path / "bare", info=replace(info(), planned=None), test=IMAGES) as recorder:
        recorder.epoch(Checkpoint(epoch=1, model={"w": torch.zeros(2)}))
    view = Watch(tmp_path / "bare").look()
    assert view.line() == "bare: epoch 1: undecided: no accuracy under PGD-10 is stored"
    assert not view.finished and "undecided" in printed(view, 80)


def test_a_run_that_is_started_afresh(part):
    watch = Watch(part)
    assert len(watch.look().epochs) == 6
    with Recorder(part, info=info(3), test=IMAGES, overwrite=True) as recorder:
        recorder.epoch(replace(checkpoint(1), metrics={"clean": 0.5, "pgd10": 0.25}))
    view = watch.look()
    assert view.epochs == (1,) and view.planned == 3 and view.latest()["pgd"] == 0.25


def test_lines_while_another_writes(tmp_path, call):
    """A writer holds its lock all the time; each epoch gets a line, and the end of the run is the end of watching."""
    begun = threading.Event()

    def write():
        with Recorder(tmp_path / "live", info=info(4), test=IMAGES) as recorder:
            recorder.epoch(checkpoint(1))
            begun.set()
            for epoch in (2, 3, 4):
                time.sleep(0.6)
                recorder.epoch(checkpoint(epoch))

    writer = threading.Thread(target=write)
    writer.start()
    begun.wait(30)
    code, out, err = call("watch", tmp_path / "live", "--interval", "0.1")
    writer.join()
    assert code == 0 and not err
    lines = out.splitlines()
    assert len(lines) >= 2 and lines[-1].startswith("live: epoch 4/4") and lines[-1].endswith("finished")


def test_once_and_the_newest_run(part, call):
    older = shutil.copytree(part, part.parent / "older")
    os.utime(older, (1, 1))
    code, out, _ = call("watch", "--once", "--runs", part.parent)
    assert code == 0 and out.startswith("part: epoch 6/8") and out.count("\n") == 1
    code, _, err = call("watch", part / "no")
    assert code == 2 and err.count("\n") == 1


@pytest.mark.slow
@pytest.mark.parametrize("sent, code", [(signal.SIGINT, 0), (signal.SIGTERM, 143)])
def test_on_a_terminal_until_interrupted(part, sent, code):
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "co_probe", "watch", str(part), "--interval", "0.1"]
    process = subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs)
    os.close(theirs)
    seen, deadline = "", time.monotonic() + 120
    while "per epoch" not in seen and time.monotonic() < deadline:
        if select.select([ours], [], [], 1)[0]:
            seen += os.read(ours, 4096).decode("utf-8", "replace")
    process.send_signal(sent)
    assert process.wait(60) == code
    os.close(ours)
    assert "█" in seen and "catastrophic overfitting from epoch 5, so far" in seen


def test_sparklines():
    assert sparkline(pd.Series([0, 0.5, 1]), 3) == "▁▅█"
    assert sparkline(pd.Series([0, 1]), 4) == "▁▁██"
    assert sparkline(pd.Series([0, 0, 1, 1]), 2) == "▁█"
    assert sparkline(pd.Series([np.nan, 1.0]), 2) == " █"
    assert sparkline(pd.Series([], dtype=float), 5) == ""


def test_durations():
    assert [duration(s) for s in (None, 40, 200, 4800)] == ["unknown", "40 s", "3 min", "1 h 20 min"]
