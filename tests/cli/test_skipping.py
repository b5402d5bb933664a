"""A run that cannot be used, beside good ones, is passed over with a line; alone, it is a clear error."""

import os
import re
import shutil
from pathlib import Path

import pytest
import torch

from co_probe import gap
from co_probe.errors import NotStored, UserError
from co_probe.runs import Run
from co_probe.runs.checkpoints import export
from co_probe.store import StoredRun

MEASURE = {
    "gap": ["gap", "--against", "pgd2", "--device", "cpu"],
    "gap, with its model": ["gap", "--split", "train", "--against", "pgd2", "--device", "cpu"],
    "memorisation": ["memorisation", "--last", "--against", "fgsm", "--device", "cpu"],
    "probe": ["probe", "alignment", "--device", "cpu"],
    "eval": ["eval", "--attacks", "clean", "--images", "20", "--device", "cpu"],
    "strength": ["strength", "--reference", "reference.pt", "--device", "cpu"],
    "plot": ["plot", "gap", "--against", "pgd2", "--device", "cpu"],
}
PROGRESS = re.compile(r": \d+/\d+ \(")
READ = {"show": ["show"], "show as CSV": ["show", "--csv"], "diagnose": ["diagnose"]}


@pytest.fixture
def at(trained: Path, tmp_path: Path, monkeypatch) -> Path:
    """A folder to be in, with the finished runs `fgsm` and `pgd`, and a reference."""
    for method in ("fgsm", "pgd"):
        shutil.copytree(trained / method, tmp_path / "runs" / method)
    monkeypatch.chdir(tmp_path)
    export(Run("runs/pgd"), 3, "reference.pt")
    return tmp_path


@pytest.fixture
def call(call):
    """The command line in this process: (exit code, standard output, standard error without progress)."""

    def without_progress(*arguments: str | Path) -> tuple[int, str, str]:
        code, out, err = call(*arguments)
        return code, out, "".join(line for line in err.splitlines(keepends=True) if not PROGRESS.search(line))

    return without_progress


def begun(run: Path) -> None:
    """Leave of a run what there is before its first epoch is finished."""
    for file in run.glob("epoch-*"):
        file.unlink()


def damaged(run: Path) -> None:
    """Alter the weights of an epoch, which only a measurement reads."""
    path = run / "epoch-0002.h5"
    content = path.read_bytes()
    weights = StoredRun(run).weights(2)
    largest = max(weights.values(), key=lambda value: value.nbytes).tobytes()
    at = content.index(largest[:64])
    path.write_bytes(content[:at] + b"\xff" * 8 + content[at + 8 :])


@pytest.mark.parametrize("command", MEASURE)
@pytest.mark.parametrize("named", [False, True])
def test_a_run_without_an_epoch_is_passed_over(command, named, at, call):
    begun(at / "runs/fgsm")
    code, out, err = call(*MEASURE[command], *(["runs/fgsm", "runs/pgd"] if named else []))
    assert code == 0 and err.startswith("Skipped: fgsm has no finished epoch yet\n")
    assert "pgd" in out or command == "plot"


@pytest.mark.parametrize("command", MEASURE)
def test_a_single_run_without_an_epoch_is_an_error(command, at, call):
    begun(at / "runs/fgsm")
    assert call(*MEASURE[command], "runs/fgsm") == (2, "", "Error: fgsm has no finished epoch yet\n")


def test_the_library_refuses_a_run_without_an_epoch(at):
    begun(at / "runs/fgsm")
    with pytest.raises(UserError, match="fgsm has no finished epoch yet"):
        gap("runs/fgsm", "pgd2")
    assert set(gap(["runs/fgsm", "runs/pgd"], "pgd2", device="cpu")["run"]) == {"pgd"}


@pytest.mark.parametrize("command", MEASURE | READ)
def test_a_damaged_run_is_passed_over(command, at, call):
    damaged(at / "runs/fgsm")
    (at / "runs/torn").mkdir()
    (at / "runs/torn/run.h5").write_bytes((at / "runs/pgd/run.h5").read_bytes()[:-50])
    code, out, err = call(*(MEASURE | READ)[command])
    lines = err.splitlines()
    assert code == 0 and "pgd" in out + "pgd" * (command == "plot")
    assert lines[0].startswith("Skipped: runs/torn/run.h5 is damaged")
    # What does not read the weights of that epoch does not notice.
    reads = command not in (*READ, "memorisation", "eval")
    assert [line for line in lines if "fgsm/epoch-0002.h5 is damaged" in line] == lines[1:2] if reads else not lines[1:]


def test_a_log_is_distinguished_from_a_damaged_run(at, call):
    (at / "log.csv").write_text("epoch,clean,pgd\n1,0.5,0.4\n")
    code, _, err = call("plot", "gap", "log.csv")
    assert (code, err) == (
        2,
        "Error: log.csv is not a run: it is a file of another kind (diagnose reads training logs)\n",
    )


@pytest.mark.parametrize("command", READ)
def test_a_damaged_metric_is_passed_over(command, at, call):
    (at / "runs/fgsm/epoch-0002.h5").write_bytes(b"not HDF5")
    for named in ([], ["runs/pgd", "runs/fgsm"]):
        code, out, err = call(*READ[command], *named)
        assert code == 0 and "pgd" in out
        assert err.startswith("Skipped: runs/fgsm/epoch-0002.h5 is damaged") and err.count("\n") == 1


def test_a_pipe_in_place_of_an_epoch_does_not_hang(at, call):
    (at / "runs/fgsm/epoch-0002.h5").unlink()
    os.mkfifo(at / "runs/fgsm/epoch-0002.h5")
    code, _, err = call("show", "runs/fgsm")
    assert code == 2 and err.count("\n") == 1 and "it is no regular file" in err


@pytest.mark.parametrize("model", [[], ["--reference-model", "resnet18"]])
def test_a_pipe_in_place_of_a_reference_does_not_hang(model, at, call):
    os.mkfifo("pipe.pt")
    code, _, err = call("strength", "--reference", "pipe.pt", *model)
    assert (code, err) == (2, "Error: pipe.pt is no regular file\n")


def test_a_name_typed_wrong_stops_the_command(at, call):
    code, out, err = call("show", "runs/pgd", "runs/fgms")
    assert (code, out) == (2, "") and "runs/fgms is not a run: it does not exist" in err


# -- runs that cannot be written to ----------------------------------------------------------------------------------

STORED = ["gap", "eval", "plot"]


def read_only(run: Path) -> None:
    """Keep everybody, the superuser too, from writing tables into the folder of a run."""
    (run / "results.lock").mkdir()


@pytest.mark.parametrize("command", STORED)
def test_a_read_only_run_is_measured_and_warned_of(command, at, call):
    _, expected, _ = call(*MEASURE[command], "runs/pgd")
    (at / "runs/pgd/results.h5").unlink()
    read_only(at / "runs/pgd")
    code, out, err = call(*MEASURE[command], "runs/pgd")
    assert (code, out) == (0, expected)
    assert err.count("Warning: ") == 1 and err.count("\n") == 1, err
    assert "cannot write to runs/pgd" in err and "are not stored: --results DIR stores them elsewhere" in err


@pytest.mark.parametrize("command", STORED)
def test_results_are_stored_in_another_folder(command, at, call, monkeypatch):
    _, expected, _ = call(*MEASURE[command], "runs/pgd")
    (at / "runs/pgd/results.h5").unlink()
    read_only(at / "runs/pgd")
    assert call(*MEASURE[command], "--results", "beside", "runs/pgd") == (0, expected, "")
    assert not (at / "runs/pgd/results.h5").exists()
    (file,) = (at / "beside").iterdir()
    assert file.name == f"pgd-{StoredRun('runs/pgd').info.run_id[:8]}.results.h5"
    monkeypatch.setattr(Run, "models", lambda *_, **__: pytest.fail("it is stored already"))
    monkeypatch.setattr(torch.nn.Module, "__call__", lambda *_: pytest.fail("it is stored already"))
    assert call(*MEASURE[command], "--results", "beside", "runs/pgd") == (0, expected, "")


def test_runs_of_one_name_do_not_share_results(at):
    shutil.copytree("runs/fgsm", "other/pgd")
    for run in ("runs/pgd", "other/pgd"):
        gap(StoredRun(run, results="beside"), "pgd2", device="cpu")
    assert len(list((at / "beside").iterdir())) == 2


def test_the_library_warns_and_returns(at):
    read_only(at / "runs/pgd")
    with pytest.warns(NotStored, match="results of pgd are not stored") as caught:
        frame = gap("runs/pgd", "pgd2", device="cpu")
    assert len(caught) == 1 and set(frame["epoch"]) == {1, 2, 3}
