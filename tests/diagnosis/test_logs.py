"""Logs of other programs, as they are found in the wild."""

import gzip
import sys

import numpy as np
import pandas as pd
import pytest

from co_probe.diagnosis.logs import read_logs
from co_probe.errors import UserError

PGD = [0.2, 0.3, 0.35]


def read(tmp_path, text, columns=None, name="log.csv"):
    """The only log in a file with this text."""
    path = tmp_path / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    (log,) = read_logs(path, columns)
    return log


@pytest.mark.parametrize("separator", [",", ";", "\t", "|", " ", " , ", " \t "])
def test_separators(tmp_path, separator):
    rows = [["epoch", "acc", "pgd"], ["1", "0.5", "0.2"], ["2", "0.6", "0.3"]]
    log = read(tmp_path, "\n".join(separator.join(row) for row in rows))
    assert log.name == "log.csv"
    assert log.epochs.tolist() == [1, 2]
    assert {curve: values.tolist() for curve, values in log.curves.items()} == {"clean": [0.5, 0.6], "pgd": [0.2, 0.3]}
    assert log.columns == {"epoch": "epoch", "clean": "acc", "pgd": "pgd"} and not log.notes


def test_decimal_commas_byte_order_mark_and_compression(tmp_path):
    text = "epoch;pgd\r\n1;0,25\r\n2;0,5\r\n"
    assert read(tmp_path, text.encode("utf-8-sig")).curves["pgd"].tolist() == [0.25, 0.5]
    assert read(tmp_path, gzip.compress(text.encode())).curves["pgd"].tolist() == [0.25, 0.5]


def test_percentages_are_recognised_for_all_columns_together():
    log = read_logs({"clean": [40, 60.5], "pgd": [0.7, 0.9]})[0]
    assert log.curves["pgd"].tolist() == pytest.approx([0.007, 0.009])
    assert "accuracies are read as percentages" in log.notes
    assert any("pgd never exceeds 1" in note for note in log.notes)


def test_percent_signs():
    log = read_logs({"clean": ["0.9%", "0.8 %"], "pgd": ["0.7%", " 0.6%"]})[0]
    assert log.curves["clean"].tolist() == pytest.approx([0.009, 0.008])


def test_shares_are_not_converted():
    log = read_logs({"clean": [1.0, 0.5], "pgd": [1, 0]})[0]
    assert log.curves["pgd"].tolist() == [1, 0] and not log.notes


def test_epochs_from_zero_and_without_a_column():
    log = read_logs({"epoch": [0, 5, 10], "pgd": PGD})[0]
    assert log.epochs.tolist() == [1, 6, 11] and "counts from 0" in log.notes[0]
    assert read_logs({"pgd": PGD})[0].epochs.tolist() == [1, 2, 3]


def test_a_resumed_run_repeats_header_and_epochs(tmp_path):
    log = read(tmp_path, "epoch,pgd,clean\n1,0.1,0.5\n2,0.2,0.6\n3,0.9,0.7\nepoch,pgd,clean\n3,0.3,\n4,0.4,0.8\n")
    assert log.epochs.tolist() == [1, 2, 3, 4]
    assert log.curves["pgd"].tolist() == [0.1, 0.2, 0.3, 0.4]
    assert log.curves["clean"].tolist() == [0.5, 0.6, 0.7, 0.8]
    assert "the last value counts" in log.notes[0]


def test_rows_are_sorted_and_rows_without_an_epoch_left_out():
    log = read_logs({"epoch": [3, 1, None, 2], "pgd": [0.3, 0.1, 0.9, 0.2]})[0]
    assert log.curves["pgd"].tolist() == [0.1, 0.2, 0.3]
    assert "1 rows without an epoch" in log.notes[0]


def test_missing_values():
    log = read_logs({"pgd": ["0.1", "", "nan", "N/A", "-", "inf"], "clean": [None] * 6})[0]
    assert np.isnan(log.curves["pgd"][1:]).all() and log.curves["pgd"][0] == 0.1
    assert "clean" not in log.curves


def test_several_runs_in_one_log():
    frame = pd.DataFrame({"run": ["b", "b", "a"], "pgd": [0.1, 0.2, 0.3], "fgsm": [None, None, 0.5]})
    first, second = read_logs(frame)
    assert (first.name, first.curves["pgd"].tolist(), "fgsm" in first.curves) == ("b", [0.1, 0.2], False)
    assert (second.name, second.curves["fgsm"].tolist()) == ("a", [0.5])


def test_a_tidy_table_of_co_probe():
    rows = [
        {"run": "fgsm", "epoch": epoch, "quantity": quantity, "value": value, "n": 40}
        for epoch in (1, 2)
        for quantity, value in (("pgd10", 0.1 * epoch), ("train_attack", 0.5), ("fgsm", 0.4), ("train_loss", 2.3))
    ]
    log = read_logs(pd.DataFrame(rows))[0]
    assert log.curves["pgd"].tolist() == [0.1, 0.2] and log.curves["fgsm"].tolist() == [0.5, 0.5]
    assert log.images == 40


def test_the_index_of_a_frame_may_hold_the_epochs_and_the_frame_is_not_changed():
    frame = pd.DataFrame({" pgd ": PGD}, index=pd.Index([10, 20, 30], name="epoch"))
    assert read_logs(frame)[0].epochs.tolist() == [10, 20, 30]
    assert list(frame.columns) == [" pgd "] and frame.index.name == "epoch"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "cannot be read as CSV"),
        ("epoch,pgd\n", "has no rows"),
        ("epoch,pgd\n1,0.2\n2,0.3,0.4\n", "cannot be read as CSV"),
        ("epoch,pgd\n1,abc\n", "column pgd holds 'abc', which is no number"),
        ("epoch,pgd\n1,130\n", "column pgd holds 130, which is no accuracy"),
        ("epoch,pgd\n1,-0.2\n", "column pgd holds -0.2, which is no accuracy"),
        ("epoch,pgd\n1.5,0.2\n", "column epoch must hold whole numbers"),
        ("epoch,pgd\n-1,0.2\n", "column epoch must hold whole numbers"),
        ("epoch,loss\n1,0.2\n", "no column is named like accuracy under PGD"),
        ("a,pgd,b,pgd \n1,0.2,1,0.3\n", "two columns named pgd"),
        (b"\xff\xfe\x00\x01", "cannot be read as a CSV log"),
    ],
)
def test_wrong_logs_are_refused_in_one_line(tmp_path, text, message):
    with pytest.raises(UserError, match=message) as error:
        read(tmp_path, text)
    assert "\n" not in str(error.value) and "log.csv" in str(error.value)


def test_paths_without_a_log(tmp_path):
    with pytest.raises(UserError, match="does not exist"):
        read_logs(tmp_path / "none.csv")
    (tmp_path / "runs" / "fgsm").mkdir(parents=True)
    (tmp_path / "runs" / "fgsm" / "run.h5").touch()
    with pytest.raises(UserError, match=r"runs is a folder of runs: name one or more of them, such as .*fgsm"):
        read_logs(tmp_path / "runs")
    with pytest.raises(UserError, match="neither a run nor a folder of TensorBoard events"):
        read_logs(tmp_path)
    with pytest.raises(UserError, match="do not fit together"):
        read_logs({"pgd": [0.1], "clean": [0.1, 0.2]})


def test_without_tensorboard_one_line_says_how_to_get_it(tmp_path, monkeypatch):
    (tmp_path / "events.out.tfevents.1.host").write_bytes(b"")
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    monkeypatch.setitem(sys.modules, "tensorboard.backend.event_processing.event_accumulator", None)
    with pytest.raises(UserError, match=r"pip install 'co-probe\[tensorboard\]'"):
        read_logs(tmp_path)


@pytest.fixture
def events():
    """A function that writes scalars {tag: {step: value}} as TensorBoard events to a folder."""
    pytest.importorskip("tensorboard", reason="tensorboard is not installed")
    from torch.utils.tensorboard import SummaryWriter

    def write(folder, scalars):
        with SummaryWriter(folder) as writer:
            for tag, values in scalars.items():
                for step, value in values.items():
                    writer.add_scalar(tag, value, step)
        return folder

    return write


def test_tensorboard_steps_that_are_epochs(events, tmp_path):
    events(tmp_path, {"val/pgd": {0: 20, 1: 30, 2: 35}, "val/clean": {0: 50, 2: 60}, "train/loss": {0: 2.0}})
    log = read_logs(tmp_path)[0]
    assert log.epochs.tolist() == [1, 2, 3]
    assert log.curves["pgd"].tolist() == pytest.approx(PGD)
    assert log.curves["clean"].tolist() == pytest.approx([0.5, np.nan, 0.6], nan_ok=True)
    assert any("steps of TensorBoard are taken as epochs" in note for note in log.notes)


def test_tensorboard_steps_of_the_optimizer(events, tmp_path):
    accuracy = {step: step / 1000 for step in range(50, 1001, 50)}
    events(tmp_path, {"pgd": {391: 0.2, 782: 0.3, 1173: 0.35}, "train_acc": accuracy})
    log = read_logs(tmp_path)[0]
    assert log.epochs.tolist() == [1, 2, 3]
    assert log.curves["train"].tolist() == pytest.approx([0.35, 0.75, 1.0])  # the newest before each value of PGD
    assert any("epoch 1 is step 391" in note for note in log.notes)


def test_tensorboard_epochs_as_lightning_writes_them(events, tmp_path):
    events(tmp_path, {"val_pgd": {390: 0.2, 781: 0.3}, "epoch": {49: 0, 390: 0, 440: 1, 781: 1}})
    assert read_logs(tmp_path)[0].epochs.tolist() == [1, 2]


def test_tensorboard_subfolders_hold_curves_of_one_run_or_several_runs(events, tmp_path):
    events(tmp_path / "one" / "acc_pgd", {"acc": {1: 0.2, 2: 0.3}})
    events(tmp_path / "one" / "acc_clean", {"acc": {1: 0.5, 2: 0.6}})
    log = read_logs(tmp_path / "one")[0]
    assert log.columns["pgd"] == "acc_pgd/acc" and log.curves["clean"].tolist() == pytest.approx([0.5, 0.6])
    for run in ("a", "b"):
        events(tmp_path / "several" / run, {"pgd": {1: 0.2, 2: 0.3}})
    with pytest.raises(UserError, match=r"several runs \(a, b\): name one"):
        read_logs(tmp_path / "several")
    assert read_logs(tmp_path / "several" / "a", {"pgd": "pgd"})[0].name == "a"
