"""Which column holds which curve, in the words of well-known training scripts."""

import pytest

from co_probe.diagnosis.columns import find_columns
from co_probe.errors import UserError


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        # Rice et al. 2020
        (
            [
                "Epoch",
                "Train Time",
                "LR",
                "Train Loss",
                "Train Acc",
                "Train Robust Loss",
                "Train Robust Acc",
                "Test Loss",
                "Test Acc",
                "Test Robust Loss",
                "Test Robust Acc",
            ],
            {"epoch": "Epoch", "clean": "Test Acc", "pgd": "Test Robust Acc", "train": "Train Robust Acc"},
        ),
        # TensorBoard and Weights & Biases
        (
            ["train/loss", "train/acc", "val/clean_acc", "val/pgd_acc", "val/fgsm_acc", "val/best_pgd_acc"],
            {"clean": "val/clean_acc", "fgsm": "val/fgsm_acc", "pgd": "val/pgd_acc", "train": "train/acc"},
        ),
        # the stronger attack, and the test set, are preferred
        (["pgd10", "pgd50x10", "PGD-20"], {"pgd": "pgd50x10"}),
        (["val_pgd20", "test_pgd10"], {"pgd": "test_pgd10"}),
        (["pgd_ema", "pgd"], {"pgd": "pgd"}),
        # accuracy under PGD before anything called robust, before AutoAttack
        (["AA", "robust_acc", "pgd"], {"pgd": "pgd"}),
        (["AA", "adv_acc"], {"pgd": "adv_acc"}),
        (["nat_acc", "AA"], {"clean": "nat_acc", "pgd": "AA"}),
        # words without a separator
        (["testAcc", "TestRobustAcc", "trainacc"], {"clean": "testAcc", "pgd": "TestRobustAcc", "train": "trainacc"}),
        # Keras
        (["accuracy", "val_accuracy", "pgd"], {"clean": "val_accuracy", "pgd": "pgd", "train": "accuracy"}),
        # co-probe
        (
            ["epoch", "clean", "fgsm", "train_attack", "pgd10", "gap", "train_accuracy", "learning_rate"],
            {"epoch": "epoch", "clean": "clean", "fgsm": "train_attack", "pgd": "pgd10", "train": "train_accuracy"},
        ),
        # other quantities of an attack
        (
            ["pgd", "pgd_std", "pgd_loss", "pgd_err", "pgd_low", "fgsm_grad_norm", "top5_acc", "clean_train_acc"],
            {"pgd": "pgd"},
        ),
    ],
)
def test_usual_names(names, expected):
    assert find_columns(names) == expected


def test_named_columns_come_first_and_are_not_used_twice():
    names = ["pgd10", "pgd20", "a", "val_acc"]
    assert find_columns(names, {"pgd": "pgd10", "fgsm": "A"}) == {"clean": "val_acc", "fgsm": "a", "pgd": "pgd10"}
    assert find_columns(["a", "pgd"], {"clean": "pgd", "pgd": "a"}) == {"clean": "pgd", "pgd": "a"}


def test_a_curve_can_be_left_out():
    assert find_columns(["clean", "pgd", "train"], {"train": None, "clean": ""}) == {"pgd": "pgd"}


@pytest.mark.parametrize(
    ("chosen", "message"),
    [
        ({}, r"x\.csv: no column .* columns 'pgd=NAME' .*are: epoch, clean"),
        ({"pgd": "claen"}, "unknown column of x.csv 'claen': did you mean clean"),
        ({"pdg": "clean"}, "unknown curve 'pdg': did you mean pgd"),
        ({"pgd": None}, "PGD cannot be left out"),
    ],
)
def test_wrong_columns(chosen, message):
    with pytest.raises(UserError, match=message):
        find_columns(["epoch", "clean"], chosen, where="x.csv")
