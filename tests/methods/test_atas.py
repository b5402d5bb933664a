"""ATAS: step sizes and perturbations of single images, through crops, flips and epochs."""

import pytest
import torch
from formulas import (
    COUNT,
    EPSILON,
    ROUNDED,
    SIZE,
    assert_gradients,
    crop,
    gradient_of,
    images,
    into_image,
    make_batch,
    paste,
    seeded,
    slow_cross_entropy,
    small_model,
    weight_gradients,
)

from co_probe.data.augment import random_view
from co_probe.errors import UserError
from co_probe.methods import METHODS
from co_probe.methods.base import TrainingContext


def started(model, count=COUNT, padding=0, epochs=30, **settings):
    method = METHODS.make("atas", **settings)
    context = TrainingContext(count, SIZE, padding, 10, EPSILON, torch.device("cpu"), seeded(7), epochs=epochs)
    method.setup(model, context)
    return method


def slow_atas(model, image, label, start, past, adaptive):
    """δ, v and the step size in units of ε."""
    start = into_image(image, torch.clip(start, -EPSILON, EPSILON))
    gradient = gradient_of(model, image + start, label)
    moment = 0.5 * past + 0.5 * (gradient**2).sum()
    size = min(max(2 / (1 + moment.sqrt() / 1.28), 0.5), 1.75) if adaptive else 1.0
    moved = torch.clip(start + size * EPSILON * torch.sign(gradient), -EPSILON, EPSILON)
    return into_image(image, moved), moment if adaptive else past, float(size)


def test_atas_is_its_algorithm_through_crops_flips_and_epochs():
    model, (x, y) = small_model(), images(9)
    with torch.no_grad():
        model[-1].weight.mul_(3)  # gradients so large and so different that steps meet both limits
    method = started(model, count=9, padding=2, warmup=1)
    assert method.delta.abs().max() <= EPSILON and method.delta.std() > 0.5 * EPSILON
    padded = torch.nn.functional.pad(x, (2,) * 4)
    kept, moments = [delta.double() for delta in method.delta.clone()], torch.zeros(9, dtype=torch.float64)
    rng, sizes = seeded(), []
    for epoch in (1, 2, 3):
        method.start_epoch(epoch, rng)
        for index in torch.randperm(9, generator=rng).split(5):
            view = random_view(index, (6, 6), 2, True, rng)
            model.zero_grad()
            method.step(model, make_batch(view.take(padded), y[index], rng, view))
            seen, deltas = [], []
            for place, number in enumerate(index.tolist()):
                flipped = bool(view.columns[place, 0] > view.columns[place, 1])
                where = int(view.rows[place].min()), int(view.columns[place].min()), flipped
                image = crop(padded[number], *where)
                start = crop(kept[number], *where)
                delta, moments[number], size = slow_atas(model, image, y[number], start, moments[number], epoch > 1)
                paste(kept[number], delta, *where)
                seen.append(image)
                deltas.append(delta)
                sizes.append(round(size, 4))
            loss = slow_cross_entropy(model, seen, y[index], deltas)
            assert_gradients(model, weight_gradients(model, loss), ROUNDED)
            torch.testing.assert_close(method.delta.double(), torch.stack(kept), rtol=0, atol=1e-6)
            torch.testing.assert_close(method.moment.double(), moments, rtol=1e-5, atol=1e-7)
    assert sizes[:9] == [1.0] * 9 and len(set(sizes)) > 5
    assert min(sizes) == 0.5 and max(sizes) <= 1.75
    some = torch.tensor([4, 1])
    expected = torch.stack([kept[4], kept[1]])[:, :, 2:8, 2:8]
    torch.testing.assert_close(method.image_state(some).double(), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("adaptive", [True, False])
def test_outside_of_training_the_average_is_that_of_the_present_gradient(adaptive):
    model, (x, y) = small_model(), images()
    method = METHODS.make("atas")
    method.load_parameters({"atas": {"adaptive": float(adaptive)}})
    delta = method.perturb(model, x, y, epsilon=EPSILON)
    expected = []
    for image, label in zip(x, y, strict=True):
        gradient = gradient_of(model, image, label)
        size = min(max(2 / (1 + gradient.norm().item() / 1.28), 0.5), 1.75) if adaptive else 1.0
        expected.append(into_image(image, torch.clip(size * EPSILON * gradient.sign(), -EPSILON, EPSILON)))
    torch.testing.assert_close(delta, torch.stack(expected), rtol=0, atol=1e-12)


def test_perturbations_start_afresh_every_so_many_epochs_but_for_the_last():
    method, afresh = started(small_model(), reset=3, epochs=9), []
    for epoch in range(1, 10):
        before = method.delta.clone()
        method.start_epoch(epoch, seeded(epoch))
        afresh.append(not torch.equal(before, method.delta))
    assert [epoch for epoch, new in enumerate(afresh, 1) if new] == [3, 6]


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"least": 0}, "least"),
        ({"most": 0.1}, "most"),
        ({"scale": 0}, "scale"),
        ({"momentum": 1.0}, "momentum"),
        ({"reset": 0}, "reset"),
    ],
)
def test_settings_out_of_range_are_named(settings, complaint):
    with pytest.raises(UserError, match=complaint):
        METHODS.make("atas", **settings)
