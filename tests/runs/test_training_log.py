"""Training logs of foreign scripts."""

import pandas as pd
import pytest

from co_probe.errors import UserError
from co_probe.runs.training_log import read_training_log


def test_a_csv_file_with_other_columns_gaps_and_nan(tmp_path):
    (tmp_path / "log.csv").write_text(
        "epoch, train_loss, learning_rate, note\n1, 2.5, 0.1, a\n2, nan, 0.2,\n3, , 0.1, c\n"
    )
    log = read_training_log(tmp_path / "log.csv")
    assert log.metrics == {
        1: {"train_loss": 2.5, "learning_rate": 0.1},
        2: {"learning_rate": 0.2},
        3: {"learning_rate": 0.1},
    }
    assert "train_loss, learning_rate" in log.note


def test_abbreviations_tabs_percent_and_epochs_from_0(tmp_path):
    (tmp_path / "log.tsv").write_text("Epoch\tLR\tTrain Loss\tTrain Acc\n0\t0.1\t2.0\t30\n1\t0.2\t1.0\t60\n")
    log = read_training_log(tmp_path / "log.tsv")
    assert log.metrics[2] == {"learning_rate": 0.2, "train_loss": 1.0, "train_accuracy": 0.6}
    assert "percent" in log.note and "epoch 0 as epoch 1" in log.note


def test_columns_that_are_not_read_are_named():
    note = read_training_log({"loss": [2.0], "Time": [1.0], "epoch": [1], "val_acc": [0.5]}).note
    assert note == "Read from the training log: train_loss. Not read: Time, val_acc."
    assert "Not read" not in read_training_log({"loss": [2.0]}).note


def test_frames_mappings_and_nothing():
    columns = {"train_loss": [2.0, 1.0]}
    assert read_training_log(columns).metrics == read_training_log(pd.DataFrame(columns, index=[5, 6])).metrics
    assert read_training_log(columns).metrics[2] == {"train_loss": 1.0}
    assert read_training_log(None).metrics == {}


def test_the_last_row_of_an_epoch_counts():
    assert read_training_log({"epoch": [1, 2, 2], "lr": [0.1, 0.2, 0.3]}).metrics[2] == {"learning_rate": 0.3}


@pytest.mark.parametrize(
    "log, said",
    [
        ({"speed": [1]}, "its columns are speed"),
        ({"lr": ["fast"]}, "no numbers"),
        ({"lr": [1], "epoch": [1.5]}, "whole numbers"),
        ({"train_acc": [870]}, "above 100"),
        ("none.csv", "does not exist"),
    ],
)
def test_other_logs_are_refused(log, said):
    with pytest.raises(UserError, match=said):
        read_training_log(log)
