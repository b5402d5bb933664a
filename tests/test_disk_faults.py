"""Every call that changes the disk while an epoch is trained and written may be the last one, or may fail.

One training is recorded, call by call, by a disk of `tests/disks.py`. Each state that a kill or a power cut can leave
of its folder is then laid out, half-done writes and unsynced changes included: it holds whole epochs only, and goes on.
"""

import errno
import os
import shutil
from pathlib import Path

import children
import numpy as np
import pytest
from campaigns import ALL
from conftest import tiny_config
from disks import Disk, RecordingDisk, fail_at
from test_crash import calls, files, learned

from co_probe.errors import UserError
from co_probe.store import RunWriter, StoredRun
from co_probe.training.loop import epochs

EPOCHS = 2
CONFIG = tiny_config("apart", epochs=EPOCHS, batch_size=512, probe={"test": 20, "train": 20})


@pytest.fixture(scope="module")
def recorded(tmp_path_factory) -> tuple[Path, list]:
    """A run that was trained, and the calls that made it."""
    folder, patch = tmp_path_factory.mktemp("recorded") / "run", pytest.MonkeyPatch()
    folder.mkdir()
    disk, commit = RecordingDisk(patch, folder), RunWriter.commit

    def committing(self: RunWriter, epoch: int, *rest: object) -> None:
        commit(self, epoch, *rest)
        disk.mark(f"epoch {epoch}")

    patch.setattr(RunWriter, "commit", committing)
    list(epochs(CONFIG, folder, device="cpu"))
    patch.undo()
    return folder, disk.calls


@pytest.fixture(autouse=True)
def no_waiting_for_the_disk(monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda handle: None)


def states(calls: list) -> dict[tuple, tuple[dict[str, bytes], int]]:
    """Every state that a kill or a power cut can leave: its files, and the newest epoch that was promised by then."""
    disk, promised, found = Disk(), 0, {}
    for call in calls:
        left = [*disk.after_power_cuts()]
        if call.kind == "write":
            half = Disk(dict(disk.names), dict(disk.content))
            half.apply(call, 0.5)
            left.append(half.after_a_kill())
        left.append(disk.after_a_kill())
        for content in left:
            found.setdefault((promised, *sorted(content.items())), (content, promised))
        disk.apply(call)
        if call.kind == "mark":
            promised = max(promised, int(call.name.split()[1]))
    found.setdefault((promised, *sorted(disk.after_a_kill().items())), (disk.after_a_kill(), promised))
    return found


def lay_out(content: dict[str, bytes], folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    for name, inside in content.items():
        (folder / name).write_bytes(inside)


def test_recorded_values_equal_those_on_the_disk(recorded):
    folder, calls = recorded
    disk = Disk()
    for call in calls:
        disk.apply(call)
    assert disk.after_a_kill() == files(folder)
    first, *_ = disk.after_power_cuts()
    assert {name: content for name, content in first.items() if name != "run.lock"} == files(folder)
    kinds = [call.kind for call in calls]
    assert min(map(kinds.count, ("write", "sync", "sync folder", "rename", "create", "remove"))) > 1


@pytest.mark.slow
def test_every_state_after_a_crash_has_complete_epochs_and_can_be_resumed(recorded, tmp_path):
    folder, done = recorded
    whole, path, seen = StoredRun(folder), tmp_path / "run", {}
    final = files(folder)
    left, rng = [*states(done).values()], np.random.default_rng(0)
    for content, promised in (state for state in left if ALL or rng.random() < 1 / 3):
        lay_out(content, path)
        kept = {name: inside for name, inside in content.items() if name.startswith("epoch-")}
        assert kept == {name: final[name] for name in kept}, "a part of an epoch has its name"
        assert len(kept) >= promised, "an epoch that was finished is gone"
        if "run.h5" in content:
            assert StoredRun(path).info == whole.info
        else:
            assert not kept
        with RunWriter(path, whole.info, _probe(whole), {}, resume=True) as writer:
            if 0 < writer.last < EPOCHS:
                assert writer.resume_state()["momentum"]
        assert not [name for name in files(path) if name.startswith(".") or name.endswith(".lock")]
        seen.setdefault((len(kept), "run.h5" in content, "resume-0001.h5" in content), content)
    for content in seen.values():
        lay_out(content, path)
        list(epochs(CONFIG, path, device="cpu", resume=True))
        assert learned(path) == learned(folder) and sorted(files(path)) == sorted(final)
    assert {count for count, *_ in seen} == {0, 1, 2}


@pytest.mark.slow
@pytest.mark.parametrize("number", [errno.EIO, errno.ENOSPC])
def test_an_error_of_any_call_is_one_line_and_the_run_can_be_resumed(number, tmp_path):
    config, call = tiny_config("fgsm", epochs=2).to_dict(), 0
    children.write_run(tmp_path / "whole", config)
    whole, path = files(tmp_path / "whole"), tmp_path / "run"
    for call in calls():
        shutil.rmtree(path, ignore_errors=True)
        with pytest.MonkeyPatch.context() as patch:
            due = fail_at(patch, call, number)
            try:
                children.write_run(path, config)
            except UserError as error:
                assert "\n" not in str(error) and os.strerror(number) in str(error)
            came = due()
        children.write_run(path, config, resume=True)
        assert files(path) == whole
        if not came:
            break
    assert call > 40


def _probe(run: StoredRun) -> dict:
    from co_probe.store import ProbeImages

    return {split: ProbeImages(*run.probe_images(split), index) for split, index in run.probe_set.items()}
