"""However a command ends, it says so in one line and with the right exit code."""

import os
import re
import signal
import subprocess
import sys
import time
import warnings

import children
import pytest

from co_probe import store
from co_probe.cli.main import main

ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
LONG = ["run", "fgsm", "--out", "run", "--epochs", "1000", "--set", "data.size=8", "--set", "model.width=8"]


@pytest.fixture
def failing(monkeypatch):
    """Let every opening of a run warn, as a library does, and raise an exception."""

    def failing(error: BaseException) -> None:
        def fail(*_: object, **__: object) -> None:
            warnings.warn("something of a library", DeprecationWarning, stacklevel=1)
            raise error

        monkeypatch.setattr(store.StoredRun, "__init__", fail)

    return failing


def test_an_unexpected_exception_is_one_line(failing, call, tmp_path):
    failing(TypeError("first line\nsecond line"))
    code, out, err = call("show", tmp_path)
    assert (code, out) == (1, "")
    assert err == (
        "Error: internal error (TypeError: first line\\nsecond line): please report; --debug shows the traceback\n"
    )


def test_debug_raises_the_unexpected_exception(failing, tmp_path):
    failing(RecursionError())
    with pytest.raises(RecursionError):
        main(["--debug", "show", str(tmp_path)])


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory")])
def test_too_little_memory_is_the_users_to_mend(error, failing, call, tmp_path):
    failing(error)
    code, _, err = call("show", tmp_path)
    assert code == 2 and err.startswith("Error: out of memory (") and err.count("\n") == 1


def test_a_line_break_in_a_name_does_not_break_the_line(call, tmp_path):
    code, _, err = call("show", tmp_path / "two\nlines")
    assert code == 2 and err.count("\n") == 1 and "two\\nlines is not a run" in err


def test_warnings_of_libraries_come_after_a_success(monkeypatch, call, trained):
    from co_probe.cli import show

    def warn(*_: object) -> None:
        warnings.warn("something of a library", DeprecationWarning, stacklevel=1)

    monkeypatch.setattr(show, "_print_run", warn)
    code, _, err = call("show", trained / "fgsm")
    assert code == 0 and "DeprecationWarning: something of a library" in err


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGHUP, 129), (signal.SIGINT, 130)])
def test_a_signal_ends_a_run_in_order(number, code, tmp_path):
    command = children.command_line(tmp_path, *LONG)
    deadline = time.monotonic() + 120
    while not (tmp_path / "run" / "epoch-0001.h5").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    os.kill(command.pid, number)
    command.join(60)
    command.kill()
    assert command.exitcode == code
    assert (tmp_path / "err").read_text().strip() in [
        f"{word}. Finished results are stored; the same command (run: with --resume) continues."
        for word in ("Terminated", "Interrupted")
    ]
    left = [p.name for p in (tmp_path / "run").iterdir() if p.suffix in (".lock", ".partial")]
    assert left == []


def test_an_ignored_signal_stays_ignored(tmp_path):
    code = (
        "import os, signal\nfrom co_probe.cli.endings import ending_by_signals\n"
        "signal.signal(signal.SIGHUP, signal.SIG_IGN)\n"
        "with ending_by_signals():\n    os.kill(os.getpid(), signal.SIGHUP)\nprint('alive')"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=ENVIRONMENT)
    assert result.stdout == "alive\n", result.stderr


def test_a_path_that_is_not_utf8_is_printed_escaped(trained, tmp_path):
    """On a standard output that refuses what it cannot encode."""
    import shutil

    odd = os.fsdecode(b"r\xffn")
    shutil.copytree(trained / "fgsm", tmp_path / odd)
    for encoding, arguments in (("ascii", ["show"]), ("utf-8", ["gap", "--against", "pgd2"])):
        command = children.command_line(tmp_path, *arguments, odd, encoding=encoding)
        command.join()
        assert command.exitcode == 0 and b"Error" not in (tmp_path / "err").read_bytes()
        out = (tmp_path / "out").read_bytes()
        assert re.search(rb"r(\\udcff|\?)n", out), out


def test_a_run_in_a_folder_that_is_not_utf8(tmp_path):
    odd = os.fsdecode(b"r\xffn")
    small = ["--epochs", "1", "--set", "data.size=8", "--set", "model.width=8", "--set", "probe.test=10"]
    command = children.command_line(tmp_path, "run", "fgsm", "--out", odd, *small)
    command.join()
    assert command.exitcode == 0 and b"Error" not in (tmp_path / "err").read_bytes()
    out = (tmp_path / "out").read_bytes()
    assert re.search(rb"Next: co-probe show r(\\udcff|\?)n\s*$", out), out
