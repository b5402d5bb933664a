"""The orthonormal two-dimensional discrete cosine transform (type II), as products with small matrices."""

import math

import torch
from torch import Tensor


def dct_matrix(size: int) -> Tensor:
    """Return the matrix D of the transform x ↦ D x, float64 (size, size); Dᵀ is its inverse."""
    place = torch.arange(size, dtype=torch.float64)
    waves = torch.cos(math.pi / size * (place + 0.5) * place[:, None]) * math.sqrt(2 / size)
    waves[0] /= math.sqrt(2)
    return waves


def dct2(x: Tensor) -> Tensor:
    """Transform images (..., height, width) to coefficients of the same shape; index 0 of an axis is the constant."""
    rows, columns = (dct_matrix(size).to(x) for size in x.shape[-2:])
    return rows @ x @ columns.T


def idct2(coefficients: Tensor) -> Tensor:
    """Invert `dct2`."""
    rows, columns = (dct_matrix(size).to(coefficients) for size in coefficients.shape[-2:])
    return rows.T @ coefficients @ columns


def zigzag(height: int, width: int) -> list[tuple[int, int]]:
    """List all frequencies (row, column) in JPEG's order: (0, 0), (0, 1), (1, 0), (2, 0), (1, 1), (0, 2), ..."""
    frequencies = [(row, column) for row in range(height) for column in range(width)]
    return sorted(frequencies, key=lambda at: (sum(at), at[0] if sum(at) % 2 else at[1]))
