"""Processes of a sweep: each alone, and none left over, however the sweep ends."""

import os
import signal
import subprocess
import sys
import time
from concurrent.futures import BrokenExecutor, CancelledError, wait
from pathlib import Path

import children
import pytest
import torch
from process_tasks import die, refuse, sleep, visible_gpu

from co_probe.errors import CoProbeError, NotAllowed
from co_probe.sweeps.engines import local, visible_gpus
from co_probe.sweeps.processes import Processes, cores

PATIENCE = 120  # seconds, for interpreters that start on a busy machine
SCRIPT = """
import signal, sys, time
from process_tasks import sleep
from co_probe.sweeps.processes import Processes

if __name__ == "__main__":
    executor = Processes(2)
    futures = [executor.submit(sleep, f"{sys.argv[1]}/{number}") for number in range(2)]
    time.sleep(1000)
"""


def pids(folder: Path, count: int) -> list[int]:
    """The processes that `sleep` in `folder`, once there are `count` of them."""
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        found = [int(path.read_text()) for path in folder.iterdir() if path.suffix != ".new"]
        if len(found) == count:
            return found
        time.sleep(0.1)
    raise AssertionError("the processes do not start")


def gone(pid: int) -> bool:
    """Whether the process has ended, or only waits for its parent to take note of it."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


def all_gone(found: list[int]) -> bool:
    end = time.monotonic() + 20
    while time.monotonic() < end and not all(map(gone, found)):
        time.sleep(0.1)
    return all(map(gone, found))


@pytest.mark.slow
def test_a_killed_process_does_not_affect_others():
    executor = Processes(1)
    killed, refused, done = executor.submit(die), executor.submit(refuse), executor.submit(int, "7")
    assert isinstance(killed.exception(), BrokenExecutor) and done.result() == 7
    assert isinstance(refused.exception(), NotAllowed) and refused.exception().name == "mine:Net"
    failed = executor.submit(int, "x").exception()
    assert isinstance(failed, CoProbeError) and "ValueError: invalid literal" in str(failed)
    executor.shutdown()


@pytest.mark.slow
def test_each_process_sees_a_gpu_of_its_own():
    executor = Processes(4, ["GPU-a", "GPU-b"])
    # Together they take longer than interpreters take to start, so that all four jobs are in use.
    futures = [executor.submit(visible_gpu, 1.0) for _ in range(4)]
    assert sorted(future.result() for future in futures) == ["GPU-a", "GPU-a", "GPU-b", "GPU-b"]
    assert executor.submit(visible_gpu).result() in ("GPU-a", "GPU-b")
    executor.shutdown()


@pytest.mark.parametrize(
    ("named", "count", "seen"), [(None, 3, ["0", "1", "2"]), ("5,7", 2, ["5", "7"]), ("", 0, []), ("5,9", 1, ["5"])]
)
def test_jobs_are_dealt_onto_the_gpus_that_are_visible(named, count, seen, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if named is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", named)
    assert visible_gpus() == seen
    assert local(8).jobs == min(8, count or cores())
    assert local(8, jobs=5).jobs == 5 and local(2, jobs=5).jobs == 2


@pytest.mark.slow
def test_shutdown_ends_running_tasks_and_starts_no_others(tmp_path):
    executor = Processes(1)
    running, waiting = executor.submit(sleep, str(tmp_path / "0")), executor.submit(sleep, str(tmp_path / "1"))
    found = pids(tmp_path, 1)
    executor.shutdown()
    assert all_gone(found)
    assert not wait([running, waiting], timeout=20).not_done
    assert isinstance(running.exception(), BrokenExecutor)
    with pytest.raises(CancelledError):
        waiting.result(timeout=0)
    assert not (tmp_path / "1").exists()


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_no_process_outlives_a_killed_sweep(number, tmp_path):
    (tmp_path / "script.py").write_text(SCRIPT)
    (tmp_path / "pids").mkdir()
    path = os.pathsep.join([str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
    parent = subprocess.Popen(
        [sys.executable, "script.py", "pids"], cwd=tmp_path, env={**os.environ, "PYTHONPATH": path}
    )
    try:
        found = pids(tmp_path / "pids", 2)
        assert not any(map(gone, found))
        parent.send_signal(number)
        parent.wait(PATIENCE)
        assert all_gone(found)
    finally:
        parent.kill()
        for pid in pids(tmp_path / "pids", 2):
            if not gone(pid):
                os.kill(pid, signal.SIGKILL)


@pytest.mark.slow
def test_sigterm_stops_the_command_line_as_ctrl_c_does(tmp_path):
    arguments = ["sweep", "--methods", "fgsm", "--out", str(tmp_path / "s"), "--set", "epochs=500", "--device", "cpu"]
    command = children.command_line(tmp_path, *arguments)
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end and not (tmp_path / "s").exists():
        time.sleep(0.1)
    command.terminate()
    command.join(PATIENCE)
    command.kill()
    errors = (tmp_path / "err").read_text()
    assert command.exitcode == 143 and "Terminated" in errors and "Traceback" not in errors
