"""A lock file that somebody else made: it names nobody, or it is respected; nothing else."""

import json
import os
import socket
import time
from pathlib import Path

import pytest

from co_probe.errors import UserError
from co_probe.files import lock
from co_probe.files.lock import Lock

HERE = socket.gethostname()


@pytest.mark.parametrize(
    "content",
    [
        "[" * 900,
        '{"pid": ' + "[" * 900,
        "null",
        '{"pid": null, "host": null}',
        json.dumps({"pid": -1, "host": HERE}),
        json.dumps({"pid": 10**30, "host": HERE}),
        json.dumps({"pid": True, "host": HERE}),
        json.dumps({"pid": 1.5, "host": HERE}),
        json.dumps({"pid": 1, "host": ["elsewhere"]}),
        '{"pid": 1e999, "host": "elsewhere"}',
        "\udcff\x00",
    ],
)
@pytest.mark.parametrize("locks", [True, False])
def test_a_lock_that_names_nobody_is_taken_over(content, locks, tmp_path, monkeypatch):
    if not locks:
        monkeypatch.setattr(lock.fcntl, "flock", lambda *_: (_ for _ in ()).throw(OSError("no locks here")))
    path = tmp_path / "run.lock"
    path.write_bytes(os.fsencode(content))
    with Lock(path, "it"):
        assert json.loads(path.read_text())["pid"] == os.getpid()
    assert not path.exists()


def test_a_host_name_with_a_line_break_is_printed_in_one_line(tmp_path):
    path = tmp_path / "run.lock"
    path.write_text(json.dumps({"pid": 7, "host": "else\nwhere"}))
    with pytest.raises(UserError, match=r"process 7 on else\\nwhere") as caught, Lock(path, "it"):
        pass
    assert "\n" not in str(caught.value)


def test_a_pipe_or_a_folder_in_place_of_a_lock_does_not_hang(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    for name in ("pipe", "folder"):
        with pytest.raises(UserError, match="cannot write to"), Lock(Path(tmp_path / name), "it"):
            pass


@pytest.mark.parametrize(("age", "beats", "taken"), [(500, True, True), (60, True, False), (500, False, False)])
def test_a_lock_of_another_machine_is_respected_while_its_holder_may_live(age, beats, taken, tmp_path):
    path = tmp_path / "run.lock"
    path.write_text(json.dumps({"pid": 7, "host": "elsewhere", "beats": beats}))
    os.utime(path, (time.time() - age,) * 2)
    if taken:
        with Lock(path, "it"):
            assert json.loads(path.read_text())["host"] == HERE
        return
    with pytest.raises(UserError, match="process 7 on elsewhere"), Lock(path, "it"):
        pass


def test_a_holder_touches_its_lock(tmp_path, monkeypatch):
    monkeypatch.setattr(lock, "BEAT", 0.01)
    path = tmp_path / "run.lock"
    with Lock(path, "it"):
        os.utime(path, (0, 0))
        end = time.monotonic() + 20
        while path.stat().st_mtime == 0 and time.monotonic() < end:
            time.sleep(0.01)
        assert path.stat().st_mtime > 0
