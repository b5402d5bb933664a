"""Handwritten digits of scikit-learn, without a download."""

import numpy as np
import torch
import torch.nn.functional as F

from co_probe.data.dataset import Dataset
from co_probe.numerics.memory import require_memory


def digits(*, size: int = 16) -> Dataset:
    """Load 1,797 scans of digits: 1,297 training and 500 test images, by a fixed permutation.

    Images are (n, 1, size, size) float32 in [0, 1], without normalisation.

    Args:
        size: Side of the images, which are resized bilinearly from 8×8.

    Raises:
        ValueError: `size` is below 8.

    Reference:
        scikit-learn's `load_digits` (UCI Optical Recognition of Handwritten Digits, test part; grey levels 0 to 16).
    """
    from sklearn.datasets import load_digits

    if size < 8:
        raise ValueError(f"size must be at least 8, not {size}")
    require_memory(2 * 4 * 1797 * size**2, f"data set digits at size {size}", "choose a smaller data.size")
    bunch = load_digits()
    x = torch.from_numpy(bunch.images).float().div_(16)[:, None]
    x = F.interpolate(x, size=(size, size), mode="bilinear", align_corners=False)
    y = torch.from_numpy(bunch.target).long()
    # The stream of RandomState is frozen, so the split is the same in every version of numpy.
    order = torch.from_numpy(np.random.RandomState(0).permutation(len(y)))
    test, train = order[:500], order[500:]
    classes = tuple(str(name) for name in bunch.target_names)
    return Dataset(x[train], y[train], x[test], y[test], classes, mean=(0.0,), std=(1.0,))
