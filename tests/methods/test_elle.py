"""ELLE's penalty image by image, and the switch of ELLE-A against lists of numbers."""

import numpy as np
import pytest
import torch
from formulas import (
    EPSILON,
    SLOW,
    assert_gradients,
    images,
    loss_of,
    make,
    make_batch,
    normed_model,
    seeded,
    slow_cross_entropy,
    small_model,
    uniform,
    weight_gradients,
)

from co_probe.errors import UserError
from co_probe.methods import METHODS


def slow_error(model, x, y, rng):
    first, second = (x + part for part in uniform(torch.stack([x, x]), EPSILON, rng))
    shares = torch.rand(len(x), generator=rng, dtype=x.dtype)
    total = 0
    for a, b, label, share in zip(first, second, y, shares, strict=True):
        between = loss_of(model, (1 - share) * a + share * b, label)
        total = total + (between - (1 - share) * loss_of(model, a, label) - share * loss_of(model, b, label)) ** 2
    return total / len(x)


@pytest.mark.parametrize("base", ["fgsm", "n-fgsm"])
def test_elle_descends_loss_and_linearity_error(base):
    model, (x, y), rng = small_model(), images(), seeded()
    result = make("elle", model, base=base, penalty=1e5).step(model, make_batch(x, y, seeded()))
    penalty = 1e5 * slow_error(model, x, y, rng)
    loss = slow_cross_entropy(model, x, y, SLOW[base](model, x, y, rng)) + penalty
    assert_gradients(model, weight_gradients(model, loss))
    assert result.loss.item() == pytest.approx(loss.item(), rel=1e-9)
    assert penalty.item() > 0.01


def test_elle_without_a_penalty_is_its_base():
    model, (x, y) = small_model(), images()
    make("elle", model, penalty=0.0).step(model, make_batch(x, y, seeded()))
    deltas = SLOW["fgsm"](model, x, y, None)
    assert_gradients(model, weight_gradients(model, slow_cross_entropy(model, x, y, deltas)))


def test_elle_passes_its_three_points_as_one_batch():
    """BatchNorm then sees statistics of 3B images, as in the authors' code."""
    model, (x, y), sizes = normed_model().train(), images(), []
    model.register_forward_pre_hook(lambda module, inputs: sizes.append(len(inputs[0])))
    make("elle", model).step(model, make_batch(x.float(), y, seeded()))
    assert sizes == [3 * len(x), len(x), len(x)]


def test_elle_a_switches_by_its_rule(monkeypatch):
    """Errors of all kinds, given by hand: the penalty of each step, and the history that it is decided on."""
    errors = [0.1, 0.12, 0.11, 0.5, 0.1, 0.9, 0.13, *np.linspace(0.1, 0.3, 10), 5.0, 0.2]
    given = iter(errors)
    model, (x, y) = small_model(), images(4)
    weight = next(model.parameters())
    monkeypatch.setattr("co_probe.methods.elle.linearity_error", lambda model, batch: (0 * weight).sum() + next(given))
    method = make("elle-a", model, penalty=7.0, decay=0.9)
    current, history, seen = 0.0, [], []
    for error in errors:
        assert method.parameters()["elle"]["penalty"] == pytest.approx(current, rel=1e-6)
        model.zero_grad()
        result = method.step(model, make_batch(x, y, seeded()))
        base = slow_cross_entropy(model, x, y, SLOW["fgsm"](model, x, y, None))
        assert result.loss.item() == pytest.approx(base.item() + current * error, rel=1e-6)
        method.update()
        fired = len(history) > 2 and error > np.mean(history) + 2 * np.std(history)
        current = 7.0 if fired else 0.9 * current
        history.append(error)
        seen.append(fired)
    assert sum(seen) == 3 and not any(seen[:3])


def test_elle_a_with_a_sensitivity_of_zero_is_on_from_its_first_rise():
    model, (x, y) = small_model(), images()
    method = make("elle-a", model, sensitivity=0.0, penalty=3.0)
    weights = []
    for number in range(6):
        model.zero_grad()
        method.step(model, make_batch(x, y, seeded(number)))
        method.update()
        weights.append(method.parameters()["elle"]["penalty"])
    assert weights[:3] == [0, 0, 0] and max(weights) == 3


@pytest.mark.parametrize(
    ("name", "settings", "complaint"),
    [
        ("elle", {"base": "pgd"}, "base"),
        ("elle", {"penalty": -1.0}, "penalty"),
        ("elle-a", {"sensitivity": -1.0}, "sensitivity"),
        ("elle-a", {"decay": -1.0}, "decay"),
    ],
)
def test_settings_out_of_range_are_named(name, settings, complaint):
    with pytest.raises(UserError, match=complaint):
        METHODS.make(name, **settings)
