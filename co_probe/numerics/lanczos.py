"""The largest eigenvalues of many symmetric matrices at once, each known by its products with vectors alone."""

from collections.abc import Callable

import torch
from torch import Tensor

TINY = 1e-6  # relative to the matrix's size as seen so far: what is left of a product is then rounding


def largest_eigenvalues(
    product: Callable[[Tensor], Tensor], start: Tensor, top: int, *, steps: int = 60, tolerance: float = 1e-2
) -> Tensor:
    """The `top` largest eigenvalues of each of n symmetric matrices, in descending order, float64 (n, top).

    `product`: takes (n, size) vectors, one a matrix, and returns what the matrices make of them; `start`: (n, size)
    random vectors. Each step costs a product; they end when the residual of every value wanted is below `tolerance`
    times the matrix's largest value in size (errors of values go with its square), after `steps`, or when all
    dimensions are used up, where the result is exact. Raises ValueError if `top` is not between 1 and `size`.
    Source: Lanczos iteration with full reorthogonalisation (Golub and Van Loan, "Matrix Computations", section 10.3.5).
    Where the Krylov space is exhausted too soon (a ReLU network's Hessian has a rank below the number of classes), it
    goes on in a new random direction. A value that a matrix has several times may come up less often.
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
        # The residual, which bounds how far a value is from an eigenvalue (Golub and Van Loan, section 10.1.3).
        residual = link[:, None] * vectors[:, -1].abs()
        if done >= top and bool((residual[:, -top:] <= tolerance * scale[:, None]).all()):
            break
        fresh = torch.randn(count, size, generator=rng, dtype=torch.float64, device=start.device)
        vector = torch.where(exhausted[:, None], _orthogonal(fresh, basis), image)
        vector = vector / vector.norm(dim=1, keepdim=True)
    return values[:, -top:].flip(1)


def _orthogonal(vectors: Tensor, basis: Tensor) -> Tensor:
    """`vectors` (n, size) less their parts in `basis` (n, k, size); twice, against rounding."""
    for _ in range(2):
        vectors = vectors - (basis.transpose(1, 2) @ (basis @ vectors[:, :, None]))[:, :, 0]
    return vectors
