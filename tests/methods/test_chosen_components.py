"""Methods that choose the components or the norm of their step: ZeroGrad, MultiGrad and lp-FGSM, image by image."""

import math

import pytest
import torch
from formulas import (
    EPSILON,
    SIZE,
    assert_gradients,
    gradient_of,
    images,
    into_image,
    make,
    make_batch,
    seeded,
    sign_of,
    slow_cross_entropy,
    small_model,
    uniform,
    weight_gradients,
)
from torch import nn

from co_probe.errors import UserError
from co_probe.methods import METHODS


def slow_zero_grad(model, x, y, rng, quantile=0.35, relative_step=2.0):
    deltas = []
    for image, label, noise in zip(x, y, uniform(x, EPSILON, rng), strict=True):
        start = into_image(image, noise)
        gradient = gradient_of(model, image + start, label)
        place = quantile * (gradient.numel() - 1)
        ordered = sorted(gradient.abs().flatten().tolist())
        low = math.floor(place)
        least = ordered[low] + (place - low) * (ordered[min(low + 1, len(ordered) - 1)] - ordered[low])
        sign = torch.zeros(SIZE, dtype=x.dtype)
        for row in range(SIZE[1]):
            for column in range(SIZE[2]):
                if gradient[0, row, column].abs() >= least:
                    sign[0, row, column] = gradient[0, row, column].sign()
        deltas.append(into_image(image, torch.clip(start + relative_step * EPSILON * sign, -EPSILON, EPSILON)))
    return deltas


def slow_multi_grad(model, x, y, rng, samples=3, relative_step=2.0):
    noises = [uniform(x, EPSILON, rng) for _ in range(samples)]
    deltas = []
    for number, (image, label) in enumerate(zip(x, y, strict=True)):
        signs = [sign_of(model, image + into_image(image, noise[number]), label) for noise in noises]
        agreed = signs[0]
        for sign in signs[1:]:
            agreed = torch.where(sign == agreed, agreed, 0)
        deltas.append(into_image(image, torch.clip(relative_step * EPSILON * agreed, -EPSILON, EPSILON)))
    return deltas


def slow_lp_fgsm(model, x, y, rng, beta=0.01):
    deltas = []
    for image, label in zip(x, y, strict=True):
        gradient = gradient_of(model, image, label)
        shares = [abs(value) / gradient.abs().sum().item() for value in gradient.flatten().tolist()]
        entropy = -sum(share * math.log(share) for share in shares)
        mean = -sum(math.log(share) for share in shares) / len(shares)
        q = min(max(1 + beta / (mean - entropy), 1.00098), 2)
        length = sum(abs(value) ** q for value in gradient.flatten().tolist()) ** (1 / q)
        delta = EPSILON * torch.sign(gradient) * (gradient.abs() / length) ** (q - 1)
        deltas.append(into_image(image, delta))
    return deltas


FORMULAS = [
    ("zero-grad", {}, slow_zero_grad),
    ("zero-grad", {"quantile": 0.8, "relative_step": 0.7}, slow_zero_grad),
    ("multi-grad", {}, slow_multi_grad),
    ("multi-grad", {"samples": 2, "relative_step": 0.5}, slow_multi_grad),
    ("lp-fgsm", {}, slow_lp_fgsm),
    ("lp-fgsm", {"beta": 0.3}, slow_lp_fgsm),
]


@pytest.mark.parametrize(("name", "settings", "slow"), FORMULAS)
def test_perturbation_and_weight_gradient_are_the_formula(name, settings, slow):
    model, (x, y) = small_model(), images()
    expected = slow(model, x, y, seeded(), **settings)
    delta = METHODS.make(name, **settings).perturb(model, x, y, epsilon=EPSILON, rng=seeded())
    torch.testing.assert_close(delta, torch.stack(expected), rtol=0, atol=1e-12)
    result = make(name, model, **settings).step(model, make_batch(x, y, seeded()))
    loss = slow_cross_entropy(model, x, y, expected)
    assert_gradients(model, weight_gradients(model, loss))
    assert result.loss.item() == pytest.approx(loss.item(), rel=1e-9)


def test_multi_grad_leaves_out_components_and_takes_others():
    model, (x, y) = small_model(), images()
    x = 0.4 + 0.2 * x  # where nothing is clipped
    delta = METHODS.make("multi-grad").perturb(model, x, y, epsilon=EPSILON, rng=seeded())
    steps = sorted({round(step, 9) for step in delta.flatten().tolist()})
    assert steps == [-EPSILON, 0, EPSILON]


def test_lp_fgsm_is_a_step_of_length_epsilon_in_its_own_norm_and_meets_l2_and_linf():
    model, (x, y) = small_model(), images()
    x = 0.4 + 0.2 * x
    flat = {}
    for beta in (1e-9, 1e9):
        delta = METHODS.make("lp-fgsm", beta=beta).perturb(model, x, y, epsilon=EPSILON)
        flat[beta] = delta.flatten(1)
    lengths = flat[1e9].norm(dim=1)
    torch.testing.assert_close(lengths, torch.full_like(lengths, EPSILON))  # q = 2: of L2
    lengths = (flat[1e-9] / EPSILON).norm(p=1.00098 / 0.00098, dim=1)
    torch.testing.assert_close(lengths, torch.ones_like(lengths))  # the greatest p
    assert (flat[1e-9].abs() > 0.97 * EPSILON).double().mean() > 0.9


def test_lp_fgsm_does_not_perturb_an_image_without_gradient():
    model = nn.Sequential(nn.Flatten(), nn.Linear(36, 3)).double()
    nn.init.zeros_(model[1].weight)
    x, y = images()
    assert not METHODS.make("lp-fgsm").perturb(model, x, y, epsilon=EPSILON).any()


@pytest.mark.parametrize(
    ("name", "settings", "complaint"),
    [
        ("zero-grad", {"quantile": 1.0}, "quantile"),
        ("zero-grad", {"relative_step": 0}, "relative_step"),
        ("multi-grad", {"samples": 0}, "samples"),
        ("lp-fgsm", {"beta": 0}, "beta"),
    ],
)
def test_settings_out_of_range_are_named(name, settings, complaint):
    with pytest.raises(UserError, match=complaint):
        METHODS.make(name, **settings)
