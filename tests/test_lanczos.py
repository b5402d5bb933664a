"""Largest eigenvalues from products alone, against dense decompositions."""

import pytest
import torch
from torch import nn

from co_probe.indicators.curvature import curvature
from co_probe.numerics.lanczos import largest_eigenvalues


def symmetric(kind: str) -> torch.Tensor:
    rng = torch.Generator().manual_seed(0)
    if kind == "full":
        a = torch.randn(4, 30, 30, generator=rng, dtype=torch.float64)
        return a + a.mT
    if kind == "low rank":
        a = torch.randn(4, 40, 5, generator=rng, dtype=torch.float64)
        return a @ a.mT
    diagonals = {"repeated": [[2.0, 2, 2, 1, 1]], "zero": [[0.0] * 5], "negative": [[-1.0, -2, -3, -4, -5]]}
    return torch.diag_embed(torch.tensor(diagonals[kind], dtype=torch.float64))


@pytest.mark.parametrize(
    ("kind", "top"),
    [(kind, top) for kind in ("full", "low rank", "zero", "negative") for top in (1, 3)] + [("repeated", 2)],
)
def test_values_are_those_of_a_dense_decomposition(kind, top):
    matrices = symmetric(kind)
    start = torch.randn(matrices.shape[:2], generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    found = largest_eigenvalues(lambda v: (matrices @ v[:, :, None])[:, :, 0], start, top)
    expected = torch.linalg.eigvalsh(matrices)
    torch.testing.assert_close(found, expected[:, -top:].flip(1), atol=1e-3 * float(expected.abs().max()), rtol=0)


def test_a_low_rank_costs_few_products():
    calls, matrices = [], symmetric("low rank")
    start = torch.randn(4, 40, dtype=torch.float64)
    largest_eigenvalues(lambda v: calls.append(1) or (matrices @ v[:, :, None])[:, :, 0], start, 1)
    assert len(calls) <= 6  # the rank, and one


def test_too_many_values_are_refused():
    with pytest.raises(ValueError, match="between 1 and 5"):
        largest_eigenvalues(lambda v: v, torch.randn(2, 5), 6)


@pytest.mark.parametrize("activation", [nn.ReLU, nn.Softplus])
def test_curvature_is_that_of_autograds_hessian(activation):
    torch.manual_seed(0)
    layers = [nn.Conv2d(2, 6, 3), activation(), nn.BatchNorm2d(6), nn.Flatten(), nn.Linear(6 * 9, 4)]
    model = nn.Sequential(*layers).double().train()
    x, y = torch.rand(5, 2, 5, 5, dtype=torch.float64), torch.tensor([0, 1, 2, 3, 0])
    found = curvature(model, x, y, top=4)
    assert model.training and all(p.grad is None for p in model.parameters())
    model.eval()
    for image, label, values in zip(x, y, found, strict=True):
        hessian = torch.autograd.functional.hessian(
            lambda z, label=label: nn.functional.cross_entropy(model(z[None]), label[None]), image
        )
        exact = torch.linalg.eigvalsh(hessian.reshape(50, 50))[-4:].flip(0)
        torch.testing.assert_close(values, exact, atol=1e-3 * float(exact[0]), rtol=0)


def test_a_linear_model_is_as_curved_as_its_softmax_is():
    weights = torch.randn(3, 8, dtype=torch.float64)
    model = nn.Sequential(nn.Flatten(), nn.Linear(8, 3).double())
    with torch.no_grad():
        model[1].weight.copy_(weights)
    x, y = torch.rand(6, 1, 2, 4, dtype=torch.float64), torch.zeros(6, dtype=torch.long)
    p = model(x).softmax(1).detach()
    hessians = weights.T @ (torch.diag_embed(p) - p[:, :, None] * p[:, None]) @ weights
    found = curvature(model, x, y, top=2)
    torch.testing.assert_close(found, torch.linalg.eigvalsh(hessians)[:, -2:].flip(1), rtol=2e-3, atol=1e-9)
