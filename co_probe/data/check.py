"""Validation of data sets before training."""

import torch
from torch import Tensor

from co_probe.data.dataset import Dataset
from co_probe.errors import UserError

ROUNDING = 1e-6  # tolerance of the bounds of pixels


def check_dataset(data: Dataset, name: str) -> None:
    """Raise an error if images or labels of a data set do not have the format of `Dataset`.

    Args:
        data: The data set as loaded, before studies change its images.
        name: Its name in errors.

    Raises:
        UserError: Channels are last, pixels are outside the bounds, or labels do not start at 0.
    """
    for split, x, y in (("train", data.train_x, data.train_y), ("test", data.test_x, data.test_y)):
        what = f"data set {name}: {split} images"
        _check_shape(x, data, what)
        if x.shape[1:] != data.train_x.shape[1:]:
            raise UserError(f"{what} are {tuple(x.shape[1:])}, and train images are {tuple(data.train_x.shape[1:])}")
        _check_pixels(x, data.bounds, what)
        _check_labels(y, len(x), len(data.classes), f"data set {name}: {split} labels")
    if min(data.std) <= 0:
        raise UserError(f"data set {name}: std must be greater than 0, not {tuple(data.std)}")


def _check_shape(x: Tensor, data: Dataset, what: str) -> None:
    channels = len(data.mean)
    if x.ndim != 4 or not len(x):
        raise UserError(f"{what} have shape {tuple(x.shape)}, and (n, channels, height, width) is needed")
    if len(data.std) != channels:
        raise UserError(f"{what}: mean has {channels} values, one per channel, and std has {len(data.std)}")
    if x.shape[1] == channels:
        return
    if x.shape[3] == channels:
        raise UserError(f"{what} have shape {tuple(x.shape)}, with channels last: pass x.permute(0, 3, 1, 2)")
    if channels > 1:
        raise UserError(f"{what} have {x.shape[1]} channels, and mean and std have {channels} values")


def _check_pixels(x: Tensor, bounds: tuple[float, float], what: str) -> None:
    if x.dtype == torch.uint8:
        return
    if not x.dtype.is_floating_point:
        raise UserError(f"{what} are {str(x.dtype).removeprefix('torch.')}: pass uint8, or floats within the bounds")
    low, high = x.amin().item(), x.amax().item()
    if low >= bounds[0] - ROUNDING and high <= bounds[1] + ROUNDING:
        return  # comparisons with NaN fail
    seen = f"{what} are floats from {low:.4g} to {high:.4g}, and the bounds are {bounds[0]:g} to {bounds[1]:g}"
    if bounds != (0.0, 1.0):
        raise UserError(f"{seen}: pass images within them")
    if low >= 0 and 1 < high <= 255:
        raise UserError(f"{seen}: pass uint8, or divide by 255")
    raise UserError(f"{seen}: pass images in [0, 1], and the constants of their normalisation as mean and std")


def _check_labels(y: Tensor, count: int, classes: int, what: str) -> None:
    if y.shape != (count,) or y.dtype != torch.int64:
        kind = str(y.dtype).removeprefix("torch.")
        raise UserError(f"{what} are {kind} of shape {tuple(y.shape)}, and int64 of shape ({count},) is needed")
    low, high = int(y.min()), int(y.max())
    if low < 0 or high >= classes:
        raise UserError(f"{what} are from {low} to {high}, and the {classes} classes count from 0 to {classes - 1}")
