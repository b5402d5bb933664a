"""Indicators of one training step against literal loops, at known values and at the edge of float32."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from co_probe.indicators.abnormal import abnormal_examples, logit_change, loss_gain
from co_probe.indicators.linearity import linearity_ratio
from co_probe.indicators.participation import entropy_gap, participation_ratio
from co_probe.indicators.pert_alignment import pert_alignment, sign_agreement
from co_probe.indicators.zero_gradients import masked_share


def gradients(seed: int, images: int = 5, shape=(2, 3, 4)) -> tuple[torch.Tensor, torch.Tensor]:
    rng = torch.Generator().manual_seed(seed)
    return torch.randn(images, *shape, generator=rng), torch.randn(images, *shape, generator=rng)


def rows(gradient: torch.Tensor) -> list[np.ndarray]:
    return list(gradient.double().flatten(1).numpy())


@given(st.integers(0, 10**6))
@settings(max_examples=20, deadline=None)
def test_values_equal_literal_loops(seed):
    g, h = gradients(seed)
    cosines, agreements, ratios, shares, gaps = [], [], [], [], []
    for a, b in zip(rows(g), rows(h), strict=True):
        cosines.append(sum(a * b) / math.sqrt(sum(a * a) * sum(b * b)))
        agreements.append(sum(np.sign(a) == np.sign(b)) / len(a))
        ratios.append(sum(np.sign(a) * b) / sum(abs(a)))
        shares.append((sum(abs(a)) / math.sqrt(sum(a * a))) ** 2 / len(a))
        rho = abs(a) / sum(abs(a))
        gaps.append(-sum(np.log(rho)) / len(a) + sum(rho * np.log(rho)))
    assert pert_alignment(g, h).item() == pytest.approx(np.mean(cosines), abs=1e-5)
    assert sign_agreement(g, h).item() == pytest.approx(np.mean(agreements), abs=1e-6)
    assert linearity_ratio(g, h).item() == pytest.approx(np.clip(np.mean(ratios), -1, 1), abs=1e-5)
    assert participation_ratio(g).item() == pytest.approx(np.mean(shares), rel=1e-5)
    assert entropy_gap(g).item() == pytest.approx(np.mean(gaps), rel=1e-4)


def test_a_linear_loss_and_one_that_turned():
    g, _ = gradients(0)
    assert pert_alignment(g, g).item() == pytest.approx(1)
    assert linearity_ratio(g, g).item() == pytest.approx(1)
    assert linearity_ratio(g, -3 * g).item() == -1
    assert sign_agreement(g, -g).item() == 0


def test_concentrated_and_uniform_gradients():
    uniform, single = torch.ones(2, 1, 4, 4), torch.zeros(2, 1, 4, 4)
    single[:, 0, 1, 2] = -5
    assert participation_ratio(uniform).item() == pytest.approx(1)
    assert participation_ratio(single).item() == pytest.approx(1 / 16)
    assert entropy_gap(uniform).item() == pytest.approx(0, abs=1e-6)
    assert entropy_gap(single).item() > 10


@pytest.mark.parametrize("scale", [1e-30, 1e-3, 1e30])
def test_the_scale_of_each_image_does_not_matter(scale):
    g, h = gradients(1)
    for indicator in (participation_ratio, entropy_gap):
        assert indicator(g * scale).item() == pytest.approx(indicator(g).item(), rel=1e-4)
    for indicator in (pert_alignment, sign_agreement):
        assert indicator(g * scale, h).item() == pytest.approx(indicator(g, h).item(), abs=1e-5)
    assert linearity_ratio(g * scale, h * scale).item() == pytest.approx(linearity_ratio(g, h).item(), abs=1e-5)


def test_half_precision_is_computed_in_float32():
    g, h = gradients(2)
    assert pert_alignment(g.half(), h.half()).dtype == torch.float32
    assert pert_alignment(g.half(), h.half()).item() == pytest.approx(pert_alignment(g, h).item(), abs=1e-3)


def test_images_without_a_gradient_are_left_out_and_reported():
    g, h = gradients(3, images=4)
    g[0], h[1] = 0, 0
    assert masked_share(g, h).item() == 0.5 and masked_share(g).item() == 0.25
    assert pert_alignment(g, h).item() == pytest.approx(pert_alignment(g[2:], h[2:]).item())
    assert linearity_ratio(g, h).item() == pytest.approx(linearity_ratio(g[1:], h[1:]).item())
    assert participation_ratio(g).item() == pytest.approx(participation_ratio(g[1:]).item())
    assert math.isnan(pert_alignment(g * 0, h).item()) and masked_share(g * 0, h).item() == 1


def test_abnormal_examples_are_those_whose_loss_fell():
    losses = torch.tensor([1.0, 2.0, 3.0, 4.0]), torch.tensor([2.0, 1.0, 3.0, 5.0])
    logits = torch.zeros(4, 2), torch.tensor([[1.0, 0.0], [3.0, 4.0], [0.0, 0.0], [2.0, 0.0]])
    found = abnormal_examples(losses, logits)
    assert found.share.item() == 0.25  # an equal loss is normal
    assert found.logit_change.item() == 25
    assert found.normal_logit_change.item() == pytest.approx((1 + 0 + 4) / 3)
    assert loss_gain(losses).item() == pytest.approx(0.25)
    assert logit_change(logits).item() == pytest.approx(30 / 8)
    assert math.isnan(abnormal_examples(losses).logit_change.item())
    assert math.isnan(abnormal_examples((losses[0], losses[0] + 1), logits).logit_change.item())


def test_alignment_of_a_quadratic_loss_falls_as_its_bound_says():
    """1 − cos ≈ (α²/2)·‖part of Hv/‖g‖ orthogonal to g‖² for a step αv."""
    rng = torch.Generator().manual_seed(0)
    hessian = torch.randn(6, 6, generator=rng, dtype=torch.float64)
    hessian = hessian + hessian.T
    x = torch.randn(3, 6, generator=rng, dtype=torch.float64)
    step = 1e-3 * (x @ hessian).sign()
    before, after = x @ hessian, (x + step) @ hessian
    turned = step @ hessian / before.norm(dim=1, keepdim=True)
    unit = before / before.norm(dim=1, keepdim=True)
    orthogonal = turned - (turned * unit).sum(1, keepdim=True) * unit
    expected = (orthogonal.square().sum(1) / 2).mean().item()
    assert 1 - pert_alignment(before, after).item() == pytest.approx(expected, rel=0.1, abs=2e-7)
