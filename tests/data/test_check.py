"""Images that are not what a data set says they are never reach training."""

from dataclasses import replace

import pytest
import torch
from conftest import tiny_config

from co_probe.config.settings import Component
from co_probe.data import DATA
from co_probe.data.check import check_dataset
from co_probe.data.dataset import Dataset
from co_probe.errors import UserError
from co_probe.training.loop import epochs

MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.3, 0.25)


def colours(count: int = 12) -> Dataset:
    """Random colour images as floats in [0, 1]."""
    rng = torch.Generator().manual_seed(0)
    x, y = torch.rand(2 * count, 3, 6, 6, generator=rng), torch.arange(2 * count) % 4
    return Dataset(x[:count], y[:count], x[count:], y[count:], tuple("abcd"), MEAN, STD)


def normalised(x: torch.Tensor) -> torch.Tensor:
    return (x - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)


WRONG = {
    "0 to 255": (lambda d: replace(d, train_x=255 * d.train_x), r"train .* from .* to 25\d.*bounds are 0 to 1.*by 255"),
    "test alone": (lambda d: replace(d, test_x=255 * d.test_x), "test images are floats from"),
    "normalised": (
        lambda d: replace(d, train_x=normalised(d.train_x)),
        r"from -.* to .*the constants of their normalisation",
    ),
    "channels last": (
        lambda d: replace(d, train_x=d.train_x.permute(0, 2, 3, 1), test_x=d.test_x.permute(0, 2, 3, 1)),
        r"shape \(12, 6, 6, 3\), with channels last: pass x\.permute\(0, 3, 1, 2\)",
    ),
    "no channels": (lambda d: replace(d, train_x=d.train_x[:, 0]), r"shape \(12, 6, 6\), and \(n, channels"),
    "two channels": (lambda d: replace(d, train_x=d.train_x[:, :2]), "have 2 channels, and mean and std have 3"),
    "other size": (lambda d: replace(d, test_x=d.test_x[..., :5]), r"test images are \(3, 6, 5\), and train"),
    "not a number": (lambda d: replace(d, train_x=d.train_x * torch.nan), "floats from nan to nan"),
    "beyond own bounds": (lambda d: replace(d, bounds=(0.2, 0.8)), "bounds are 0.2 to 0.8: pass images within"),
    "whole numbers": (lambda d: replace(d, train_x=(255 * d.train_x).long()), "are int64: pass uint8"),
    "labels from 1": (lambda d: replace(d, train_y=d.train_y + 1), "from 1 to 4, and the 4 classes count from 0 to 3"),
    "labels as floats": (lambda d: replace(d, train_y=d.train_y.float()), r"labels are float32 of shape \(12,\)"),
    "std of 0": (lambda d: replace(d, std=(0.0, 1.0, 1.0)), "std must be greater than 0"),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_errors_are_reported_in_one_line(wrong):
    spoil, words = WRONG[wrong]
    with pytest.raises(UserError, match=words) as caught:
        check_dataset(spoil(colours()), "mine")
    assert "\n" not in str(caught.value) and "data set mine" in str(caught.value)


@pytest.mark.parametrize(
    "fine",
    [
        colours(),
        replace(colours(), train_x=(255 * colours().train_x).byte(), test_x=(255 * colours().test_x).byte()),
        replace(colours(), train_x=normalised(colours().train_x), bounds=(-torch.inf, torch.inf)),
    ],
)
def test_valid_data_is_accepted(fine):
    check_dataset(fine, "mine")


def test_invalid_data_is_refused_before_anything_is_written(tmp_path, monkeypatch):
    monkeypatch.setattr(DATA, "make", lambda name, **settings: replace(colours(), train_x=255 * colours().train_x))
    with pytest.raises(UserError, match="divide by 255"):
        next(epochs(replace(tiny_config("fgsm"), data=Component("mine")), tmp_path / "run", device="cpu"))
    assert not (tmp_path / "run").exists()
