"""SORA: its step, the ratio that it measures, and the step length that follows from it, image by image."""

import pytest
import torch
from formulas import (
    EPSILON,
    assert_gradients,
    gradient_of,
    images,
    into_image,
    make,
    make_batch,
    seeded,
    slow_cross_entropy,
    small_model,
    uniform,
    weight_gradients,
)

from co_probe.errors import UserError
from co_probe.methods import METHODS


def slow_sora(model, x, y, rng, length):
    """δ, the mean ratio r, both of single images one after the other."""
    noises, shares = uniform(x, EPSILON, rng), torch.empty_like(x).uniform_(generator=rng)
    deltas, ratios = [], []
    for image, label, noise, share in zip(x, y, noises, shares, strict=True):
        start = into_image(image, noise)
        gradient = gradient_of(model, image + start, label)
        delta = into_image(image, start + length * share * torch.sign(gradient))
        after = gradient_of(model, image + delta, label)
        ratios.append((torch.sign(gradient) * after).sum() / gradient.abs().sum())
        deltas.append(delta)
    return deltas, min(1, max(-1, sum(ratios).item() / len(x)))


def test_six_steps_are_the_algorithm():
    model, slow, (x, y) = small_model(), small_model(), images()
    settings = {"initial_linearity": 0.3, "rate": 0.4, "slack": 0.15}
    method, linearity, lengths = make("sora", model, **settings), 0.3, set()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    for number in range(6):
        length = 2 * EPSILON * min(1, 0.15 / (1 - linearity))
        lengths.add(round(length, 6))
        deltas, ratio = slow_sora(slow, x, y, seeded(number), length)
        linearity = 0.6 * linearity + 0.4 * ratio
        expected = weight_gradients(slow, slow_cross_entropy(slow, x, y, deltas))

        optimizer.zero_grad()
        method.step(model, make_batch(x, y, seeded(number)))
        assert_gradients(model, expected, 1e-6)  # the length is computed in float32
        optimizer.step()
        method.update()
        assert method.parameters()["sora"]["linearity"] == pytest.approx(linearity, abs=1e-6)
        with torch.no_grad():
            for parameter, gradient in zip(slow.parameters(), expected, strict=True):
                parameter -= 0.5 * gradient
    assert len(lengths) > 3 and min(lengths) < 2 * EPSILON  # it shrank, and moved


def test_the_step_is_cut_off_at_its_greatest_length_and_leaves_the_ball():
    model, (x, y) = small_model(), images()
    for linearity, longest in ((1.0, 3), (0.99, 3), (0.9, 1 + 2 * 0.2), (-1.0, 1 + 2 * 0.01)):
        method = METHODS.make("sora", initial_linearity=linearity)
        delta = method.perturb(model, x, y, epsilon=EPSILON, rng=seeded()).abs().max()
        assert 0.9 * longest * EPSILON < delta <= longest * EPSILON + 1e-7


def test_the_generator_of_an_epoch_has_its_linearity():
    model, (x, y) = small_model(), images()
    trained = METHODS.make("sora", initial_linearity=0.5)
    other = METHODS.make("sora")
    other.load_parameters(trained.parameters())
    deltas = [method.perturb(model, x, y, epsilon=EPSILON, rng=seeded()) for method in (trained, other)]
    assert torch.equal(*deltas)


def test_without_any_gradient_the_linearity_stays():
    model, (x, y) = small_model(), images()
    with torch.no_grad():
        model[-1].weight.zero_()
    method = make("sora", model)
    method.step(model, make_batch(x, y, seeded()))
    method.update()
    assert method.linearity.item() == pytest.approx(0.99)


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"slack": 0}, "slack"),
        ({"rate": 1.5}, "rate"),
        ({"relative_step": 0}, "relative_step"),
        ({"initial_linearity": 2}, "initial_linearity"),
    ],
)
def test_settings_out_of_range_are_named(settings, complaint):
    with pytest.raises(UserError, match=complaint):
        METHODS.make("sora", **settings)
