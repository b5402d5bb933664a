"""Data of the theory of robust memorisation: a signal in one patch, noise in the others."""

import math

import numpy as np
import torch

from co_probe.data.dataset import Dataset


def patches(
    *,
    train: int = 40,
    test: int = 1000,
    dimension: int = 200,
    patches: int = 4,
    alpha: float = 10.0,
    sigma: float = 0.1,
    seed: int = 0,
) -> Dataset:
    """Draw images of patches in ℝ^d: a random patch is the signal α·y·w*, the others are noise orthogonal to w*.

    The noise is N(0, σ²(I − w*w*ᵀ)); y = ±1 (classes 1 and 0) with equal probability; w* is a random direction. Images
    are (n, d, P, 1) float64, with one patch per pixel, and have no bounds.

    Args:
        train: Number of training images.
        test: Number of test images.
        dimension: d, at least 2.
        patches: P, at least 1.
        alpha: α, greater than 0.
        sigma: σ, at least 0.
        seed: Seed of the data. The same seed and sizes give the same data, whatever the seed of the run.

    Raises:
        ValueError: If a value is out of range.

    Reference:
        arXiv 2306.01271, the structured data of its training dynamics.
    """
    if min(train, test, patches) < 1 or dimension < 2 or seed < 0:
        raise ValueError("train, test and patches must be at least 1, dimension 2, and seed not negative")
    if not (0 < alpha < math.inf and 0 <= sigma < math.inf):
        raise ValueError(f"alpha must be greater than 0 and sigma not negative, not {alpha:g} and {sigma:g}")
    rng = np.random.RandomState(seed)  # its stream is frozen for good, so the data are the same under every numpy
    signal = rng.standard_normal(dimension)
    signal /= np.linalg.norm(signal)
    count = train + test
    y = rng.randint(2, size=count)
    place = rng.randint(patches, size=count)
    x = sigma * rng.standard_normal((count, patches, dimension))
    x -= (x @ signal)[..., None] * signal
    x[np.arange(count), place] = alpha * (2 * y - 1)[:, None] * signal
    images, labels = torch.from_numpy(x).permute(0, 2, 1)[..., None], torch.from_numpy(y).long()
    return Dataset(
        images[:train],
        labels[:train],
        images[train:],
        labels[train:],
        classes=("−1", "+1"),
        mean=(0.0,) * dimension,
        std=(1.0,) * dimension,
        bounds=(-math.inf, math.inf),
    )
