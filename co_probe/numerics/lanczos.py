"""Largest eigenvalues of a batch of symmetric matrices, from matrix-vector products."""

from collections.abc import Callable

import torch
from torch import Tensor

TINY = 1e-6  # a remainder below this share of the largest value so far is rounding error


def largest_eigenvalues(
    product: Callable[[Tensor], Tensor], start: Tensor, top: int, *, steps: int = 60, tolerance: float = 1e-2
) -> Tensor:
    """Compute the `top` largest eigenvalues of each of n symmetric matrices by Lanczos iteration.

    Iteration ends when every residual is below `tolerance` times the matrix's largest eigenvalue in magnitude (the
    error of an eigenvalue is quadratic in it), after `steps`, or when all dimensions are used, where the result is
    exact. If the Krylov space is exhausted early (the Hessian of a ReLU network has a rank below the number of
    classes), iteration continues in a new random direction. Multiple eigenvalues may be found fewer times than they
    occur.

    Args:
        product: Function from vectors (n, size), one per matrix, to the products of the matrices with them.
        start: Random vectors, (n, size).
        top: Number of eigenvalues, from 1 to `size`.
        steps: Greatest number of products.
        tolerance: Bound of the residuals, relative to the largest eigenvalue in magnitude.

    Returns:
        Eigenvalues in descending order, float64 (n, top).

    Raises:
        ValueError: `top` is not between 1 and `size`.

    Reference:
        Golub and Van Loan, "Matrix Computations", section 10.3.5: Lanczos with full reorthogonalisation.
    """
    count, size = start.shape
    if not 1 <= top <= size:
        raise ValueError(f"top must be between 1 and {size}, the size of an image, not {top}")
    rng = torch.Generator(start.device).manual_seed(0)
    basis = torch.zeros(count, 0, size, dtype=torch.float64, device=start.device)
    tridiagonal = torch.zeros(count, 0, 0, dtype=torch.float64, device=start.device)
    vector = start.double() / start.double().norm(dim=1, keepdim=True)
    link = torch.zeros(count, dtype=torch.float64, device=start.device)
    while True:
        done = basis.shape[1]
        basis = torch.cat([basis, vector[:, None]], 1)
        grown = torch.nn.functional.pad(tridiagonal, (0, 1, 0, 1))
        if done:
            grown[:, done, done - 1] = grown[:, done - 1, done] = link
        image = product(vector.to(start.dtype)).double()
        grown[:, done, done] = (image * vector).sum(1)
        tridiagonal = grown
        image = _orthogonal(image, basis)
        link = image.norm(dim=1)
        values, vectors = torch.linalg.eigh(tridiagonal)
        scale = values.abs().amax(1)
        exhausted = link <= TINY * scale
        link = torch.where(exhausted, 0, link)
        if done + 1 == size or done + 1 >= max(steps, top):
            break
        # The residual bounds the distance from an eigenvalue (Golub and Van Loan, section 10.1.3).
        residual = link[:, None] * vectors[:, -1].abs()
        if done >= top and bool((residual[:, -top:] <= tolerance * scale[:, None]).all()):
            break
        fresh = torch.randn(count, size, generator=rng, dtype=torch.float64, device=start.device)
        vector = torch.where(exhausted[:, None], _orthogonal(fresh, basis), image)
        vector = vector / vector.norm(dim=1, keepdim=True)
    return values[:, -top:].flip(1)


def _orthogonal(vectors: Tensor, basis: Tensor) -> Tensor:
    """Orthogonalise `vectors` (n, size) against `basis` (n, k, size), twice to reduce rounding errors."""
    for _ in range(2):
        vectors = vectors - (basis.transpose(1, 2) @ (basis @ vectors[:, :, None]))[:, :, 0]
    return vectors
