"""NuAT against singular values one by one, its attack that alternates, and its penalty over the epochs."""

import pytest
import torch
from formulas import (
    COUNT,
    EPSILON,
    SIZE,
    assert_gradients,
    images,
    into_image,
    loss_of,
    make_batch,
    normed_model,
    seeded,
    slow_cross_entropy,
    small_model,
    weight_gradients,
)

from co_probe.errors import UserError
from co_probe.methods import METHODS
from co_probe.methods.base import TrainingContext


def started(model, epochs: int, epoch: int, **settings):
    """A method at the start of an epoch of a run."""
    method = METHODS.make("nuat", **settings)
    context = TrainingContext(COUNT, SIZE, 0, 10, EPSILON, torch.device("cpu"), seeded(7), epochs=epochs)
    method.setup(model, context)
    method.start_epoch(epoch, seeded())
    return method


def slow_nuclear(matrix):
    """Sum of the square roots of the eigenvalues of the small Gram matrix."""
    return torch.linalg.eigvalsh(matrix.T @ matrix).clamp(min=1e-12).sqrt().sum()


def slow_deltas(model, x, y, rng, penalty):
    clean = model(x).detach()
    heads = torch.rand(x.shape, generator=rng, dtype=x.dtype) < 0.5
    starts = torch.stack([torch.clip(a + EPSILON / 2 * (2.0 * h - 1), 0, 1) for a, h in zip(x, heads, strict=True)])
    starts.requires_grad_()
    loss = sum(loss_of(model, a, b) for a, b in zip(starts, y, strict=True)) / len(x)
    loss = loss + penalty * slow_nuclear(model(starts) - clean) / len(x)
    (gradient,) = torch.autograd.grad(loss, starts)
    deltas = []
    for image, start, sign in zip(x, starts.detach(), gradient.sign(), strict=True):
        moved = torch.clip(start + EPSILON * sign, 0, 1) - image
        deltas.append(into_image(image, torch.clip(moved, -EPSILON, EPSILON)))
    return deltas


def test_four_steps_are_the_algorithm():
    """The penalty has a part in every second attack, and in every loss."""
    model, (x, y) = small_model(), images()
    method = started(model, 20, 6)
    penalty = 4.5 * 5 / 10
    differ = []
    for number in range(4):
        deltas = slow_deltas(model, x, y, seeded(number), penalty if number % 2 else 0)
        other = slow_deltas(model, x, y, seeded(number), 0 if number % 2 else penalty)
        differ.append(not torch.equal(torch.stack(deltas), torch.stack(other)))
        model.zero_grad()
        result = method.step(model, make_batch(x, y, seeded(number)))
        adversarial = torch.stack([a + d for a, d in zip(x, deltas, strict=True)])
        change = slow_nuclear(model(adversarial) - model(x)) / len(x)
        loss = slow_cross_entropy(model, x, y, [0] * len(x)) + penalty * change
        assert_gradients(model, weight_gradients(model, loss), 1e-7)
        assert result.loss.item() == pytest.approx(loss.item(), rel=1e-7)
        assert result.correct == (model(adversarial).argmax(1) == y).sum()
    assert all(differ)


def test_the_penalty_rises_to_the_tenth_epoch_before_the_last():
    model = small_model()
    seen = [started(model, 16, epoch).current for epoch in range(1, 17)]
    assert seen == pytest.approx([4.5 * min(epoch, 6) / 6 for epoch in range(16)])
    assert [started(model, 3, epoch, penalty=2.0).current for epoch in (1, 2, 3)] == [0, 2, 2]
    assert [started(model, 3, epoch, penalty=2.0, constant=0).current for epoch in (1, 2, 3)] == pytest.approx(
        [0, 2 / 3, 4 / 3]
    )


def test_the_first_epoch_trains_on_clean_images():
    model, (x, y) = small_model(), images()
    started(model, 30, 1).step(model, make_batch(x, y, seeded()))
    assert_gradients(model, weight_gradients(model, slow_cross_entropy(model, x, y, [0] * len(x))))


def test_the_generator_of_an_epoch_has_its_penalty():
    model, (x, y) = small_model(), images()
    other = METHODS.make("nuat")
    other.load_parameters(started(model, 20, 6).parameters())
    delta = other.perturb(model, x, y, epsilon=EPSILON, rng=seeded())
    torch.testing.assert_close(delta, torch.stack(slow_deltas(model, x, y, seeded(), 2.25)), rtol=0, atol=1e-12)


def test_attack_asks_eval_mode_and_the_rest_train_mode():
    model, (x, y), modes = normed_model().train(), images(), []
    model.register_forward_pre_hook(lambda module, inputs: modes.append((module.training, torch.is_grad_enabled())))
    started(model, 20, 6).step(model, make_batch(x.float(), y, seeded()))
    assert modes == [(True, False), (False, True), (True, True), (True, True)]
    assert model[1].num_batches_tracked == 3


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"penalty": -1.0}, "penalty"),
        ({"noise": -1.0}, "noise"),
        ({"relative_step": 0}, "relative_step"),
        ({"constant": -1}, "constant"),
    ],
)
def test_settings_out_of_range_are_named(settings, complaint):
    with pytest.raises(UserError, match=complaint):
        METHODS.make("nuat", **settings)
